"""Calls a service once for each image, or once for a few images, with several calls at once.

The engines `fal`, `recraft` and `replicate` use this. It keeps what succeeds: an image whose call
failed raises that call's error when it is read.
"""

import copy
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, Self, TypeVar

import httpx
from pydantic import SecretStr

from langchain_image_variation.cancellation import ignore_cancellation
from langchain_image_variation.contract import CreateImageVariationRequest, Image, ImagesResponse
from langchain_image_variation.engines.context import cancellation, progress_reporter
from langchain_image_variation.engines.options import check_seed
from langchain_image_variation.exceptions import (
    AuthenticationError,
    BillingLimitError,
    EngineError,
    EngineResponseError,
    ImageVariationError,
    InvalidRequestError,
    ModelNotFoundError,
    NotFoundError,
)
from langchain_image_variation.hosted import settings
from langchain_image_variation.hosted.answer import Answer
from langchain_image_variation.hosted.answer_images import (
    normalize_images,
    use_base64,
    use_data_urls,
)
from langchain_image_variation.hosted.budget import Budget
from langchain_image_variation.hosted.call_threads import Outcome, run_in_threads
from langchain_image_variation.hosted.download import download
from langchain_image_variation.hosted.endpoint import Endpoint
from langchain_image_variation.hosted.session import Session
from langchain_image_variation.http.flow import Flow
from langchain_image_variation.http.url_policy import URLPolicy
from langchain_image_variation.numbers import check_whole_number

__all__ = [
    "CANCEL_SECONDS",
    "MAX_CONCURRENT_CALLS",
    "BilledCalls",
    "Call",
    "Service",
    "ServiceEngine",
]

T = TypeVar("T")

MAX_CONCURRENT_CALLS = 4
"""How many calls of one request run at the same time. The services limit requests per second."""

CANCEL_SECONDS = 5.0
"""How many seconds an abandoned call may take to cancel its job."""

STOP_SECONDS = 12.0
"""How long an interrupted request waits for its calls, in seconds. Replicate may take five seconds
until it accepts a job, and cancelling it may take `CANCEL_SECONDS`."""


_MAX_CREDITS = 1e6  # What is larger, or not a number, is a mistake of the service.


class Call(Protocol):
    """One billed call to a service."""

    n: int
    """The number of images that it makes."""

    def flow(self, budget: Budget) -> Flow[ImagesResponse]:
        """Make the images. They are not downloaded yet."""
        ...

    def cancel_flow(self, budget: Budget) -> Flow[object] | None:
        """Stop the job that `flow` started. None if there is nothing to stop."""
        ...


class BilledCalls:
    """Counts the billed calls of an engine and its copies, and refuses calls above a limit."""

    def __init__(self, limit: int | None) -> None:
        self.limit = (
            None if limit is None else check_whole_number("max_billed_calls", limit, 1, 2**40)
        )
        self._lock = threading.Lock()
        self._count = 0

    def add(self, number: int) -> None:
        """Count calls that are about to be made.

        Raises:
            BillingLimitError: If they would exceed the limit. None of them is counted then.
        """
        with self._lock:
            if self.limit is not None and self._count + number > self.limit:
                calls = "1 call" if number == 1 else f"{number} calls"
                raise BillingLimitError(
                    f"The request needs {calls}, and {self._count} of the {self.limit:,} that "
                    "max_billed_calls allows are used. Nothing was sent. Raise max_billed_calls."
                )
            self._count += number


