"""Saves the images of a hosted engine, even if nobody waits for them, because they are paid for."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextvars import copy_context

from langchain_image_variation.agents.call_result import CallResult, save_result
from langchain_image_variation.agents.failure_log import log_failure, log_unawaited_images
from langchain_image_variation.agents.prepared_call import PreparedCall
from langchain_image_variation.cancellation import cancellation, ignore_cancellation
from langchain_image_variation.contract import ImagesResponse

__all__ = ["save_paid_images"]


def save_paid_images(
    call: PreparedCall, response: ImagesResponse, *, is_interrupted: bool = False
) -> CallResult:
    """Do what `save_result` does as one step, which neither a cancellation nor an interrupt ends.

    If the call was cancelled or interrupted, the log says what was saved, or why nothing was.

    Args:
        call: The call.
        response: The response of the engine.
        is_interrupted: Whether the call was interrupted before.

    Raises:
        ImageVariationError: See `save_result`.
        KeyboardInterrupt: If an interrupt came meanwhile. The images are then saved. A second
            interrupt is raised at once.
    """
    is_cancelled, interrupt_event = cancellation(), threading.Event()
    if is_interrupted:
        interrupt_event.set()

    def is_unawaited() -> bool:
        return is_cancelled() or interrupt_event.is_set()

    def save() -> CallResult:
        try:
            with ignore_cancellation():
                result = save_result(call, response, is_awaited=not is_unawaited())
        except Exception as error:
            if is_unawaited():
                log_failure(error, call.conversation_folder)
            raise
        if is_unawaited():
            handles = [image["handle"] for image in result.artifact["images"]]
            log_unawaited_images(handles, call.conversation_folder)
        return result

    # Only the main thread is interrupted.
    if threading.current_thread() is threading.main_thread():
        return _run_in_thread(save, interrupt_event)
    return save()


def _run_in_thread(
    function: Callable[[], CallResult], interrupt_event: threading.Event
) -> CallResult:
    """Run a function in a thread. If an interrupt comes, set the event, wait, and raise it."""
    future: Future[CallResult] = Future()
    lock = threading.Lock()

    def run_once() -> None:
        if lock.acquire(blocking=False):
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

    try:
        threading.Thread(target=copy_context().run, args=(run_once,)).start()
        return future.result()
    except KeyboardInterrupt:
        interrupt_event.set()
        # It may have come before the thread was there.
        run_once()
        wait([future])
        raise
