"""What a server answered, and what a failure shows of it."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NoReturn, Self

import httpx
from PIL import Image

from langchain_image_variation.error_response import Error
from langchain_image_variation.exceptions import InvalidImageError
from langchain_image_variation.images.pixels import open_image
from pytest_image_variation.conformance.rule import Breach, unseen

__all__ = ["Answer", "Picture", "masked"]

_LONGEST_TEXT = 300
_LONGEST_VALUE = 80
_READ = 100_000


@dataclass(frozen=True, slots=True)
class Picture:
    """What a file turns out to be."""

    data: bytes = field(repr=False)
    kind: str | None
    """Pillow's name of its format, or None if it is no picture."""
    size: str | None
    """Such as "256x256"."""
    decodes: bool
    """Whether all of its pixels can be read."""

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Look at a file. What it cannot be, it is not, so this raises nothing."""
        return cls(data, *_seen(data))


@lru_cache(maxsize=256)
def _seen(data: bytes) -> tuple[str | None, str | None, bool]:
    kind = size = None
    try:
        with open_image(data) as image:
            kind, size = image.format, f"{image.width}x{image.height}"
            image.load()
    # What Pillow raises for broken files differs by format; its warning may be an error.
    except (
        InvalidImageError,
        OSError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ):
        return kind, size, False
    return kind, size, True


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, and the command line that asks for it."""

    status: int
    headers: httpx.Headers
    content: bytes
    curl: str
    api_key: str | None = field(default=None, repr=False)
    """The key that was sent, which nothing shows."""
    came: float = field(default_factory=time.time)
    """When it was there, in seconds of Unix."""

    def breach(self, got: str) -> NoReturn:
        """Say that this answer breaks a rule.

        Raises:
            Breach: If it is about what was asked.
            Unseen: If the server only says to come back later.
        """
        if self.status == 429:
            unseen("The server limits requests: it answers 429, after waiting too.")
        raise Breach(masked(got, self.api_key), [self.curl])

    def must(self, condition: bool, got: Callable[[], str] | str) -> None:
        """Say so if a condition is not met.

        Raises:
            Breach: If it is not.
        """
        if not condition:
            self.breach(got if isinstance(got, str) else got())

    def shown(self, value: object) -> str:
        """Return a value of the answer as a failure shows it: short, and without the key."""
        return _cut(masked(repr(value), self.api_key), _LONGEST_VALUE)

    def __str__(self) -> str:
        """Return status and body as a failure shows them: short, and without the key."""
        text = masked(self.content[:_READ].decode("utf-8", "replace"), self.api_key)
        return f"{self.status} {_cut(' '.join(text.split()), _LONGEST_TEXT)}".strip()

    @property
    def json(self) -> Any:
        """The body's JSON, or None if it is none."""
        try:
            return json.loads(self.content.decode())
        except (ValueError, RecursionError):
            return None

    def succeeded(self) -> Self:
        """Return this answer if it is a success.

        Raises:
            Breach: If it is none.
        """
        self.must(self.status == 200, lambda: str(self))
        return self

    def served(self) -> Self:
        """Return this answer if it is a success that has pictures, whatever they are.

        Raises:
            Breach: If it is none.
        """
        self.succeeded().must(bool(self.entries), lambda: f"no pictures: {self}")
        return self

    def refused(self, *statuses: int) -> Self:
        """Return this answer if it is a refusal.

        Raises:
            Breach: If it is none, or has another status.
        """
        self.must(self.status in (statuses or (400,)), lambda: str(self))
        return self

    @property
    def entries(self) -> list[Mapping[str, Any]]:
        """The entries of `data` that are objects; none if there is nothing of that kind."""
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
    def known_error(self) -> Error:
        """The error in the contract's envelope.

        Raises:
            Unseen: If there is none.
        """
        error = self.error
        if error is None:
            unseen("There is no error in the contract's envelope to look at; see error-envelope.")
        return Error.model_validate(error)


def masked(text: str, key: str | None) -> str:
    """Return a text on one line, without a key, and without what a terminal would obey."""
    if key:
        for form in {key, repr(key)[1:-1], json.dumps(key)[1:-1]}:
            text = text.replace(form, "***")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}…"
