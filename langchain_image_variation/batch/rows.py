"""The rows of a batch: one per source as input, one per output image as output."""

import json
from collections.abc import Iterator, Mapping
from os import PathLike, fsdecode
from typing import Any, Protocol, TypeAlias

from langchain_image_variation.batch.job import Job, escape_surrogates, portable_row
from langchain_image_variation.batch.output_images import OutputImage
from langchain_image_variation.batch.output_names import image_index
from langchain_image_variation.contract import SIZES
from langchain_image_variation.exceptions import (
    EngineError,
    ImageVariationError,
    InvalidRequestError,
)
from langchain_image_variation.files.storage_urls import hide_password

__all__ = [
    "COLUMNS",
    "Column",
    "OutputRow",
    "SourceRow",
    "Table",
    "error_row",
    "image_row",
    "read_columns",
    "single_line",
    "unexpected_error",
]

COLUMNS = (
    "source_path",
    "source_sha256",
    "index",
    "seed",
    "engine",
    "engine_version",
    "model",
    "size",
    "output_path",
    "output_sha256",
    "milliseconds",
    "note",
    "error",
)
"""The columns of the output, which has one row per image."""

_MAX_ERROR_LENGTH = 500
"""Longer error messages are cut to this many characters."""

SourceRow: TypeAlias = Mapping[str, object]
"""An input row: the values of one source by column."""

OutputRow: TypeAlias = dict[str, Any]
"""An output row: a value for each of `COLUMNS`."""


class Column(Protocol):
    """A column of a table, such as a list or an array."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


class Table(Protocol):
    """A table that returns its columns by name, such as a data frame or an Arrow table."""

    def __getitem__(self, name: Any, /) -> Any: ...


def read_columns(batch: Mapping[str, Column] | Table) -> dict[str, Column]:
    """Return the columns of a batch by name.

    Raises:
        InvalidRequestError: If `batch` is not a table, has no column `path`, or has columns of
            different lengths.
    """
    try:
        # Iterating over a data frame yields its column names. An Arrow table yields its columns.
        table: Any = batch
        names = list(getattr(table, "column_names", table))
        columns = {name: table[name] for name in names}
        lengths = {
            -1 if isinstance(column, str | bytes) else len(column) for column in columns.values()
        }
    except (IndexError, KeyError, TypeError):
        lengths = {-1}
    if -1 in lengths:
        raise InvalidRequestError(
            "The batch must be a mapping of column names to lists or arrays, a data frame or an "
            "Arrow table.",
            param="path",
        )
    if "path" not in columns:
        raise InvalidRequestError(
            "The batch has no column 'path'. Add one with the path of each image.", param="path"
        )
    if len(lengths) > 1:
        raise InvalidRequestError(
            "The columns of the batch differ in length. Give each one value per image.",
            param="path",
        )
    return columns


def image_row(job: Job, source_sha256: str, image: OutputImage, *, seed: int | None) -> OutputRow:
    """Return the row of an output image. The caller adds the engine.

    Args:
        job: The job of its source.
        source_sha256: The SHA-256 of the source's bytes, in hex.
        image: The image.
        seed: The seed of the image, or None if the engine takes no seed.
    """
    return {
        **dict.fromkeys(COLUMNS),
        "source_path": escape_surrogates(job.path),
        "source_sha256": source_sha256,
        "index": image_index(image.output_path),
        "seed": seed,
        "model": image.model,
        "size": job.size,
        "output_path": image.output_path,
        "output_sha256": image.sha256,
        "milliseconds": image.milliseconds,
        "note": image.note,
    }


def error_row(
    source: SourceRow, error: ImageVariationError, *, source_sha256: str | None
) -> OutputRow:
    """Return the row of a source that failed. The caller adds the engine and the default size.

    In addition to `COLUMNS`, it has `source`, the row of the source as JSON.

    Args:
        source: The row of the source.
        error: The error.
        source_sha256: The SHA-256 of the source's bytes in hex, or None if it could not be read.
    """
    path, size = source.get("path"), source.get("size")
    source_path = fsdecode(path) if isinstance(path, str | bytes | PathLike) else None
    if source_path is not None:
        source_path = escape_surrogates(hide_password(source_path))
    return {
        **dict.fromkeys(COLUMNS),
        "source_path": source_path,
        "source_sha256": source_sha256,
        "size": size if size in SIZES else None,
        "error": single_line(f"{type(error).__name__}: {error.message}"),
        "source": json.dumps(portable_row(source)),
        "position": source.get("position"),
    }


def unexpected_error(error: BaseException) -> EngineError:
    """Return the error of a source for an exception that an engine should not raise.

    This includes `SystemExit`, which would end all other sources of the process too.
    """
    return EngineError(
        f"Unexpected {type(error).__name__}. This is a bug in the engine or in this package."
    )


def single_line(text: str) -> str:
    """Return a text without line breaks or control characters.

    Engines may send any text, and files may have any name.
    """
    printable_text = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(printable_text.split())[:_MAX_ERROR_LENGTH]