@dataclass(frozen=True, slots=True)
class Service:
    """A service, and how this process uses it.

    Args:
        title: What errors call it.
        default_url: Its real address, which `endpoint` may replace.
        endpoint: Its address, its key and its limits.
        session: The connections.
        result_urls: The policy for downloads of results.
        billed_calls: Counts the calls.
    """

    title: str
    default_url: str
    endpoint: Endpoint
    session: Session
    result_urls: URLPolicy
    billed_calls: BilledCalls

    @classmethod
    def open(
        cls,
        title: str,
        *,
        key_variable: str,
        key_scheme: str = "Bearer",
        default_url: str,
        base_url: str,
        api_key: str | SecretStr | None,
        max_billed_calls: int | None,
        timeout: float | httpx.Timeout | None,
        deadline: float | None,
        max_answer_bytes: int,
        max_retries: int,
        resend_lost: bool,
        result_urls: URLPolicy | None,
        http_client: httpx.Client | None,
    ) -> "Service":
        """Return a service with new connections, or with those of `http_client`.

        `title` is what errors call the service, `key_variable` the environment variable of its key,
        `key_scheme` the scheme of its authorization header, and `default_url` its real address. For
        the rest, see the engines.

        Raises:
            AuthenticationError: If there is no key, or a header cannot carry it.
            InvalidRequestError: If a setting is out of range; `param` names it.
        """
        api_key = settings.check_key(api_key, key_variable)
        if not api_key:
            raise AuthenticationError(f"{title} needs a key: pass api_key or set {key_variable}.")
        if result_urls is not None and not isinstance(result_urls, URLPolicy):
            raise InvalidRequestError("result_urls must be a URLPolicy.", param="result_urls")
        endpoint = Endpoint.from_settings(
            base_url=base_url,
            api_key=SecretStr(""),
            organization="",
            project="",
            timeout=timeout,
            deadline=deadline,
            max_answer_bytes=max_answer_bytes,
            max_retries=max_retries,
            resend_lost=resend_lost,
            default_headers={
                "authorization": SecretStr(f"{key_scheme} {api_key.get_secret_value()}")
            },
            key_variable=key_variable,
            address_hint=f"The service is at {default_url}.",
            # None of the services documents that it knows the header.
            honors_idempotency_key=False,
        )
        return cls(
            title,
            default_url,
            endpoint,
            Session(endpoint.base_url, http_client),
            result_urls or URLPolicy(hosts=None),
            BilledCalls(max_billed_calls),
        )

    def call(
        self,
        method: str,
        path: str,
        read: Callable[[Answer], T],
        budget: Budget,
        **options: Any,
    ) -> Flow[T]:
        """Send a request. See `Endpoint.call`."""
        return self.endpoint.call(
            method, path, read, build_request=self.session.build_request, budget=budget, **options
        )

    def model_not_found_error(self, model: str, error: NotFoundError) -> ModelNotFoundError:
        """Return the error for a 404 to a request that names a model."""
        message = f"{self.title} has no model {model!r}."
        if self.endpoint.display_url.rstrip("/") != self.default_url:
            message += f" Or is base_url wrong? {self.endpoint.address_hint}"
        failure = ModelNotFoundError(message)
        failure.request_id = error.request_id
        return failure

    def submit(self, path: str, budget: Budget, **options: Any) -> Flow[Answer]:
        """Start a job, and wait for the answer even if the call is cancelled meanwhile."""
        return self.call("POST", path, Answer.as_json, budget, keep_waiting=True, **options)

    def poll(self, path: str, budget: Budget) -> Flow[Answer]:
        """Ask for the state or the result of a job, until the service answers or time is up.

        The job is paid for and runs on, so an outage of the service must not lose it.
        """
        return self.call("GET", path, Answer.as_json, budget, is_free=True, outlast_outages=True)

    def create(
        self, request: CreateImageVariationRequest, calls: Sequence[Call], model: str
    ) -> ImagesResponse:
        """Make the calls of a request, at most `MAX_CONCURRENT_CALLS` at the same time.

        Args:
            request: The request.
            calls: What to ask the service.
            model: The model that makes the images, for the response.

        Returns:
            The images in the order of the calls, each a PNG of the requested size. Reading an image
            whose call failed raises the error.

        Raises:
            BillingLimitError: If `max_billed_calls` does not allow the calls.
            ImageVariationError: If all calls fail: the error of the first one.
        """
        self.billed_calls.add(len(calls))
        budget = self.endpoint.new_budget()
        reporter = progress_reporter()

        def report(outcome: Outcome) -> None:
            if isinstance(outcome, ImagesResponse):
                for _ in outcome.data:
                    reporter.image_finished()

        outcomes = run_in_threads(
            [
                partial(self._make, call, request.side, budget.share(call.n, request.n))
                for call in calls
            ],
            limit=MAX_CONCURRENT_CALLS,
            stop_seconds=STOP_SECONDS,
            report=report,
        )
        failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        if len(failures) == len(outcomes):
            raise failures[0]
        answers = [outcome for outcome in outcomes if isinstance(outcome, ImagesResponse)]
        images: list[Image] = []
        for call, outcome in zip(calls, outcomes, strict=True):
            images += self._images(call, outcome)
        usage = {"billed_calls": len(calls), "credits": _total_credits(answers)}
        response = ImagesResponse.model_validate(
            {"created": int(time.time()), "data": images}
            | {name: number for name, number in usage.items() if number is not None}
        )
        response.model = model
        response.note = self._note(len(calls), len(failures), usage["credits"])
        if request.response_format == "url":
            use_data_urls(response)
        else:
            use_base64(response)
        return response

    def close(self) -> None:
        """Close the connections. An `http_client` that the caller passed stays open."""
        self.session.close()

    def _make(self, call: Call, side: int, budget: Budget) -> ImagesResponse:
        try:
            return self.session.run(self._flow(call, side, budget), cancellation())
        except BaseException:
            self._cancel(call, budget)
            raise

    def _flow(self, call: Call, side: int, budget: Budget) -> Flow[ImagesResponse]:
        answer = yield from call.flow(budget)
        for image in answer.data:
            yield from download(
                image,
                self.endpoint,
                policy=self.result_urls,
                build_request=self.session.build_request,
                budget=budget,
                outlast_outages=True,
            )
        yield from normalize_images(answer, side, budget)
        return answer

    def _cancel(self, call: Call, budget: Budget) -> None:
        """Cancel the job of an abandoned call, because nobody will get its images."""
        deadline = min(budget.deadline, time.monotonic() + CANCEL_SECONDS)
        flow = call.cancel_flow(replace(budget, deadline=deadline))
        if flow is not None:
            # The job may have ended meanwhile, and the caller needs the first error.
            with suppress(ImageVariationError), ignore_cancellation():
                self.session.run(flow, cancellation())

    def _images(self, call: Call, outcome: Outcome) -> list[Image]:
        """Return the images of a call, with one that raises the error for each missing image."""
        if isinstance(outcome, ImageVariationError):
            return _failed_images(call.n, outcome)
        if isinstance(outcome, Exception):
            error = EngineError(f"A call to {self.title} failed with {type(outcome).__name__}.")
            error.__cause__ = outcome
            return _failed_images(call.n, error)
        n = len(outcome.data)
        if n == call.n:
            return outcome.data
        error = EngineResponseError(f"{self.title} returned only {n} of {call.n} images.")
        return outcome.data + _failed_images(call.n - n, error)

    def _note(self, n_calls: int, n_failures: int, credits: float | None) -> str:
        """Return what a person should know about the cost."""
        calls = "1 billed call" if n_calls == 1 else f"{n_calls} billed calls"
        note = f"Took {calls} to {self.title}."
        if n_failures == 1:
            note += " One of them failed, so it may not be billed."
        elif n_failures:
            note += f" {n_failures} of them failed, so they may not be billed."
        if credits is not None:
            note += f" {self.title} charged {credits:,g} credits."
        return note


class ServiceEngine:
    """The base class of the engines for services. Each defines its own `create_variation`."""

    variation_kind = "new images of the same subject"
    """What the variations are, for a model that reads the results."""
    seed: int | None
    """The seed of the first image, or None."""
    _service: Service

    def with_options(self, *, seed: int | None = None) -> Self:
        """Return a copy with another seed, which shares the connections. None keeps the seed.

        Raises:
            InvalidRequestError: If the seed is out of range.
        """
        engine = copy.copy(self)
        if seed is not None:
            engine.seed = check_seed(seed)
        return engine

    @property
    def base_url(self) -> str:
        """The service's address."""
        return self._service.endpoint.display_url

    def close(self) -> None:
        """Close the connections. An `http_client` that you passed stays open.

        A call that is running fails, and its jobs at the service go on.
        """
        self._service.close()


def _failed_images(n: int, error: ImageVariationError) -> list[Image]:
    images = [Image() for _ in range(n)]
    for image in images:
        image.set_failure(error)
    return images


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
