"""A server that takes pictures: its address, the key to it, and how patient the caller is."""

import os
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite

import httpx
from pydantic import SecretStr

from langchain_image_variation.contract import ImagesResponse
from langchain_image_variation.exceptions import (
    AuthenticationError,
    EngineConnectionError,
    EngineResponseError,
    EngineTimeoutError,
    ImageVariationError,
    InvalidRequestError,
    shown,
)
from langchain_image_variation.http.answer import Answer
from langchain_image_variation.http.flow import Flow, Send, Wait
from langchain_image_variation.http.retry import Retries

__all__ = ["Endpoint", "environment"]

_CONNECT_TIMEOUT = 10.0


def environment(name: str) -> str | None:
    """Return an environment variable without surrounding blanks; an empty one is unset."""
    return os.environ.get(name, "").strip() or None


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
    api_key: SecretStr | None = None

    @classmethod
    def configured(
        cls,
        *,
        base_url: str,
        api_key: str | SecretStr | None,
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
            AuthenticationError: If the key cannot be sent in a header.
        """
        key = api_key.get_secret_value() if isinstance(api_key, SecretStr) else api_key
        key = key if key is not None else environment("OPENAI_API_KEY")
        if key is not None and (not key or not _sendable(key)):
            raise AuthenticationError("api_key is empty or has a character that no header takes.")
        headers = {
            "authorization": None if key is None else f"Bearer {key}",
            "openai-organization": organization or environment("OPENAI_ORG_ID"),
            "openai-project": project or environment("OPENAI_PROJECT_ID"),
        }
        for name, value in headers.items():
            if value is not None and not _sendable(value):
                param = name.removeprefix("openai-")
                raise InvalidRequestError(f"{param} has a character no header takes.", param=param)
        if type(max_retries) is not int or max_retries < 0:
            raise InvalidRequestError(
                f"max_retries must be a whole number from 0, got {shown(max_retries)}.",
                param="max_retries",
            )
        return cls(
            base_url=_checked_url(base_url),
            headers=httpx.Headers({name: v for name, v in headers.items() if v is not None}),
            timeout=_checked_timeout(timeout),
            deadline=float("inf") if deadline is None else _positive(deadline, "deadline"),
            retries=Retries(max_retries, resend_lost),
            api_key=None if key is None else SecretStr(key),
        )

    @property
    def shown_url(self) -> str:
        """The base URL as it may be shown: without a user, a password or a query."""
        return str(self.base_url.copy_with(userinfo=b"", query=None))

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
        url = self.base_url.copy_with(path=self.base_url.path.rstrip("/") + path)
        # Stable over attempts, so that a server that knows the header makes and bills once.
        headers = self.headers.copy()
        headers["idempotency-key"] = str(uuid.uuid4())
        attempt = 0
        while True:
            files = {"image": ("image.png", picture, "image/png")}
            request = build("POST", url, headers=headers, data=form, files=files)
            answer, lost = Answer(path), False
            try:
                yield Send(request, answer, self.timeout, deadline)
                return answer.images()
            except httpx.RequestError as error:
                lost = answer.begun or isinstance(error, httpx.ReadTimeout)
                failure = self._unreachable(error, answer.begun)
            except ImageVariationError as error:
                lost = answer.begun
                failure = self._without_key(error)
            delay = self.retries.delay(failure, attempt, advised=answer.should_retry, lost=lost)
            left = deadline - time.monotonic()
            if delay is None or delay >= left:
                raise self._late(failure, delay, left)
            yield Wait(delay)
            attempt += 1

    def _unreachable(self, error: httpx.RequestError, begun: bool) -> ImageVariationError:
        host = self.base_url.host
        if begun:
            if isinstance(error, httpx.TimeoutException):
                return EngineTimeoutError(
                    f"{host} stopped in the middle of its answer. The request may have been billed."
                )
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
        if isinstance(error, httpx.TimeoutException):
            return EngineTimeoutError(f"{host} was too slow in taking the picture.")
        if isinstance(error, httpx.ConnectError):
            return EngineConnectionError(
                f"{host} cannot be reached; is the server running, and is base_url right?"
            )
        return EngineConnectionError(f"The connection to {host} broke before it had answered.")

    def _without_key(self, error: ImageVariationError) -> ImageVariationError:
        """Take the key out of a message, should the server have put it there."""
        if self.api_key is not None and len(self.api_key) > 3:
            error.message = error.message.replace(self.api_key.get_secret_value(), "…")
            error.args = (error.message,)
        return error

    def _late(
        self, failure: ImageVariationError, delay: float | None, left: float
    ) -> ImageVariationError:
        """Say so if the server's own delay is longer than what the caller allows."""
        if delay is not None and failure.retry_after is not None:
            failure.message += (
                f" The server asks to wait {failure.retry_after:,.0f} s; {max(left, 0):,.0f} s of "
                "the deadline are left."
            )
            failure.args = (failure.message,)
        return failure


def _sendable(value: str) -> bool:
    return value.isascii() and value.isprintable()


def _checked_url(base_url: str) -> httpx.URL:
    failure = InvalidRequestError(
        "base_url must be an http or https address, such as 'http://127.0.0.1:8000/v1'.",
        param="base_url",
    )
    try:
        url = httpx.URL(base_url)
    except (httpx.InvalidURL, TypeError):
        raise failure from None
    if url.scheme not in ("http", "https") or not url.host:
        raise failure
    return url


def _checked_timeout(timeout: float | httpx.Timeout | None) -> httpx.Timeout:
    if isinstance(timeout, httpx.Timeout):
        return timeout
    if timeout is None:
        return httpx.Timeout(None)
    seconds = _positive(timeout, "timeout")
    return httpx.Timeout(seconds, connect=min(seconds, _CONNECT_TIMEOUT))


def _positive(seconds: float, param: str) -> float:
    if (
        not isinstance(seconds, int | float)
        or isinstance(seconds, bool)
        or not isfinite(seconds)
        or seconds <= 0
    ):
        raise InvalidRequestError(
            f"{param} must be a positive number of seconds or None, got {shown(seconds)}.",
            param=param,
        )
    return float(seconds)
