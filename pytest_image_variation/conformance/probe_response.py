"""A response to the server probe, and how failures show it."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, Self

import httpx

from langchain_image_variation.error_response import Error
from pytest_image_variation.conformance.rule import Violation, skip

__all__ = ["ProbeResponse", "mask_key"]

_LONGEST_TEXT = 300
_LONGEST_VALUE = 80
_LONGEST_BODY = 100_000


@dataclass(frozen=True, slots=True)
class ProbeResponse:
    """A response, and the command line that repeats its request."""

    status: int
    headers: httpx.Headers
    content: bytes
    curl: str
    api_key: str | None = field(default=None, repr=False)
    """The key that was sent. No failure shows it."""
    received_at: float = field(default_factory=time.time)
    """When the response arrived, as a Unix time."""

    def fail(self, got: str) -> NoReturn:
        """Report that this response breaks a rule.

        Raises:
            Violation: If the response is about the request.
            SkipCheck: If the server only limits the rate of requests.
        """
        if self.status == 429:
            skip("The server limits requests: it still answers 429 after the retries.")
        raise Violation(mask_key(got, self.api_key), [self.curl])

    def require(self, condition: bool, got: Callable[[], str] | str) -> None:
        """Report a violation unless a condition is true.

        Raises:
            Violation: If it is false.
        """
        if not condition:
            self.fail(got if isinstance(got, str) else got())

    def quote(self, value: object) -> str:
        """Return a value of the response for a failure: shortened, and without the key."""
        return _shorten(mask_key(repr(value), self.api_key), _LONGEST_VALUE)

    def __str__(self) -> str:
        """Return status and body for a failure: shortened, and without the key."""
        text = mask_key(self.content[:_LONGEST_BODY].decode("utf-8", "replace"), self.api_key)
        return f"{self.status} {_shorten(' '.join(text.split()), _LONGEST_TEXT)}".strip()

    @property
    def json(self) -> Any:
        """The parsed JSON body, or None if it is not JSON."""
        try:
            return json.loads(self.content.decode())
        except (ValueError, RecursionError):
            return None

    def require_success(self) -> Self:
        """Return this response if its status is 200.

        Raises:
            Violation: If it is not.
        """
        self.require(self.status == 200, lambda: str(self))
        return self

    def require_images(self) -> Self:
        """Return this response if it is a success with entries, whatever they contain.

        Raises:
            Violation: If it is not.
        """
        self.require_success().require(bool(self.entries), lambda: f"no images: {self}")
        return self

    def require_refusal(self, *statuses: int) -> Self:
        """Return this response if it has one of these statuses, by default 400.

        Raises:
            Violation: If it has another status.
        """
        self.require(self.status in (statuses or (400,)), lambda: str(self))
        return self

    @property
    def entries(self) -> list[Mapping[str, Any]]:
        """The objects in `data`, or an empty list if there are none."""
        content = self.json if self.status == 200 else None
        data = content.get("data") if isinstance(content, dict) else None
        return (
            [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []
        )

    @property
    def error(self) -> Mapping[str, Any] | None:
        """The error in the contract's envelope, or None."""
        content = self.json
        error = content.get("error") if isinstance(content, dict) else None
        return error if isinstance(error, dict) else None

    @property
    def parsed_error(self) -> Error:
        """The error in the contract's envelope, parsed.

        Raises:
            SkipCheck: If there is none.
        """
        error = self.error
        if error is None:
            skip("The response has no error object to check; see error-envelope.")
        return Error.model_validate(error)


def mask_key(text: str, key: str | None) -> str:
    """Return a text on one line, without a key and without control characters."""
    if key:
        for form in {key, repr(key)[1:-1], json.dumps(key)[1:-1]}:
            text = text.replace(form, "***")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}…"
