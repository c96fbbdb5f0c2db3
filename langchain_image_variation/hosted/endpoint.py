"""A server that takes pictures: its address, the key to it, and how patient the caller is."""

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import httpx
from pydantic import SecretStr

from langchain_image_variation.contract import ImagesResponse
from langchain_image_variation.engines.fingerprint import digest
from langchain_image_variation.exceptions import (
    EngineConnectionError,
    EngineResponseError,
    EngineTimeoutError,
    ImageVariationError,
)
from langchain_image_variation.hosted import settings
from langchain_image_variation.hosted.answer import Answer
from langchain_image_variation.hosted.retry import Retries
from langchain_image_variation.http.flow import Flow, Send, Wait
from langchain_image_variation.numbers import check_seconds, check_whole_number

__all__ = ["Endpoint"]

_MAX_RETRIES = 1000


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests are posted, and how."""

    base_url: httpx.URL
    headers: httpx.Headers = field(repr=False)
    """Sent with each request. Unlike a dict, they do not show the key when printed."""
    timeout: httpx.Timeout
    deadline: float
    """Seconds for everything: all attempts, the waits between them, and the downloads."""
    retries: Retries
    api_key: SecretStr
    """An empty one is none."""

    @classmethod
    def configured(
        cls,
        *,
        base_url: str,
        api_key: SecretStr,
        organization: str | None,
        project: str | None,
        timeout: float | httpx.Timeout | None,
        deadline: float | None,
        max_retries: int,
        resend_lost: bool,
    ) -> "Endpoint":
        """Return the endpoint that settings describe; the environment fills what is None.

        Raises:
            InvalidRequestError: If a setting is out of range; `param` names it.
        """
        headers = httpx.Headers()
        for name, text in (
            (
                "openai-organization",
                settings.header_text("organization", organization, "OPENAI_ORG_ID"),
            ),
            ("openai-project", settings.header_text("project", project, "OPENAI_PROJECT_ID")),
        ):
            if text is not None:
                headers[name] = text
        if api_key:
            headers["authorization"] = f"Bearer {api_key.get_secret_value()}"
        return cls(
            base_url=settings.base_url(base_url),
            headers=headers,
            timeout=settings.request_timeout(timeout),
            deadline=(float("inf") if deadline is None else check_seconds("deadline", deadline)),
            retries=Retries(
                check_whole_number("max_retries", max_retries, 0, _MAX_RETRIES),
                settings.flag("resend_lost", resend_lost),
            ),
            api_key=api_key,
        )

    @property
    def shown_url(self) -> str:
        """The base URL as it may be shown: without a query, which may hold a key."""
        return str(self.base_url.copy_with(query=None))

    @property
    def fingerprint(self) -> str:
        """A hash of the whole address, and of organisation and project, but not of the key."""
        headers = {name: text for name, text in self.headers.items() if name != "authorization"}
        return digest(base_url=str(self.base_url), headers=headers)

    def post(
        self,
        path: str,
        form: Mapping[str, str],
        picture: bytes,
        *,
        build: Callable[..., httpx.Request],
        deadline: float,
    ) -> Flow[ImagesResponse]:
        """Post a picture with a form, as often as it takes, and return the pictures made of it.

        Args:
            path: What to add to the base URL.
            form: The fields beside `image`, in the order to send them.
            picture: The bytes of a PNG file.
            build: `build_request` of the client that will send it.
            deadline: In seconds of `time.monotonic`.

        Raises:
            ImageVariationError: If there is no success; see `ImageVariationClient`.
        """
        base, question, query = self.base_url.raw_path.partition(b"?")
        raw_path = base.rstrip(b"/") + path.encode() + question + query
        url = self.base_url.copy_with(raw_path=raw_path)
        headers = self.headers.copy()
        # Stable over attempts, so that a server that knows the header makes and bills once.
        headers["idempotency-key"] = str(uuid.uuid4())
        # A few bytes compressed can be any number of bytes, and base64 hardly compresses.
        headers["accept-encoding"] = "identity"
        attempt = 0
        while True:
            files = {"image": ("image.png", picture, "image/png")}
            request = build("POST", url, headers=headers, data=form, files=files)
            answer, lost = Answer(path, self.api_key), False
            try:
                yield Send(request, answer, self.timeout, deadline)
                return answer.images()
            except (httpx.HTTPError, RuntimeError, UnicodeError) as error:
                lost = answer.begun or isinstance(error, httpx.ReadTimeout)
                failure = self._unreachable(error, answer.begun)
                again = isinstance(error, httpx.RequestError)
            except ImageVariationError as error:
                lost, failure, again = answer.begun, error, True
            delay = self.retries.delay(failure, attempt, advised=answer.should_retry, lost=lost)
            left = deadline - time.monotonic()
            if delay is None or delay >= left or not again:
                raise _late(failure, delay, left)
            yield Wait(delay)
            attempt += 1

    def _unreachable(self, error: Exception, begun: bool) -> ImageVariationError:
        """Return what an error of httpx means: where it was, and whether it may have cost."""
        host = self.base_url.host
        slow = isinstance(error, httpx.TimeoutException)
        if begun and slow:
            return EngineTimeoutError(
                f"{host} stopped in the middle of its answer. The request may have been billed."
            )
        if begun:
            return EngineResponseError(
                f"The answer of {host} is cut short or garbled. The request may have been billed."
            )
        if isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout):
            return EngineTimeoutError(f"{host} took too long to accept a connection.")
        if isinstance(error, httpx.ReadTimeout):
            return EngineTimeoutError(
                f"{host} did not answer in time; raise timeout or deadline, or ask for less. The "
                "request may have been billed."
            )
        if slow:
            return EngineTimeoutError(f"{host} was too slow in taking the picture.")
        if isinstance(error, httpx.ConnectError):
            return EngineConnectionError(
                f"{host} cannot be reached; is the server running, and is base_url right?"
            )
        if isinstance(error, httpx.RequestError):
            return EngineConnectionError(
                f"The connection to {host} broke before it had answered. The request may have been "
                "billed."
            )
        return EngineConnectionError(
            f"The request could not be sent to {host}; is the client closed, or does a hook of "
            f"http_client fail ({type(error).__name__})?"
        )


def _late(failure: ImageVariationError, delay: float | None, left: float) -> ImageVariationError:
    """Say so if the server's own delay is longer than what the caller allows."""
    if delay is not None and delay >= left and failure.retry_after is not None:
        failure.message += (
            f" The server asks to wait {failure.retry_after:,.0f} s; {max(left, 0):,.0f} s of the "
            "deadline are left."
        )
        failure.args = (failure.message,)
    return failure
