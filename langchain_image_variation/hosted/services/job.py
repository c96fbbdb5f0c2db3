"""A job of a service: submitted, polled until it is done, and cancelled if it is given up."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, ClassVar

from langchain_image_variation.cancellation import check_cancellation
from langchain_image_variation.contract import Image, ImagesResponse
from langchain_image_variation.engines.context import stop_request
from langchain_image_variation.exceptions import (
    EngineTimeoutError,
    ImageVariationError,
    NotFoundError,
)
from langchain_image_variation.hosted.answer import Answer
from langchain_image_variation.hosted.budget import Budget
from langchain_image_variation.hosted.services.service import Service
from langchain_image_variation.hosted.stop_errors import cancelled_job_error, running_call_error
from langchain_image_variation.http.flow import Flow, Wait

__all__ = ["CANCEL_SECONDS", "Job", "check_job_id"]

CANCEL_SECONDS = 5.0
"""How many seconds an abandoned call may take to cancel its job."""

_JOB_ID = re.compile(r"[\w-]{1,100}", re.ASCII)
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 3.0  # Seconds between two polls.
_DELAY_GROWTH = 1.5
_CANCEL_SHARE = 0.1
"""The largest share of a call's time that is reserved for cancelling its job."""


def check_job_id(value: Any) -> str | None:
    """Return the ID of a job, or None if it is not one that may be part of an address."""
    return value if isinstance(value, str) and _JOB_ID.fullmatch(value) else None


class Job(ABC):
    """One billed job, which makes one image.

    Args:
        service: The service that runs it.
        model: The model, for errors.
        seed: The seed of the image.
    """

    n = 1
    cancel_method: ClassVar[str]
    """The HTTP method that cancels a job."""

    def __init__(self, service: Service, model: str, seed: int) -> None:
        self.service = service
        self.model = model
        self.path: str | None = None
        """The path of the job while it runs."""
        self._seed = seed

    @abstractmethod
    def submit(self, budget: Budget) -> Flow[Image | None]:
        """Start the job. Return its image, or set `path` and return None while the job runs."""

    @abstractmethod
    def poll(self, budget: Budget) -> Flow[Image | None]:
        """Return the image, or None while the job runs. Set `path` to None once it has ended."""

    def flow(self, budget: Budget) -> Flow[ImagesResponse]:
        """Submit the job, and wait for its image.

        Raises:
            ModelNotFoundError: If the service has no such model.
            EngineTimeoutError: If the job is not done before the deadline. Enough time is left to
                cancel it then.
            CancelledJobError: If the request was stopped, and so was the job.
            RunningCallError: If the job could not be cancelled then.
        """
        is_stopped = stop_request()
        kept_seconds = min(CANCEL_SECONDS, budget.seconds_left * _CANCEL_SHARE)
        budget = replace(budget, deadline=budget.deadline - kept_seconds)
        try:
            image = yield from self.submit(budget)
        except NotFoundError as error:
            raise self.service.model_not_found_error(self.model, error) from None
        delay = _FIRST_DELAY
        # The first answer may have come just before the image.
        while image is None and (image := (yield from self.poll(budget))) is None:
            if delay >= budget.seconds_left:
                raise EngineTimeoutError(
                    f"{self.service.title} did not finish an image before the deadline; raise "
                    "deadline. The image may have been billed."
                )
            if is_stopped():
                image = yield from self._stop(budget)
                break
            yield Wait(delay, until_stopped=True)
            delay = min(delay * _DELAY_GROWTH, _LONGEST_DELAY)
        image.set_seed(self._seed)
        return ImagesResponse(data=[image])

    def _stop(self, budget: Budget) -> Flow[Image]:
        """Cancel the job. Return its image if the job has ended meanwhile, because it is billed.

        Raises:
            CancelledJobError: If the job was cancelled.
            RunningCallError: If it could not be cancelled.
        """
        budget = budget.within(CANCEL_SECONDS)
        make_error: Callable[[str], ImageVariationError] = cancelled_job_error
        try:
            yield from self._request_cancellation(budget)
        except ImageVariationError:
            make_error = running_call_error
        image: Image | None = None
        # A job that was cancelled may have a state that is an error.
        with suppress(ImageVariationError):
            image = yield from self.poll(budget)
        if image is not None:
            return image
        # If nobody waits for the answer anymore, nothing was sent just now, and the caller cancels.
        check_cancellation()
        self.path = None
        raise make_error(self.service.title)

    def cancel_flow(self, budget: Budget) -> Flow[object] | None:
        """Cancel the job, unless it has ended or was never accepted."""
        if self.path is None:
            return None
        return self._request_cancellation(budget)

    def _request_cancellation(self, budget: Budget) -> Flow[object]:
        return self.service.send(
            self.cancel_method, f"{self.path}/cancel", Answer.content, budget, is_free=True
        )
