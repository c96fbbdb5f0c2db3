"""What a server or an engine does not claim to do, declared once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from langchain_image_variation.contract import MAX_N, SIZES

__all__ = ["Capabilities"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What is claimed; rules about the rest are skipped, with a reason that says so.

    Raises:
        ValueError: If a value is out of range.
    """

    url: bool = True
    """Whether pictures are given as addresses."""
    b64_json: bool = True
    """Whether pictures are given as base64."""
    max_n: int = MAX_N
    """The most pictures in one request, 1 to 10."""
    sizes: tuple[str, ...] = SIZES
    """The sizes, such as "1024x1024"; the cheapest to make first."""
    url_ttl: float | None = None
    """The seconds for which an address works, up to 60; None where that is too long to wait for."""

    def __post_init__(self) -> None:
        """Check the values."""
        if not (self.url or self.b64_json):
            raise ValueError("url and b64_json cannot both be no.")
        if type(self.max_n) is not int or not 1 <= self.max_n <= MAX_N:
            raise ValueError(f"max_n must be a whole number from 1 to {MAX_N}, got {self.max_n!r}.")
        if not self.sizes or not all(map(_is_size, self.sizes)):
            raise ValueError("sizes must be like 512x512, one or more.")
        if self.url_ttl is not None and not 0 < self.url_ttl <= 60:
            raise ValueError(f"url_ttl must be more than 0 and at most 60, got {self.url_ttl:g}.")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "url=no max_n=4 sizes=512x512,1024x1024 url_ttl=2".

        Raises:
            ValueError: If there is no such capability, or a value is out of range.
        """
        readers: dict[str, Callable[[str], Any]] = {
            "url": _yes,
            "b64_json": _yes,
            "max_n": int,
            "sizes": lambda value: tuple(value.split(",")),
            "url_ttl": float,
        }
        given: dict[str, Any] = {}
        for word in text.split():
            name, _, value = word.partition("=")
            if name not in readers:
                raise ValueError(
                    f"There is no capability {name[:40]!r}; there are {', '.join(readers)}."
                )
            try:
                given[name] = readers[name](value)
            except (KeyError, ValueError):
                raise ValueError(f"The capability {name} cannot be {value[:40]!r}.") from None
        return cls(**given)

    def __str__(self) -> str:
        """Return what differs from everything, as `parse` reads it."""
        return " ".join(
            f"{field.name}={_written(getattr(self, field.name))}"
            for field in fields(self)
            if getattr(self, field.name) != field.default
        )

    @property
    def response_format(self) -> str:
        """The form in which most pictures are asked for: the one that needs no second request."""
        return "b64_json" if self.b64_json else "url"


_ANSWERS: Mapping[str, bool] = {"yes": True, "no": False}


def _yes(value: str) -> bool:
    return _ANSWERS[value]


def _written(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ",".join(value) if isinstance(value, tuple) else f"{value}"


def _is_size(text: str) -> bool:
    width, x, height = text.partition("x")
    return bool(x) and width.isdecimal() and width == height and int(width) > 0
