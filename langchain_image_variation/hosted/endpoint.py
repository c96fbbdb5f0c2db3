"""A server that takes images: its address, its key, and how requests are posted to it."""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar

import httpx
from pydantic import SecretStr

from langchain_image_variation.cancellation import stop_request
from langchain_image_variation.contract import ImagesResponse
from langchain_image_variation.engines.fingerprint import digest
from langchain_image_variation.engines.options import check_switch
from langchain_image_variation.exceptions import (
    EngineConnectionError,
    EngineResponseError,
    EngineTimeoutError,
    ImageVariationError,
)
from langchain_image_variation.hosted import settings
from langchain_image_variation.hosted.answer import Answer
from langchain_image_variation.hosted.budget import Budget
from langchain_image_variation.hosted.headers import (
    HeaderValues,
    is_secret,
    reveal,
)
from langchain_image_variation.hosted.parameters import (
    FormFields,
    Parameters,
    flatten,
)
from langchain_image_variation.hosted.retry import Retries
from langchain_image_variation.http.flow import Flow, Send, Wait
from langchain_image_variation.http.proxy import PROXY_EXTENSION
from langchain_image_variation.http.tls import describe_tls_failure
from langchain_image_variation.numbers import check_seconds, check_whole_number

__all__ = ["Endpoint"]

T = TypeVar("T")

