"""From the answer of a server to an `ImagesResponse`, or to the right error of the tree."""

import re
import time

import httpx
from pydantic import SecretStr

from langchain_image_variation.contract import ImagesResponse
from langchain_image_variation.error_response import ErrorResponse
from langchain_image_variation.exceptions import (
    EndpointRemovedError,
    EngineResponseError,
    ImageVariationError,
    NotFoundError,
    OutputError,
)
from langchain_image_variation.hosted.json_text import JSONText
from langchain_image_variation.hosted.retry import advice, retry_after

__all__ = ["MAX_ANSWER_BYTES", "Answer"]

MAX_ANSWER_BYTES = 256 * 1024 * 1024
"""An answer may have at most this many bytes: more than ten 1024x1024 pictures can need."""

_VARIATIONS = "/images/variations"
_MAX_ERROR_BYTES = 64 * 1024
_MAX_MESSAGE = 500
_KEY = re.compile(r"\b(sk-|Bearer )[\w.*-]{6,}")
_BASE64 = re.compile(r"[A-Za-z0-9+/=_-]{80,}")


class Answer:
    """Takes the answer to a request for variations as it comes in.

    Args:
        path: The path that was added to the base URL.
        key: The key that was sent, which no error shows, even if the server repeats it.
        max_bytes: The most bytes that are read.
    """

    def __init__(self, path: str, key: SecretStr, max_bytes: int = MAX_ANSWER_BYTES) -> None:
        self._path = path
        self._key = key
        self._max_bytes = max_bytes
        self._status = 0
        self._headers = httpx.Headers()
        self._length = 0
        self._json = JSONText()
        self._head = bytearray()

    @property
    def begun(self) -> bool:
        """Whether a status of success has come in, so that the pictures were made."""
        return 200 <= self._status < 300

    @property
    def should_retry(self) -> bool | None:
        """What the server itself says about sending again."""
        return advice(self._headers)

    def start(self, response: httpx.Response) -> None:
        """Take the status and the headers.

        Raises:
            EngineResponseError: If the body says that it is too long, or is compressed.
            ImageVariationError: If a compressed body explains an error; it is not read.
        """
        self._status = response.status_code
        self._headers = response.headers
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            if not self.begun:
                raise self._error(self._status)
            raise self._marked(
                EngineResponseError("The server sent its answer compressed, though asked not to.")
            )
        length = response.headers.get("content-length", "")
        if self.begun and length.isdecimal() and int(length[:18]) > self._max_bytes:
            raise self._too_long()

    def feed(self, piece: bytes) -> bool:
        """Take a piece of the body; return False when enough of an error has been read.

        Raises:
            EngineResponseError: If the body is too long, or cannot be JSON.
        """
        self._length += len(piece)
        if len(self._head) < _MAX_ERROR_BYTES:
            self._head += piece[: _MAX_ERROR_BYTES - len(self._head)]
        if not self.begun:
            return self._length < _MAX_ERROR_BYTES
        if self._length > self._max_bytes:
            raise self._too_long()
        try:
            self._json.feed(piece)
        except ValueError:
            raise self._no_answer() from None
        return True

    def images(self) -> ImagesResponse:
        """Return the variations.

        Raises:
            ImageVariationError: If the answer is not a success, or holds none.
        """
        if not self.begun:
            raise self._error(self._status)
        try:
            content = self._json.content()
            images = ImagesResponse.from_content(content)
        except (ValueError, OutputError):
            raise self._no_answer() from None
        if not images.data:
            if isinstance(content, dict) and content.get("error"):
                # Some gateways answer 200 and mean the error inside.
                raise self._error(EngineResponseError.default_status_code)
            raise self._marked(EngineResponseError("The server answered without any picture."))
        for image in images.data:
            if image.b64_json is not None:
                # Some servers fill both, and only one form is the contract's.
                image.url = None
        if images.created is None:
            images.created = int(time.time())
        images.request_id = self._headers.get("x-request-id")
        return images

    def _error(self, status: int) -> ImageVariationError:
        """Return the error that an answer other than a success stands for."""
        said = ErrorResponse.from_json(bytes(self._head)).to_exception(status)
        if said.message == f"HTTP {status}" and self._headers.get("content-type", "").startswith(
            "text/plain"
        ):
            said.message = self._head.decode("utf-8", "replace").strip() or said.message
        if status == 404 and said.message.startswith("Invalid URL"):
            said = self._nothing_there()
        elif said.message in (f"HTTP {status}", "Not Found", "Method Not Allowed"):
            said = self._explained(said)
        said.message = _line(self._without_key(said.message))
        said.type = self._without_key(said.type)
        said.code = said.code and self._without_key(said.code)
        said.param = said.param and self._without_key(said.param)
        said.args = (said.message,)
        return self._marked(said)

    def _without_key(self, text: str) -> str:
        # A key of a letter or two is no secret, and would tear every text apart.
        long_enough = len(self._key) > 3
        return text.replace(self._key.get_secret_value(), "…") if long_enough else text

    def _explained(self, error: ImageVariationError) -> ImageVariationError:
        """Say what a status means whose body says nothing."""
        if self._status == 404 and not self._is_html():
            return self._nothing_there()
        status = f"HTTP {self._status}{' with a page of HTML' if self._is_html() else ''}"
        if self._status in _MEANINGS:
            error.message = f"{_MEANINGS[self._status]} ({status})"
        elif 300 <= self._status < 400:
            where = _origin(self._headers.get("location", ""))
            error.message = f"The server redirects to {where}; set base_url to that. ({status})"
        elif self._status == 404 or self._is_html():
            error.message = (
                f"The server gave no reason. Is base_url right? It mostly ends in /v1. ({status})"
            )
        else:
            error.message = f"The server gave no reason. ({status})"
        return error

    def _nothing_there(self) -> ImageVariationError:
        if self._path != _VARIATIONS:
            return NotFoundError(
                f"There is no {self._path} at this address (HTTP 404). Is base_url right? It "
                "mostly ends in /v1."
            )
        return EndpointRemovedError(
            "There is nothing at this address (HTTP 404). If this is the vendor's own server: it "
            "removed image variations in May 2026; use the engine 'gpt-image' or 'local', or a "
            "server that still speaks the path. If it is another: base_url mostly ends in /v1."
        )

    def _is_html(self) -> bool:
        start = bytes(self._head[:64]).lstrip().lower()
        kind = self._headers.get("content-type", "")
        return "html" in kind or start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head"))

    def _no_answer(self) -> ImageVariationError:
        if not self._head.strip():
            what = "an empty body"
        elif self._is_html():
            what = "a page of HTML"
        else:
            what = "something that is no ImagesResponse"
        return self._marked(
            EngineResponseError(
                f"The server answered {self._status} with {what}. Is base_url right? It mostly "
                "ends in /v1."
            )
        )

    def _too_long(self) -> ImageVariationError:
        return self._marked(
            EngineResponseError(
                f"The answer has more than {self._max_bytes:,} bytes, the limit; ask for fewer or "
                "smaller pictures."
            )
        )

    def _marked(self, error: ImageVariationError) -> ImageVariationError:
        error.request_id = self._headers.get("x-request-id")
        error.retry_after = retry_after(self._headers, error.message)
        return error


_MEANINGS = {
    401: "The server needs a key, or refuses this one: pass api_key or set OPENAI_API_KEY.",
    403: "The server does not let this key do this.",
    405: "The server takes no POST at this address. Is base_url right? It mostly ends in /v1.",
    408: "The server waited too long for the request.",
    413: "The server takes no body of this length; send a smaller picture.",
    429: "The server has too many requests; try again later.",
    501: "The server does not implement this call; use another server or engine.",
    502: "The gateway did not reach the server behind it.",
    503: "The server is not ready; try again later.",
    504: "The gateway gave up waiting for the server; try again, or fewer or smaller pictures.",
}


def _origin(location: str) -> str:
    try:
        url = httpx.URL(location)
    except httpx.InvalidURL:
        return "another address"
    return f"{url.scheme}://{url.host}" if url.host else "another path of its own"


def _line(message: str) -> str:
    """Return a server's sentence as one short line without keys and pictures."""
    line = " ".join("".join(c if c.isprintable() else " " for c in message).split())
    line = _BASE64.sub("…", _KEY.sub(r"\1…", line))
    return line if len(line) <= _MAX_MESSAGE else f"{line[:_MAX_MESSAGE]}…"
