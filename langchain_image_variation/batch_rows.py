"""The rows of a batch: a source each that goes in, and a picture each that comes out."""

from collections.abc import Iterator, Mapping
from os import PathLike, fsdecode
from typing import Any, Protocol, TypeAlias

from langchain_image_variation.contract import SIZES
from langchain_image_variation.exceptions import ImageVariationError, InvalidRequestError
from langchain_image_variation.file_system import without_password
from langchain_image_variation.jobs import Job, plain_text
from langchain_image_variation.source_pictures import Picture

__all__ = ["COLUMNS", "Column", "Row", "error_row", "picture_row", "source_rows"]

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


def source_rows(batch: Mapping[str, Column]) -> Iterator[dict[str, object]]:
    """Yield the rows of columns.

    Raises:
        InvalidRequestError: If `path` is missing, or the columns differ in length.
    """
    if "path" not in batch:
        raise InvalidRequestError("The batch has no column 'path'.", param="path")
    if len({len(column) for column in batch.values()}) > 1:
        raise InvalidRequestError("The columns of the batch differ in length.", param="path")
    for values in zip(*batch.values(), strict=True):
        yield dict(zip(batch, values, strict=True))


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
        "source_path": None if named is None else plain_text(without_password(named)),
        "source_sha256": source_sha256,
        "size": size if size in SIZES else None,
        "error": _line(f"{type(error).__name__}: {error.message}"),
        "position": source.get("position"),
    }


def _line(text: str) -> str:
    """Return a text as one line that a file and a terminal can have: engines may say anything."""
    printable = "".join(one if one.isprintable() else " " for one in text)
    return " ".join(printable.split())[:_MOST]