_MAX_RETRIES = 1000
_OWN_FAILURES = (500, 501, 503)
"""The statuses with which a server itself reports a failure. After any other 5xx, a gateway may
have lost its answer."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and how requests are posted."""

    base_url: httpx.URL
    api_key: SecretStr
    """Empty if the server needs none."""
    organization: str
    """The header `OpenAI-Organization`. Empty if it is not sent."""
    project: str
    """The header `OpenAI-Project`. Empty if it is not sent."""
    default_headers: HeaderValues
    """Sent with every request. They take precedence over those made of the settings above."""
    default_query: Parameters = field(repr=False)
    """Added to the query of every URL."""
    timeout: httpx.Timeout
    """For each attempt."""
    deadline: float
    """Seconds for the whole call: all attempts, the waits between them, and the downloads."""
    max_answer_bytes: int
    """The maximum total bytes of a call's answers and downloads."""
    retries: Retries
    key_variable: str = "OPENAI_API_KEY"
    """The environment variable of the key, for errors."""
    address_hint: str = "It usually ends in /v1."
    """A sentence about `base_url`, for errors."""
    service_host: str | None = None
    """The host of the service that the engine is for. The user is not the one who runs it, so if it
    cannot be reached, the cause is the network."""
    honors_idempotency_key: bool = True
    """Whether the server may recognize a request that is sent again, and bill it only once."""

    @classmethod
    def from_settings(
        cls,
        *,
        base_url: str | httpx.URL,
        api_key: SecretStr,
        organization: str | None,
        project: str | None,
        timeout: float | httpx.Timeout | None,
        deadline: float | None,
        max_answer_bytes: int,
        max_retries: int,
        resend_lost: bool,
        default_headers: HeaderValues | None = None,
        default_query: Parameters | None = None,
        key_variable: str = "OPENAI_API_KEY",
        address_hint: str = "It usually ends in /v1.",
        service_host: str | None = None,
        honors_idempotency_key: bool = True,
    ) -> "Endpoint":
        """Return an endpoint with these settings, after checking them.

        The caller has already checked the headers and the query.

        The environment fills in an organization or project that is None.

        Raises:
            InvalidRequestError: If a setting is out of range; `param` names it.
        """
        return cls(
            base_url=settings.check_base_url(base_url),
            api_key=api_key,
            organization=settings.check_header("organization", organization, "OPENAI_ORG_ID"),
            project=settings.check_header("project", project, "OPENAI_PROJECT_ID"),
            default_headers=default_headers or {},
            default_query=default_query or {},
            timeout=settings.check_timeout(timeout),
            deadline=(float("inf") if deadline is None else check_seconds("deadline", deadline)),
            max_answer_bytes=check_whole_number("max_answer_bytes", max_answer_bytes, 1, 2**40),
            retries=Retries(
                check_whole_number("max_retries", max_retries, 0, _MAX_RETRIES),
                check_switch("resend_lost", resend_lost),
            ),
            key_variable=key_variable,
            address_hint=address_hint,
            service_host=service_host,
            honors_idempotency_key=honors_idempotency_key,
        )

    @property
    def display_url(self) -> str:
        """The base URL without its query, which may contain a key."""
        return str(self.base_url.copy_with(query=None))

    @property
    def deadline_setting(self) -> float | None:
        """The deadline as a setting, where None means no limit."""
        return None if self.deadline == float("inf") else self.deadline

    @property
    def fingerprint(self) -> str:
        """A hash of the address, the organization, the project and the headers, but of no key."""
        headers = {
            name: value for name, value in self.default_headers.items() if not is_secret(name)
        }
        return digest(
            base_url=str(self.base_url),
            headers=reveal(headers),
            organization=self.organization,
            project=self.project,
            query=flatten(self.default_query),
        )

    @property
    def headers(self) -> HeaderValues:
        """The headers of every request."""
        headers = {
            "openai-organization": SecretStr(self.organization),
            "openai-project": SecretStr(self.project),
        }
        if self.api_key:
            headers["authorization"] = SecretStr(f"Bearer {self.api_key.get_secret_value()}")
        return {name: value for name, value in headers.items() if value} | dict(
            self.default_headers
        )

    def new_budget(self) -> Budget:
        """Return the time and bytes of a call that starts now."""
        return Budget(time.monotonic() + self.deadline, self.max_answer_bytes)

    def post(
        self,
        path: str,
        form: FormFields,
        image: bytes,
        *,
        n: int,
        build_request: Callable[..., httpx.Request],
        budget: Budget,
    ) -> Flow[ImagesResponse]:
        """Post an image with a form, retry as `Retries` decides, and return the server's answer.

        Args:
            path: What to add to the base URL.
            form: The fields other than `image`, in the order to send them.
            image: The bytes of a PNG file.
            n: The number of images that the form asks for. The answer has at most as many.
            build_request: `build_request` of the session.
            budget: The time and bytes that the call has left.

        Raises:
            ImageVariationError: See `ImageVariationClient.create_variation`.
        """
        return self.send(
            "POST",
            path,
            Answer.images,
            n=n,
            build_request=build_request,
            budget=budget,
            data=form,
            files={"image": ("image.png", image, "image/png")},
        )

    def send(
        self,
        method: str,
        path: str,
        read: Callable[[Answer], T],
        *,
        build_request: Callable[..., httpx.Request],
        budget: Budget,
        n: int = 1,
        headers: HeaderValues | None = None,
        is_free: bool = False,
        outlast_outages: bool = False,
        keep_waiting: bool = False,
        **body: object,
    ) -> Flow[T]:
        """Send a request, retry as `Retries` decides, and return what `read` makes of the answer.

        Args:
            method: The HTTP method.
            path: What to add to the base URL.
            read: Returns the result of an answer, or raises its error.
            build_request: `build_request` of the session.
            budget: The time and bytes that the call has left.
            n: The number of images that the request asks for.
            headers: Sent in addition to the endpoint's own.
            is_free: Whether repeating the request costs nothing. It is then sent again even if the
                answer was lost.
            outlast_outages: Whether to retry until the deadline, instead of `max_retries` times,
                while the server cannot be reached, is busy or fails.
            keep_waiting: See `Send`.
            **body: The body, as `httpx.Client.build_request` takes it.

        Raises:
            ImageVariationError: See `ImageVariationClient.create_variation`.
        """
        all_headers = {
            # Equal in all attempts, so that a server that knows the header bills once.
            "idempotency-key": SecretStr(str(uuid.uuid4())),
            # A compressed body of a few bytes may expand to any length, and base64 gains nothing.
            "accept-encoding": SecretStr("identity"),
            **self.headers,
            **(headers or {}),
        }
        url = self._url(path)
        attempt = 0
        while True:
            request = build_request(method, url, headers=reveal(all_headers), **body)
            answer = Answer(
                path,
                all_headers,
                url,
                n=n,
                budget=budget,
                key_variable=self.key_variable,
                address_hint=self.address_hint,
            )
            try:
                yield Send(
                    request, answer, self.timeout, budget.deadline, keep_waiting=keep_waiting
                )
                return read(answer)
            except (httpx.HTTPError, RuntimeError, UnicodeError) as error:
                answer_lost = answer.is_success or isinstance(error, self._losses)
                failure = self._connection_error(
                    error, answer.is_success, request.extensions.get(PROXY_EXTENSION)
                )
                may_retry = is_outage = isinstance(error, httpx.RequestError)
            except ImageVariationError as error:
                answer_lost = answer.is_success or (
                    error.status_code >= 500
                    and error.status_code not in _OWN_FAILURES
                    and not self.honors_idempotency_key
                )
                failure, may_retry, is_outage = error, True, not answer.is_success
            delay = self.retries.delay(
                failure,
                attempt,
                server_advice=answer.retry_advice,
                answer_lost=answer_lost and not is_free,
                until_deadline=outlast_outages and is_outage,
            )
            seconds_left = budget.seconds_left
            try:
                if delay is None or delay >= seconds_left or not may_retry:
                    raise _add_missed_delay(failure, delay, seconds_left)
                yield Wait(delay, until_stopped=not is_free)
                if not is_free and stop_request()():
                    raise failure
            finally:
                # The frames of the error would hold it.
                del failure
            attempt += 1

    @property
    def _losses(self) -> tuple[type[httpx.TransportError], ...]:
        """The errors after which the server may have made the images without an answer."""
        if self.honors_idempotency_key:
            return (httpx.ReadTimeout,)
        return (httpx.ReadTimeout, httpx.ReadError, httpx.RemoteProtocolError)

    def _url(self, path: str) -> httpx.URL:
        url = _append_path(self.base_url, path)
        if not self.default_query:
            return url  # Merging would encode its query again.
        return url.copy_merge_params(tuple(flatten(self.default_query)))

    def _connection_error(
        self, error: Exception, is_success: bool, proxy_variable: str | None
    ) -> ImageVariationError:
        """Return our error for an error of httpx. It says whether the request may have been billed.

        Args:
            error: The error of httpx.
            is_success: Whether the error came after a success status.
            proxy_variable: The environment variable that names the proxy, if there is one.
        """
        host = self.base_url.host
        is_timeout = isinstance(error, httpx.TimeoutException)
        if is_success and is_timeout:
            return EngineTimeoutError(
                f"{host} stopped in the middle of its answer. The request may have been billed."
            )
        if is_success:
            return EngineResponseError(
                f"The answer of {host} is cut short or garbled. The request may have been billed."
            )
        if isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout):
            return EngineTimeoutError(
                f"{host} took too long to accept a connection; try again later."
            )
        if isinstance(error, httpx.ReadTimeout):
            return EngineTimeoutError(
                f"{host} did not answer in time; raise timeout or deadline, or ask for fewer or "
                "smaller images. The request may have been billed."
            )
        if is_timeout:
            return EngineTimeoutError(f"{host} took too long to receive the image; raise timeout.")
        if isinstance(error, httpx.ProxyError):
            place = proxy_variable or "http_client"
            return EngineConnectionError(
                f"The proxy in {place} does not connect to {host}; check its address, user name "
                "and password."
            )
        if isinstance(error, httpx.ConnectError):
            reason = describe_tls_failure(error)
            if reason is None and proxy_variable is not None:
                reason = (
                    f"cannot be reached through the proxy in {proxy_variable}; is that address "
                    "right, and is the proxy running?"
                )
            if reason is None and host == self.service_host:
                reason = "cannot be reached. Check the network, and the proxy in HTTPS_PROXY."
            return EngineConnectionError(f"{host} {reason or _NOT_REACHED}")
        if isinstance(error, httpx.RequestError):
            return EngineConnectionError(
                f"The connection to {host} broke before it answered. The request may have been "
                "billed."
            )
        return EngineConnectionError(
            f"The request could not be sent to {host}; is the client closed, or did a hook of "
            f"http_client fail ({type(error).__name__})?"
        )


_NOT_REACHED = "cannot be reached; is the server running, and is base_url right?"


# httpx needs longer to build a URL than we need for the rest of a request.
@lru_cache(maxsize=64)
def _append_path(base_url: httpx.URL, path: str) -> httpx.URL:
    base, question, query = base_url.raw_path.partition(b"?")
    return base_url.copy_with(raw_path=base.rstrip(b"/") + path.encode() + question + query)


def _add_missed_delay(
    failure: ImageVariationError, delay: float | None, seconds_left: float
) -> ImageVariationError:
    """Add to the message if the server asked for a longer wait than the deadline allows."""
    if delay is not None and delay >= seconds_left and failure.retry_after is not None:
        failure.message += (
            f" The server asks to wait {failure.retry_after:,.0f} s, but only "
            f"{max(seconds_left, 0):,.0f} s of the deadline are left."
        )
        failure.args = (failure.message,)
    return failure
