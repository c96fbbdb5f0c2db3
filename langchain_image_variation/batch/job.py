"""`Job`: the settings for one source of a batch, read from a row of any table.

Rows come from lists, NumPy arrays, Arrow tables, data frames and CSV files, and CSV has only text.
So a number may be a NumPy or Arrow scalar, a decimal, a float without a fraction, or text. A
missing value may be None, NaN or "".
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from langchain_image_variation.contract import MAX_N, SIZES, Size
from langchain_image_variation.exceptions import InvalidRequestError, SourceError, excerpt
from langchain_image_variation.files.storage_urls import hide_password, is_url
from langchain_image_variation.numbers import check_number, check_whole_number

__all__ = ["MAX_SEED", "OPTIONAL_COLUMNS", "Job", "escape_surrogates", "portable_row"]

OPTIONAL_COLUMNS = ("n", "size", "seed", "strength")
"""The columns of a list of sources, in addition to the paths."""

MAX_SEED = 2**63 - 1 - MAX_N
"""The largest seed of a row. The seeds of all its variations must be 64-bit integers."""

_MAX_NUMBER_LENGTH = 40
"""Longer text is not parsed as a number."""


@dataclass(frozen=True, slots=True)
class Job:
    """The settings for one source."""

    path: str
    """The path or URL of the source."""
    n: int
    """The number of variations, from 1 to `MAX_N`."""
    size: Size
    """Width x height of each variation in pixels."""
    seed: int | None = None
    """The seed of the first variation. None derives it from the source's content."""
    strength: float | None = None
    """The engine's option `strength`. None means the batch's default."""

    @classmethod
    def from_row(cls, row: Mapping[str, object], *, n: int, size: Size) -> "Job":
        """Read a row.

        Args:
            row: The values by column: `path`, and optionally `n`, `size`, `seed` and `strength`.
            n: The default for `n`.
            size: The default for `size`.

        Raises:
            SourceError: If `path` is missing or is not a path.
            InvalidRequestError: If another value is invalid or out of range. `param` names its
                column.
        """
        values = {name: _unwrap(row.get(name)) for name in ("path", *OPTIONAL_COLUMNS)}
        return cls(
            path=_read_path(values["path"]),
            n=n if values["n"] is None else _read_integer("n", values["n"], 1, MAX_N),
            size=size if values["size"] is None else _read_size(values["size"]),
            seed=(
                None
                if values["seed"] is None
                else _read_integer("seed", values["seed"], 0, MAX_SEED)
            ),
            strength=None if values["strength"] is None else _read_strength(values["strength"]),
        )


def portable_row(row: Mapping[str, object]) -> dict[str, object]:
    """Return a row that means the same in any list of sources, as JSON types.

    A local path becomes absolute, because a list may be in any folder. A password in a URL is
    hidden. Invalid values are shortened, and stay invalid.
    """
    path = _unwrap(row.get("path"))
    if isinstance(path, str | bytes | os.PathLike):
        path = os.fsdecode(path)
        path = hide_password(path) if is_url(path) else os.path.abspath(path)
    else:
        path = None
    values = {name: _unwrap(row.get(name)) for name in OPTIONAL_COLUMNS}
    return {
        "path": path,
        **{name: _portable_value(value) for name, value in values.items() if value is not None},
    }


def _portable_value(value: object) -> object:
    if isinstance(value, Decimal):
        value = str(value)
    is_short = (isinstance(value, str) and len(value) <= _MAX_NUMBER_LENGTH) or (
        isinstance(value, int | float) and abs(value) <= MAX_SEED
    )
    return value if is_short else excerpt(value)


def escape_surrogates(text: str) -> str:
    r"""Return a text that can be encoded as UTF-8: lone surrogates become "\udcff" and the like."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _unwrap(value: object) -> object:
    """Return the Python value of a NumPy or Arrow scalar, and None for any missing value."""
    dimensions = getattr(value, "ndim", None)
    if dimensions:
        # Comparing an array below would return an array, not a bool. Callers refuse it.
        return value
    to_python = getattr(value, "item" if dimensions == 0 else "as_py", None)
    if callable(to_python):
        value = to_python()
    try:
        # NaN differs from itself. Comparing pandas' NA raises an error, as may other types.
        return None if (isinstance(value, str) and not value) or value != value else value
    except Exception:
        return None


def _read_path(value: object) -> str:
    if value is None:
        raise SourceError("The row has no path. Put the path of an image in its column 'path'.")
    if isinstance(value, str | bytes | os.PathLike):
        path = os.fsdecode(value)
        try:
            os.fsencode(path)
        except UnicodeEncodeError:
            raise SourceError(
                f"path contains a character that file names cannot contain: {excerpt(path)}."
            ) from None
        return path
    raise SourceError(f"path must be a string, got {excerpt(value)}.")


def _read_size(value: object) -> Size:
    for size in SIZES:
        if isinstance(value, str) and value == size:
            return size
    sizes = ", ".join(map(repr, SIZES))
    raise InvalidRequestError(f"size must be one of {sizes}, got {excerpt(value)}.", param="size")


def _read_integer(name: str, value: object, minimum: int, maximum: int) -> int:
    number = _parse_number(value)
    if number is not None and number == int(number):
        return check_whole_number(name, int(number), minimum, maximum)
    return check_whole_number(name, value, minimum, maximum)


def _read_strength(value: object) -> float:
    number = _parse_number(value)
    return check_number("strength", value if number is None else number, 0, 1)


def _parse_number(value: object) -> int | float | None:
    """Return a finite number, which text may spell, or None."""
    if isinstance(value, Decimal):
        value = str(value)
    if isinstance(value, str) and len(value) <= _MAX_NUMBER_LENGTH:
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
