"""`Ledger`: what a bulk run has done, on disk, so that it can be taken up after anything.

It is an SQLite database beside the pictures, written by one process. Each result is a transaction.
Its write-ahead log keeps them when the process is killed; a power cut may take the last ones, which
loses nothing: the pictures stand by themselves, and are looked at again.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from langchain_image_variation.batch_rows import COLUMNS, Row
from langchain_image_variation.exceptions import OutputError

__all__ = ["LEDGER_DIR", "Known", "Ledger"]

LEDGER_DIR = ".bulk"
"""The folder below the output folder that holds the ledger."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS outputs (
    output_path TEXT PRIMARY KEY,
    output_sha256 TEXT NOT NULL,
    seed INTEGER,
    milliseconds REAL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rows (
    position INTEGER NOT NULL,
    "index" INTEGER NOT NULL,
    run INTEGER NOT NULL,
    source_path TEXT,
    source_sha256 TEXT,
    engine TEXT,
    engine_version TEXT,
    size TEXT,
    output_path TEXT,
    error TEXT,
    PRIMARY KEY (position, "index")
) WITHOUT ROWID;
"""
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a picture."""

    output_sha256: str
    seed: int | None


class Ledger:
    """The results of the runs into one output folder.

    Only one process may have it open. Use it as a context manager.

    Args:
        output_dir: An existing folder.

    Raises:
        OutputError: If the database cannot be opened, is damaged, or is another release's.
    """

    def __init__(self, output_dir: Path) -> None:
        with told():
            (output_dir / LEDGER_DIR).mkdir(exist_ok=True)
            path = output_dir / LEDGER_DIR / "ledger.sqlite"
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._run = self._opened()
        except BaseException:
            self._connection.close()
            raise

    def _opened(self) -> int:
        """Prepare the database, and return the number of this run."""
        with told():
            # Without this the log needs memory shared between processes, which network drives lack.
            self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            if version not in (0, _VERSION):
                raise OutputError(
                    "The output folder was written by another release; name another folder."
                )
            self._connection.executescript(_SCHEMA)
            self._connection.execute(f"PRAGMA user_version = {_VERSION}")
            (last,) = self._connection.execute("SELECT MAX(run) FROM rows").fetchone()
        return (last or 0) + 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._connection.close()

    def known(self, output_paths: Sequence[str]) -> dict[str, Known]:
        """Return what is known of pictures that were made, by their path.

        Raises:
            OutputError: If the database cannot be read.
        """
        marks = ", ".join("?" * len(output_paths))
        query = (
            f"SELECT output_path, output_sha256, seed FROM outputs WHERE output_path IN ({marks})"
        )
        with told():
            found = self._connection.execute(query, output_paths).fetchall()
        return {path: Known(*rest) for path, *rest in found}

    def record(self, position: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write down what came of one source, in the place of what was there of its position.

        Args:
            position: Where the source stands in the run, from 0.
            rows: As `VariationBatch` returns them.

        Raises:
            OutputError: If it cannot be written, such as on a full disk.
        """
        with told(), self._transaction() as connection:
            connection.execute("DELETE FROM rows WHERE position = ?", (position,))
            for row in rows:
                if row["output_path"] is not None:
                    connection.execute(_KEEP, {key: row[key] for key in COLUMNS})
                said = {**row, "position": position, "run": self._run}
                connection.execute(_ADD, {**said, "index": row["index"] or 0})

    def forget_others(self) -> None:
        """Drop what earlier runs said of sources, once this one has said all.

        Raises:
            OutputError: If it cannot be written.
        """
        with told(), self._transaction() as connection:
            connection.execute("DELETE FROM rows WHERE run <> ?", (self._run,))

    def rows(self) -> Iterator[Row]:
        """Yield all rows in order: those of this run, and those of earlier ones not yet redone.

        Raises:
            OutputError: If the database cannot be read.
        """
        with told():
            for values in self._connection.execute(_ALL):
                yield dict(zip(COLUMNS, values, strict=True))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._connection.execute("BEGIN")
        try:
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


_KEEP = """
INSERT INTO outputs VALUES (:output_path, :output_sha256, :seed, :milliseconds)
ON CONFLICT (output_path) DO UPDATE SET output_sha256 = excluded.output_sha256,
    milliseconds = COALESCE(excluded.milliseconds, milliseconds)
"""
_ADD = """
INSERT INTO rows VALUES (:position, :index, :run, :source_path, :source_sha256, :engine,
    :engine_version, :size, :output_path, :error)
"""
_ALL = """
SELECT source_path, source_sha256, NULLIF("index", 0), seed, engine, engine_version, size,
    output_path, output_sha256, milliseconds, error
FROM rows LEFT JOIN outputs USING (output_path)
ORDER BY position, "index"
"""


@contextmanager
def told() -> Iterator[None]:
    """Turn what the database says into an error of ours."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise OutputError(
                f"The ledger of the output folder is damaged; remove its folder {LEDGER_DIR!r}. "
                "The pictures stay, and are not made again."
            ) from None
        raise OutputError(
            f"The ledger of the output folder cannot be used ({error.sqlite_errorname}); is the "
            "disk full, or the ledger open in another program?"
        ) from None
    except OSError as error:
        raise OutputError(
            f"The ledger of the output folder cannot be made: {error.strerror}."
        ) from None
