"""`Job`: what is asked of one source in a bulk run, read from a row of any table.

Tables come as lists, numpy arrays, Arrow's or columns of a data frame, and CSV knows only text. So
a number may be a scalar of numpy or Arrow, a decimal, a float without a fraction or text, and a
missing value None, NaN or "".
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import cast

from langchain_image_variation.contract import MAX_N, SIZES, Size
from langchain_image_variation.exceptions import InvalidRequestError, SourceError, shown
from langchain_image_variation.numbers import check_number, check_whole_number

__all__ = ["MAX_SEED", "Job", "plain_text"]

MAX_SEED = 2**63 - 1 - MAX_N
"""The largest seed of a row, so that those of all its pictures are 64-bit integers."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is asked of one source."""

    path: str
    """The path of its file."""
    n: int
    """How many variations, 1 to `MAX_N`."""
    size: Size
    """Width x height of each in pixels."""
    seed: int | None = None
    """That of the first variation; None leaves it to the source's content."""
    strength: float | None = None
    """The engine's option of that name; None leaves it as it is for all."""

    @classmethod
    def read(cls, row: Mapping[str, object], *, n: int, size: Size) -> "Job":
        """Read a row.

        Args:
            row: The values of its columns: `path`, and if wanted `n`, `size`, `seed`, `strength`.
            n: What a missing `n` is.
            size: What a missing `size` is.

        Raises:
            SourceError: If `path` is missing or no path.
            InvalidRequestError: If another value is out of range; `param` names its column.
        """
        given = {name: _plain(row.get(name)) for name in ("path", "n", "size", "seed", "strength")}
        return cls(
            path=_path(given["path"]),
            n=n if given["n"] is None else _whole("n", given["n"], 1, MAX_N),
            size=size if given["size"] is None else _size(given["size"]),
            seed=None if given["seed"] is None else _whole("seed", given["seed"], 0, MAX_SEED),
            strength=None if given["strength"] is None else _share(given["strength"]),
        )


def plain_text(text: str) -> str:
    """Return a text that every file can hold: what of a name is no Unicode is escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _plain(value: object) -> object:
    """Return a value without the type of its table around it, and None for any kind of nothing."""
    dimensions = getattr(value, "ndim", None)
    if dimensions:
        # An array is no value of a row; what it says of equality is an array too.
        return value
    bare = getattr(value, "item" if dimensions == 0 else "as_py", None)
    if callable(bare):
        value = bare()
    try:
        # NaN is not itself; a data frame's NA and others refuse to say, each in its own way.
        return None if (isinstance(value, str) and not value) or value != value else value
    except Exception:
        return None


def _path(value: object) -> str:
    if value is None:
        raise SourceError("The row has no path; name a picture in its column 'path'.")
    if isinstance(value, str | bytes | os.PathLike):
        return os.fsdecode(value)
    raise SourceError(f"The path of a row must be a text, got {shown(value)}.")


def _size(value: object) -> Size:
    if isinstance(value, str) and value in SIZES:
        return cast(Size, str(value))
    sizes = ", ".join(map(repr, SIZES))
    raise InvalidRequestError(f"size must be one of {sizes}, got {shown(value)}.", param="size")


def _whole(name: str, value: object, least: int, most: int) -> int:
    number = _number(value)
    if number is not None and number == int(number):
        return check_whole_number(name, int(number), least, most)
    return check_whole_number(name, value, least, most)


def _share(value: object) -> float:
    number = _number(value)
    return check_number("strength", value if number is None else number, 0, 1)


def _number(value: object) -> int | float | None:
    """Return a number, or the finite one that a text spells, else None."""
    if isinstance(value, Decimal):
        # Its text, which is read below.
        value = str(value)
    if isinstance(value, str) and len(value) <= 40:
        try:
            value = int(value)
        except ValueError:
            try:
                value = float(value)
            except ValueError:
                return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < float("inf") else None
