"""Answers a request with billed calls to a service: one for each image or a few, several at once.

It keeps what succeeds: an image whose call failed raises that call's error when it is read.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol

from langchain_image_variation.cancellation import delay_cancellation, ignore_cancellation
from langchain_image_variation.contract import CreateImageVariationRequest, Image, ImagesResponse
from langchain_image_variation.engines.call_interrupt import CallInterrupt
from langchain_image_variation.engines.context import cancellation, progress_reporter, stop_request
from langchain_image_variation.engines.failed_images import failed_images
from langchain_image_variation.exceptions import (
    EngineError,
    EngineResponseError,
    ImageVariationError,
)
from langchain_image_variation.hosted.answer_images import (
    normalize_images,
    use_base64,
    use_data_urls,
)
from langchain_image_variation.hosted.budget import Budget
from langchain_image_variation.hosted.download import download
from langchain_image_variation.hosted.services.call_threads import Outcome, run_in_threads
from langchain_image_variation.hosted.services.job import CANCEL_SECONDS
from langchain_image_variation.hosted.services.service import Service
from langchain_image_variation.hosted.stop_errors import (
    CancelledJobError,
    RunningCallError,
    UnsentCallError,
    running_call_error,
    unsent_call_error,
)
from langchain_image_variation.http.flow import Flow

__all__ = ["MAX_CONCURRENT_CALLS", "Call", "create_images"]

MAX_CONCURRENT_CALLS = 4
"""How many calls of one request run at the same time. The services limit requests per second."""

STOP_SECONDS = 12.0
"""How long an interrupted request waits for its calls, in seconds. Replicate may take five seconds
until it accepts a job, and cancelling it may take `CANCEL_SECONDS`."""

_MAX_CREDITS = 1e6  # What is larger, or not a number, is a mistake of the service.


class Call(Protocol):
    """One billed call to a service."""

    n: int
    """The number of images that it makes."""

    def flow(self, budget: Budget) -> Flow[ImagesResponse]:
        """Make the images. They are not downloaded yet.

        Raises:
            CancelledJobError: If the request was stopped, and the call was cancelled.
            RunningCallError: If the request was stopped, and the call could not be cancelled.
        """
        ...

    def cancel_flow(self, budget: Budget) -> Flow[object] | None:
        """Stop the job that `flow` started. None if there is nothing to stop."""
        ...


def create_images(
    service: Service, request: CreateImageVariationRequest, calls: Sequence[Call], model: str
) -> ImagesResponse:
    """Make the calls of a request, at most `MAX_CONCURRENT_CALLS` at the same time.

    If the request is stopped or interrupted, no further call starts, and jobs are cancelled. Calls
    that cannot be cancelled are finished, and so are downloads. If it is cancelled, only downloads
    and conversions are finished, within `DELAY_SECONDS`.

    Args:
        service: The service to call.
        request: The request.
        calls: What to ask the service.
        model: The model that makes the images, for the response.

    Returns:
        The images in the order of the calls, each a PNG of the requested size. Reading an image
        whose call failed raises the error.

    Raises:
        BillingLimitError: If `max_billed_calls` does not allow the calls.
        CallInterrupt: If the request is interrupted and has images that are finished.
        ImageVariationError: If all calls fail: the error of the first one.
    """
    service.billed_calls.add(len(calls))
    budget = service.endpoint.new_budget()
    reporter = progress_reporter()

    def report(outcome: Outcome) -> None:
        if isinstance(outcome, ImagesResponse):
            for _ in outcome.data:
                reporter.image_finished()

    outcomes, interrupt = run_in_threads(
        [
            partial(_make, service, call, request.side, budget.share(call.n, request.n))
            for call in calls
        ],
        limit=MAX_CONCURRENT_CALLS,
        stop_seconds=STOP_SECONDS,
        report=report,
        unbegun_error=unsent_call_error(service.title),
        unended_error=running_call_error(service.title),
    )
    n_unsent = sum(isinstance(outcome, UnsentCallError) for outcome in outcomes)
    service.billed_calls.take_back(n_unsent)
    failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    if len(failures) == len(outcomes):
        try:
            raise interrupt or failures[0]
        finally:
            # The error's frames would hold these, which hold the error.
            del failures, outcomes, interrupt
    answers = [outcome for outcome in outcomes if isinstance(outcome, ImagesResponse)]
    images: list[Image] = []
    for call, outcome in zip(calls, outcomes, strict=True):
        images += _images(service.title, call, outcome)
    usage = {"billed_calls": len(calls) - n_unsent, "credits": _total_credits(answers)}
    response = ImagesResponse.model_validate(
        {"created": int(time.time()), "data": images}
        | {name: number for name, number in usage.items() if number is not None}
    )
    response.model = model
    response.note = _note(service.title, outcomes, usage["credits"])
    if request.response_format == "url":
        use_data_urls(response)
    else:
        use_base64(response)
    if interrupt is not None:
        raise CallInterrupt(response)
    return response


def _make(service: Service, call: Call, side: int, budget: Budget) -> ImagesResponse:
    if stop_request()() or cancellation()():
        raise unsent_call_error(service.title)
    try:
        return service.session.run(_flow(service, call, side, budget))
    except BaseException:
        _cancel(service, call, budget)
        raise


def _flow(service: Service, call: Call, side: int, budget: Budget) -> Flow[ImagesResponse]:
    answer = yield from call.flow(budget)
    with delay_cancellation():
        for image in answer.data:
            yield from download(
                image,
                service.endpoint,
                policy=service.result_urls,
                build_request=service.session.build_request,
                budget=budget,
                outlast_outages=True,
            )
        yield from normalize_images(answer, side, budget)
    return answer


def _cancel(service: Service, call: Call, budget: Budget) -> None:
    """Cancel the job of an abandoned call, because nobody will get its images."""
    flow = call.cancel_flow(budget.within(CANCEL_SECONDS))
    if flow is not None:
        # The job may have ended meanwhile, and the caller needs the first error.
        with suppress(ImageVariationError), ignore_cancellation():
            service.session.run(flow)


def _images(title: str, call: Call, outcome: Outcome) -> list[Image]:
    """Return the images of a call, with one that raises the error for each missing image."""
    if isinstance(outcome, ImageVariationError):
        return failed_images(call.n, outcome)
    if isinstance(outcome, Exception):
        error = EngineError(f"A call to {title} failed with {type(outcome).__name__}.")
        error.__cause__ = outcome
        return failed_images(call.n, error)
    n = len(outcome.data)
    if n == call.n:
        return outcome.data
    error = EngineResponseError(f"{title} returned only {n} of {call.n} images.")
    return outcome.data + failed_images(call.n - n, error)


def _note(title: str, outcomes: Sequence[Outcome], credits: float | None) -> str:
    """Return what a person should know about the cost."""
    sent = [outcome for outcome in outcomes if not isinstance(outcome, UnsentCallError)]
    n_cancelled = sum(isinstance(outcome, CancelledJobError) for outcome in sent)
    n_running = sum(isinstance(outcome, RunningCallError) for outcome in sent)
    n_failed = sum(isinstance(outcome, Exception) for outcome in sent) - n_cancelled - n_running
    note = f"Took {len(sent)} billed call{'s' * (len(sent) > 1)} to {title}."
    if n_failed == 1:
        note += " One of them failed, so it may not be billed."
    elif n_failed:
        note += f" {n_failed} of them failed, so they may not be billed."
    if n_cancelled == 1:
        note += " One of them was cancelled, so it may not be billed."
    elif n_cancelled:
        note += f" {n_cancelled} of them were cancelled, so they may not be billed."
    if n_running == 1:
        note += " One of them could not be stopped, so it is probably billed."
    elif n_running:
        note += f" {n_running} of them could not be stopped, so they are probably billed."
    if credits is not None:
        note += f" {title} charged {credits:,g} credits."
    return note


def _total_credits(answers: Sequence[ImagesResponse]) -> float | None:
    """Return the sum of what the answers say they cost, or None if they say nothing."""
    amounts = [(answer.model_extra or {}).get("credits") for answer in answers]
    numbers = [
        amount
        for amount in amounts
        if isinstance(amount, int | float) and not isinstance(amount, bool)
    ]
    total = sum(numbers)
    return total if numbers and 0 <= total < _MAX_CREDITS else None
