"""Reads a server's answer, as an `ImagesResponse` or as the right error."""

import re
import time
from typing import Any, Self

import httpx

from langchain_image_variation.contract import VARIATIONS_PATH, ImagesResponse
from langchain_image_variation.error_response import ErrorResponse
from langchain_image_variation.exceptions import (
    EndpointRemovedError,
    EngineResponseError,
    ImageVariationError,
    NotFoundError,
    OutputError,
)
from langchain_image_variation.hosted.budget import Budget
from langchain_image_variation.hosted.headers import HeaderValues, collect_secrets
from langchain_image_variation.hosted.json_text import (
    MAX_FRAME_BYTES,
    FrameTooLongError,
    JSONText,
)
from langchain_image_variation.hosted.retry import read_retry_advice, retry_after

__all__ = ["MAX_ERROR_BYTES", "Answer"]

MAX_ERROR_BYTES = 64 * 1024
"""The maximum number of bytes of an error to read. Its message is cut to 500 characters."""

_MAX_MESSAGE = 500
_MIN_SECRET = 4
_KEY = re.compile(r"\b(sk-|Bearer )[\w.*-]{6,}")
_BASE64 = re.compile(r"[A-Za-z0-9+/=_-]{80,}")


class Answer:
    """Receives the answer to a request: its content, its images, or an error.

    Args:
        path: The path that was added to the base URL.
        sent_headers: The headers of the request. Errors never show a key from them, even if the
            server repeats it.
        url: The URL of the request. Errors never show a key from its query either.
        n: The number of images that the request asks for.
        budget: Limits the length of the answer. A successful answer counts against it.
        key_variable: The environment variable of the key, for an error that asks for one.
        address_hint: A sentence about `base_url`, for an error that doubts it.
    """

    def __init__(
        self,
        path: str,
        sent_headers: HeaderValues,
        url: httpx.URL,
        *,
        n: int,
        budget: Budget,
        key_variable: str,
        address_hint: str,
    ) -> None:
        self._path = path
        self._key_variable = key_variable
        self._address_hint = address_hint
        self._sent_headers = sent_headers
        self._url = url
        self._n = n
        self._budget = budget
        self._status = 0
        self._headers = httpx.Headers()
        self._length = 0
        self._head = bytearray()
        self._json = JSONText()

    @property
    def is_success(self) -> bool:
        """Whether a success status has arrived. The request may then have been billed."""
        return 200 <= self._status < 300

    @property
    def retry_advice(self) -> bool | None:
        """Whether the server asks for a retry, or None if it does not say."""
        return read_retry_advice(self._headers)

    def start(self, response: httpx.Response) -> None:
        """Take the status and the headers.

        Raises:
            EngineResponseError: If a success has a compressed body, or one that is too long.
            ImageVariationError: If an error has a compressed body, which is not read.
        """
        self._status = response.status_code
        self._headers = response.headers
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            if not self.is_success:
                raise self._error(self._status)
            raise self._add_headers(
                EngineResponseError(
                    "The server compressed its answer although the request asked it not to."
                )
            )
        length = response.headers.get("content-length", "")
        if self.is_success and length.isdecimal() and int(length[:18]) > self._budget.bytes_left:
            raise self._too_long_error()

    def feed(self, piece: bytes) -> bool:
        """Take a piece of the body. Return False once enough of an error has been read.

        Raises:
            EngineResponseError: If the body is too long or cannot be an `ImagesResponse`.
        """
        self._length += len(piece)
        if len(self._head) < MAX_ERROR_BYTES:
            self._head += piece[: MAX_ERROR_BYTES - len(self._head)]
        if not self.is_success:
            return self._length < MAX_ERROR_BYTES
        if self._length > self._budget.bytes_left:
            raise self._too_long_error()
        try:
            self._json.feed(piece)
        except FrameTooLongError:
            raise self._add_headers(
                EngineResponseError(
                    f"The answer exceeds the limit of {MAX_FRAME_BYTES:,} bytes, not counting its "
                    f"images. Is base_url right? {self._address_hint}"
                )
            ) from None
        except ValueError:
            raise self._unexpected_content_error() from None
        return True

    def images(self) -> ImagesResponse:
        """Return the variations, at most as many as the request asks for.

        Raises:
            ImageVariationError: If the server answered with an error, or without any image.
        """
        content = self.content()
        if isinstance(content, dict) and isinstance(content.get("data"), list):
            # Some servers always make the same number. The rest is ignored, because reading,
            # checking and downloading an entry all cost more than sending it.
            del content["data"][self._n :]
        try:
            images = ImagesResponse.from_content(content)
        except (ValueError, OutputError):
            raise self._unexpected_content_error() from None
        finally:
            # It may repeat a key, which the variables of a traceback must not show.
            del content
        if not images.data:
            holds_error = bool((images.model_extra or {}).get("error"))
            # It may repeat a key, which the variables of a traceback must not show.
            del images
            if holds_error:
                # Some gateways answer 200 with an error inside.
                raise self._error(EngineResponseError.default_status_code)
            raise self._add_headers(EngineResponseError("The server's answer contains no images."))
        for image in images.data:
            if image.b64_json is not None:
                # Some servers fill in both forms; the contract allows one.
                image.url = None
        if images.created is None:
            images.created = int(time.time())
        images.request_id = self._headers.get("x-request-id")
        self._budget.kept_bytes += self._length
        return images

    def content(self, expectation: str = "an ImagesResponse") -> Any:
        """Return the parsed body of a success.

        Args:
            expectation: What it should be, for the error.

        Raises:
            ImageVariationError: If the server answered with an error, or not in JSON.
        """
        if not self.is_success:
            raise self._error(self._status)
        try:
            return self._json.content()
        except ValueError:
            raise self._unexpected_content_error(expectation) from None

    def mapping(self) -> dict[str, Any]:
        """Return the parsed body of a success. It is empty if the body is not a JSON object.

        Raises:
            ImageVariationError: If the server answered with an error, or not in JSON.
        """
        content = self.content("JSON")
        return content if isinstance(content, dict) else {}

    def as_json(self) -> Self:
        """Check that this answer is a success in JSON, and return it.

        An error that the caller finds in the body then causes no retry.

        Raises:
            ImageVariationError: If the server answered with an error, or not in JSON.
        """
        self.content("JSON")
        return self

    def redact_error(self, error: ImageVariationError) -> ImageVariationError:
        """Return an error about the content of a success, without secrets, with the request's ID.

        For services that answer 200 and report the failure in the body.
        """
        error.message = self._printable(error.message)
        error.args = (error.message,)
        return self._add_headers(error)

    def _error(self, status: int) -> ImageVariationError:
        """Return the error that the body describes or, if it says nothing, the status."""
        error = ErrorResponse.from_json(bytes(self._head)).to_exception(status)
        if error.message == f"HTTP {status}" and self._headers.get("content-type", "").startswith(
            "text/plain"
        ):
            error.message = self._head.decode("utf-8", "replace").strip() or error.message
        if status == 404 and error.message.startswith("Invalid URL"):
            error = self._path_not_found_error()
        elif error.message in (f"HTTP {status}", "Not Found", "Method Not Allowed"):
            error = self._explain(error)
        error.message = self._printable(error.message)
        error.type = self._printable(error.type)
        error.code = error.code and self._printable(error.code)
        error.param = error.param and self._printable(error.param)
        error.args = (error.message,)
        return self._add_headers(error)

    def _printable(self, text: str) -> str:
        """Return the server's text as one short line, without secrets."""
        for secret in collect_secrets(self._sent_headers, self._url.params):
            # Masking a key of a letter or two would only make the text unreadable.
            if len(secret) >= _MIN_SECRET:
                text = text.replace(secret.get_secret_value(), "…")
        return _one_line(text)

    def _explain(self, error: ImageVariationError) -> ImageVariationError:
        """Explain a status whose body does not."""
        if self._status == 404 and not self._is_html():
            return self._path_not_found_error()
        status = f"HTTP {self._status}{' with an HTML page' if self._is_html() else ''}"
        if self._status in _EXPLANATIONS:
            explanation = _EXPLANATIONS[self._status].format(variable=self._key_variable)
            error.message = f"{explanation} ({status})"
        elif 300 <= self._status < 400:
            target = _origin(self._headers.get("location", ""))
            error.message = f"The server redirects to {target}; set base_url to that. ({status})"
        elif self._status == 404 or self._is_html():
            error.message = (
                f"The server gave no reason. Is base_url right? {self._address_hint} ({status})"
            )
        else:
            error.message = f"The server gave no reason. ({status})"
        return error

    def _path_not_found_error(self) -> ImageVariationError:
        if self._path != VARIATIONS_PATH:
            return NotFoundError(
                f"The server has no {self._path} (HTTP 404). Is base_url right? "
                f"{self._address_hint}"
            )
        return EndpointRemovedError(
            f"The server has no {VARIATIONS_PATH} (HTTP 404). If this is the vendor's own server: "
            "it removed image variations in May 2026. Use the engine 'gpt-image' or 'local', or a "
            "server that still has the path. For any other server, check base_url, which usually "
            "ends in /v1."
        )

    def _is_html(self) -> bool:
        start = bytes(self._head[:64]).lstrip().lower()
        content_type = self._headers.get("content-type", "")
        return "html" in content_type or start.startswith(
            (b"<!doctype", b"<html", b"<?xml", b"<head")
        )

    def _unexpected_content_error(
        self, expectation: str = "an ImagesResponse"
    ) -> ImageVariationError:
        if not self._head.strip():
            content = "an empty body"
        elif self._is_html():
            content = "an HTML page"
        else:
            content = f"a body that is not {expectation}"
        return self._add_headers(
            EngineResponseError(
                f"The server answered {self._status} with {content}. Is base_url right? "
                f"{self._address_hint}"
            )
        )

    def _too_long_error(self) -> ImageVariationError:
        return self._add_headers(
            EngineResponseError(
                f"The answer exceeds the limit of {self._budget.max_bytes:,} bytes; ask for fewer "
                "or smaller images, or raise max_answer_bytes."
            )
        )

    def _add_headers(self, error: ImageVariationError) -> ImageVariationError:
        """Add what the headers say: the request's ID and when to retry."""
        error.request_id = self._headers.get("x-request-id")
        error.retry_after = retry_after(self._headers, error.message)
        return error


_EXPLANATIONS = {
    401: "The server needs a key or rejects this one; pass api_key or set {variable}.",
    403: "The server does not allow this request with this key.",
    405: "The server does not accept this method at this URL. Is base_url right?",
    407: "The proxy needs a user name and a password; include them in its address.",
    408: "The server timed out while it waited for the request.",
    413: "The request is too large for the server; send a smaller image.",
    429: "The server has too many requests; try again later.",
    501: "The server does not implement image variations; use another server or engine.",
    502: "The gateway could not reach the server behind it.",
    503: "The server is not ready; try again later.",
    504: "The gateway timed out; try again, or ask for fewer or smaller images.",
}


def _origin(location: str) -> str:
    try:
        url = httpx.URL(location)
    except httpx.InvalidURL:
        return "another URL"
    return f"{url.scheme}://{url.host}" if url.host else "another path on the same host"


def _one_line(text: str) -> str:
    """Return a text as one short line, without anything that looks like a key or base64."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    line = _BASE64.sub("…", _KEY.sub(r"\1…", line))
    return line if len(line) <= _MAX_MESSAGE else f"{line[:_MAX_MESSAGE]}…"
