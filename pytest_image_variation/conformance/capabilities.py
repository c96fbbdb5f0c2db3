"""What a server or an engine supports. Rules about the rest are skipped."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from langchain_image_variation.contract import MAX_N, SIZES

__all__ = ["Capabilities"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What is supported. Rules about the rest are skipped, and the reason says so.

    Raises:
        ValueError: If a value is out of range.
    """

    url: bool = True
    """Whether images can be returned as URLs."""
    b64_json: bool = True
    """Whether images can be returned as base64."""
    max_n: int = MAX_N
    """The largest number of images per request, 1 to 10."""
    sizes: tuple[str, ...] = SIZES
    """The sizes, such as "1024x1024". Put the cheapest one first: most requests use it."""
    url_ttl: float | None = None
    """How many seconds a URL works, up to 60. None if that is too long to wait for."""

    def __post_init__(self) -> None:
        """Check the values."""
        if not (self.url or self.b64_json):
            raise ValueError("At least one of url and b64_json must be supported.")
        if type(self.max_n) is not int or not 1 <= self.max_n <= MAX_N:
            raise ValueError(f"max_n must be an integer from 1 to {MAX_N}, got {self.max_n!r}.")
        if not self.sizes or not all(map(_is_size, self.sizes)):
            raise ValueError("sizes must be one or more square sizes such as 512x512.")
        if self.url_ttl is not None and not 0 < self.url_ttl <= 60:
            raise ValueError(
                f"url_ttl must be more than 0 and at most 60 seconds, got {self.url_ttl:g}."
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse "url=no max_n=4 sizes=512x512,1024x1024 url_ttl=2".

        Raises:
            ValueError: If a name is unknown, or a value is out of range.
        """
        parsers: dict[str, Callable[[str], Any]] = {
            "url": _parse_bool,
            "b64_json": _parse_bool,
            "max_n": int,
            "sizes": lambda value: tuple(value.split(",")),
            "url_ttl": float,
        }
        values: dict[str, Any] = {}
        for word in text.split():
            name, _, value = word.partition("=")
            if name not in parsers:
                raise ValueError(
                    f"Unknown capability {name[:40]!r}. The capabilities are: {', '.join(parsers)}."
                )
            try:
                values[name] = parsers[name](value)
            except (KeyError, ValueError):
                raise ValueError(f"Invalid value {value[:40]!r} for {name}.") from None
        return cls(**values)

    def __str__(self) -> str:
        """Return the values that differ from the defaults, in the format of `parse`."""
        return " ".join(
            f"{field.name}={_format(getattr(self, field.name))}"
            for field in fields(self)
            if getattr(self, field.name) != field.default
        )

    @property
    def response_format(self) -> str:
        """The format for most requests: b64_json if supported, as it needs no download."""
        return "b64_json" if self.b64_json else "url"


_BOOLEANS: Mapping[str, bool] = {"yes": True, "no": False}


def _parse_bool(value: str) -> bool:
    return _BOOLEANS[value]


def _format(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ",".join(value) if isinstance(value, tuple) else f"{value}"


def _is_size(text: str) -> bool:
    width, x, height = text.partition("x")
    return bool(x) and width.isdecimal() and width == height and int(width) > 0
