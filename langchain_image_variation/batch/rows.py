"""The rows of a batch: a source each that goes in, and a picture each that comes out."""

from collections.abc import Iterator, Mapping
from os import PathLike, fsdecode
from typing import Any, Protocol, TypeAlias

from langchain_image_variation.batch.job import Job, plain_text
from langchain_image_variation.batch.made_images import Picture
from langchain_image_variation.contract import SIZES
from langchain_image_variation.exceptions import ImageVariationError, InvalidRequestError
from langchain_image_variation.files.file_system import hide_password

__all__ = ["COLUMNS", "Column", "Row", "Table", "columns", "error_row", "picture_row"]

COLUMNS = (
    "source_path",
    "source_sha256",
    "index",
    "seed",
    "engine",
    "engine_version",
    "size",
    "output_path",
    "output_sha256",
    "milliseconds",
    "error",
)
"""The columns that come out, one row a picture."""

_MOST = 500
"""So many characters of an error are kept."""

Row: TypeAlias = dict[str, Any]
"""A row that comes out: the value of each of `COLUMNS`."""


class Column(Protocol):
    """A list, an array, or whatever else a table has for a column."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


class Table(Protocol):
    """A data frame, an Arrow table, or whatever else gives its columns by their names."""

    def __getitem__(self, name: Any, /) -> Any: ...


def columns(batch: Mapping[str, Column] | Table) -> dict[str, Column]:
    """Return the columns of a batch by their names.

    Raises:
        InvalidRequestError: If it is no table, `path` is missing, or the columns differ in length.
    """
    try:
        # Of a data frame the names are what it iterates over; of an Arrow table they are not.
        table: Any = batch
        names = list(getattr(table, "column_names", table))
        found = {name: table[name] for name in names}
        lengths = {-1 if isinstance(one, str | bytes) else len(one) for one in found.values()}
    except (IndexError, KeyError, TypeError):
        lengths = {-1}
    if -1 in lengths:
        raise InvalidRequestError(
            "The batch must be a mapping of columns, each a list or an array, or a data frame or "
            "an Arrow table.",
            param="path",
        )
    if "path" not in found:
        raise InvalidRequestError("The batch has no column 'path'.", param="path")
    if len(lengths) > 1:
        raise InvalidRequestError("The columns of the batch differ in length.", param="path")
    return found


def picture_row(job: Job, source_sha256: str, picture: Picture, *, seed: int | None) -> Row:
    """Return what is known of a picture that is there, but for the engine.

    Args:
        job: What was asked for.
        source_sha256: The SHA-256 of the source's bytes, in hex.
        picture: The picture.
        seed: Its seed, with an engine that takes one.
    """
    return {
        **dict.fromkeys(COLUMNS),
        "source_path": plain_text(job.path),
        "source_sha256": source_sha256,
        "index": int(picture.output_path.rpartition("-")[2].partition(".")[0]),
        "seed": seed,
        "size": job.size,
        "output_path": picture.output_path,
        "output_sha256": picture.sha256,
        "milliseconds": picture.milliseconds,
    }


def error_row(
    source: Mapping[str, object], error: ImageVariationError, *, source_sha256: str | None
) -> Row:
    """Return what went wrong with a source, but for the engine; no size if it said none.

    Args:
        source: The values of its row by column.
        error: What went wrong.
        source_sha256: The SHA-256 of its bytes in hex, if they could be read.
    """
    path, size = source.get("path"), source.get("size")
    named = fsdecode(path) if isinstance(path, str | bytes | PathLike) else None
    return {
        **dict.fromkeys(COLUMNS),
        "source_path": None if named is None else plain_text(hide_password(named)),
        "source_sha256": source_sha256,
        "size": size if size in SIZES else None,
        "error": _line(f"{type(error).__name__}: {error.message}"),
        "position": source.get("position"),
    }


def _line(text: str) -> str:
    """Return a text as one line that a file and a terminal can have: engines may say anything."""
    printable = "".join(one if one.isprintable() else " " for one in text)
    return " ".join(printable.split())[:_MOST]
