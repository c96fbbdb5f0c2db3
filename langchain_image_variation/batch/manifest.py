"""The manifest of a bulk run: `manifest.parquet` and `manifest.jsonl`, a row for each picture."""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import IO, Any

from langchain_image_variation.batch.rows import COLUMNS, Row
from langchain_image_variation.exceptions import MissingExtraError
from langchain_image_variation.files.outputs import Outputs

__all__ = ["JSON_LINES", "PARQUET", "parquet_is_there", "write_manifest"]

PARQUET = "manifest.parquet"
JSON_LINES = "manifest.jsonl"

_GROUP = 1024
_TYPES = {"index": "int64", "seed": "int64", "milliseconds": "float64"}


def parquet_is_there() -> bool:
    """Say whether Parquet can be written here: whether pyarrow is installed."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        return False
    return True


def write_manifest(name: str, rows: Iterable[Row], outputs: Outputs) -> None:
    """Write a manifest, row by row, and put it in place whole.

    Args:
        name: `PARQUET` or `JSON_LINES`.
        rows: Each has `COLUMNS`.
        outputs: Where to.

    Raises:
        MissingExtraError: If pyarrow is needed and not installed.
        OutputError: If it cannot be written.
    """
    with outputs.open_for_writing(name) as file:
        (_write_parquet if name == PARQUET else _write_json_lines)(rows, file)


def _write_json_lines(rows: Iterable[Row], file: IO[bytes]) -> None:
    for row in rows:
        file.write(json.dumps(row).encode() + b"\n")


def _write_parquet(rows: Iterable[Row], file: IO[bytes]) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError.for_package(
            f"Writing {PARQUET}", "pyarrow", "langchain-image-variation[batch]"
        ) from None
    schema = pyarrow.schema(
        [(name, pyarrow.type_for_alias(_TYPES.get(name, "string"))) for name in COLUMNS]
    )
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        for group in _groups(rows):
            writer.write_table(pyarrow.Table.from_pylist(group, schema))


def _groups(rows: Iterable[Row]) -> Iterator[list[dict[str, Any]]]:
    left = iter(rows)
    while group := list(islice(left, _GROUP)):
        yield group
