"""The main program of a worker process: `python -m` this module.

It receives the settings and then one source after another on standard input. On standard output it
sends None when it is ready, and then the result of each source. When it receives None, it closes
its engine and exits. If the run ends without sending None, the process exits immediately, even
while it is making an image, because the next run may be waiting for the lock.
"""

import os
import queue
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO, Any

from langchain_image_variation.batch.rows import SourceRow, unexpected_error
from langchain_image_variation.batch.variation_batch import VariationBatch
from langchain_image_variation.batch.workers.process_pipe import receive, send
from langchain_image_variation.error_translation import portable_error
from langchain_image_variation.exceptions import ImageVariationError

__all__ = ["main"]


def main(lock_descriptors: Sequence[int] = ()) -> None:
    """Process sources until the run ends.

    Args:
        lock_descriptors: File descriptors that this process holds while it lives. Its own children
            do not inherit them.
    """
    # The run handles interrupts, and lets started sources finish.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
    input_pipe, output_pipe = _take_standard_streams()
    _keep_from_children([input_pipe.fileno(), output_pipe.fileno(), *lock_descriptors])
    messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive_messages, args=(input_pipe, messages), daemon=True).start()
    batch: VariationBatch = messages.get()
    send(output_pipe, None)
    restore_working_dir, process_id = _working_dir_restorer(), os.getpid()
    while (source := messages.get()) is not None:
        restore_working_dir()
        result = _process(batch, source)
        if os.getpid() != process_id:
            # The engine forked, and its child returned from the call. Only the parent answers.
            os._exit(0)
        send(output_pipe, result)
    batch.close()


def _working_dir_restorer() -> Callable[[], None]:
    """Return a function that changes back to the current folder.

    An engine may change the working directory, and source paths may be relative.
    """
    try:
        working_dir = os.getcwd()
    except OSError:
        # The folder was deleted, so no path can be relative to it.
        return lambda: None

    def restore() -> None:
        with suppress(OSError):
            os.chdir(working_dir)

    return restore


def _take_standard_streams() -> tuple[IO[bytes], IO[bytes]]:
    """Return standard input and output, and replace them for engines, which may print or read."""
    input_pipe = os.fdopen(os.dup(0), "rb")
    output_pipe = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    sys.stdin = open(0, encoding="utf-8", closefd=False)
    return input_pipe, output_pipe


def _keep_from_children(descriptors: Sequence[int]) -> None:
    """Keep processes that an engine starts from inheriting file descriptors.

    Such a process may outlive this one. The run would then wait for it to answer, and the next run
    for it to release the lock.
    """
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)

    open_descriptors = list(descriptors)

    def close_inherited() -> None:
        # Only once: a grandchild may reuse the numbers for other files.
        while open_descriptors:
            with suppress(OSError):
                os.close(open_descriptors.pop())

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=close_inherited)


def _receive_messages(input_pipe: IO[bytes], messages: "queue.SimpleQueue[Any]") -> None:
    try:
        while True:
            messages.put(receive(input_pipe))
    except BaseException:
        # The run ended. Files are written atomically, so only the engine's children are left.
        if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(0)


def _process(batch: VariationBatch, source: SourceRow) -> object:
    """Return the rows of a source, or the error that ends the run."""
    try:
        return batch.make_rows(source)
    except ImageVariationError as error:
        return portable_error(error)
    except BaseException as error:
        return [batch.error_row(source, unexpected_error(error))]


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]])
