"""`Ledger`: what a bulk run has done, on disk, so that it can be taken up after anything.

It is an SQLite database beside the pictures, written by one process. Each result is a transaction.
Its write-ahead log keeps them when the process is killed; a power cut may take the last ones, which
loses nothing: the pictures stand by themselves, and are looked at again.
"""

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from langchain_image_variation.batch.rows import COLUMNS, Row
from langchain_image_variation.exceptions import OutputError

__all__ = ["LEDGER_DIR", "Known", "Ledger", "translate_sqlite_errors"]

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
_PAGE_ROWS = 1000
"""How many rows one query reads, so that a manifest of millions of rows needs little memory."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a picture."""

    output_sha256: str
    seed: int | None


class Ledger:
    """The results of the runs into one output folder.

    Only one process may have it open. Threads may share it. Use it as a context manager.

    Args:
        output_dir: An existing folder.

    Raises:
        OutputError: If the database cannot be opened, is damaged, or is another release's.
    """

    def __init__(self, output_dir: Path) -> None:
        with translate_sqlite_errors():
            (output_dir / LEDGER_DIR).mkdir(exist_ok=True)
            self._shared = _SharedConnection(output_dir / LEDGER_DIR / "ledger.sqlite")
        try:
            self._run = self._prepare()
        except BaseException:
            self._shared.close()
            raise

    def _prepare(self) -> int:
        """Prepare the database, and return the number of this run."""
        with self._shared.borrow() as connection:
            # Without this the log needs memory shared between processes, which network drives lack.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version not in (0, _VERSION):
                raise OutputError(
                    "The output folder was written by another release; name another folder."
                )
            connection.executescript(_SCHEMA)
            connection.execute(f"PRAGMA user_version = {_VERSION}")
            (last,) = connection.execute("SELECT MAX(run) FROM rows").fetchone()
        return (last or 0) + 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._shared.close()

    def known(self, output_paths: Sequence[str]) -> dict[str, Known]:
        """Return what is known of pictures that were made, by their path.

        Raises:
            OutputError: If the database cannot be read, or the ledger is closed.
        """
        marks = ", ".join("?" * len(output_paths))
        query = (
            f"SELECT output_path, output_sha256, seed FROM outputs WHERE output_path IN ({marks})"
        )
        with self._shared.borrow() as connection:
            found = connection.execute(query, output_paths).fetchall()
        return {path: Known(*rest) for path, *rest in found}

    def record(self, position: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replace the rows of one source.

        Args:
            position: Where the source stands in the run, from 0.
            rows: As `VariationBatch` returns them.

        Raises:
            OutputError: If they cannot be written, such as on a full disk, or the ledger is closed.
        """
        added = [
            {**row, "position": position, "run": self._run, "index": row["index"] or 0}
            for row in rows
        ]
        made = [
            {key: row[key] for key in COLUMNS} for row in added if row["output_path"] is not None
        ]
        with self._shared.transaction() as connection:
            connection.execute("DELETE FROM rows WHERE position = ?", (position,))
            connection.executemany(_KEEP, made)
            connection.executemany(_ADD, added)

    def forget_others(self) -> None:
        """Delete the rows of earlier runs, once this run has recorded every source.

        Raises:
            OutputError: If they cannot be deleted, or the ledger is closed.
        """
        with self._shared.transaction() as connection:
            connection.execute("DELETE FROM rows WHERE run <> ?", (self._run,))

    def rows(self) -> Iterator[Row]:
        """Yield all rows in order: those of this run, and those of earlier ones not yet redone.

        Other threads may use the ledger between two rows. A row that they record meanwhile is
        yielded if its turn has not passed.

        Raises:
            OutputError: If the database cannot be read, or the ledger is closed.
        """
        last = (-1, -1)
        while True:
            with self._shared.borrow() as connection:
                page = connection.execute(_PAGE, (*last, _PAGE_ROWS)).fetchall()
            for position, index, *values in page:
                yield dict(zip(COLUMNS, values, strict=True))
                last = position, index
            if len(page) < _PAGE_ROWS:
                return

    def copy_to(self, path: Path) -> None:
        """Write a copy of the database as it is now to a new file.

        Raises:
            OutputError: If it cannot be written, or the ledger is closed.
        """
        with self._shared.borrow() as connection, closing(sqlite3.connect(path)) as copy:
            connection.backup(copy)


class _SharedConnection:
    """An SQLite connection that threads take turns using.

    `borrow` and `transaction` are the only ways to the connection, and each lends it to one thread
    at a time. Borrowers must read all rows of a query before they give it back: a cursor is part of
    its connection.

    Args:
        path: The database.

    Raises:
        sqlite3.Error: If it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False
        )

    @contextmanager
    def borrow(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection to this thread for the block.

        Raises:
            OutputError: If the connection is closed, or SQLite fails in the block.
        """
        with self._lock, translate_sqlite_errors():
            if self._connection is None:
                raise OutputError("The ledger of the output folder is closed: its run has ended.")
            yield self._connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection for a transaction: all of it is written, or nothing.

        Raises:
            OutputError: As `borrow`.
        """
        with self.borrow() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close the connection, once no thread uses it."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


_KEEP = """
INSERT INTO outputs VALUES (:output_path, :output_sha256, :seed, :milliseconds)
ON CONFLICT (output_path) DO UPDATE SET output_sha256 = excluded.output_sha256,
    milliseconds = COALESCE(excluded.milliseconds, milliseconds)
"""
_ADD = """
INSERT INTO rows VALUES (:position, :index, :run, :source_path, :source_sha256, :engine,
    :engine_version, :size, :output_path, :error)
"""
_PAGE = """
SELECT position, "index",
    source_path, source_sha256, NULLIF("index", 0), seed, engine, engine_version, size,
    output_path, output_sha256, milliseconds, error
FROM rows LEFT JOIN outputs USING (output_path)
WHERE (position, "index") > (?, ?)
ORDER BY position, "index"
LIMIT ?
"""


@contextmanager
def translate_sqlite_errors() -> Iterator[None]:
    """Re-raise errors of SQLite, and of the file system around it, as `OutputError`."""
    try:
        yield
    except sqlite3.Error as error:
        # Only errors that SQLite itself reports have a code. Those of Python's module have none.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
        if code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise OutputError(
                f"The ledger of the output folder is damaged; remove its folder {LEDGER_DIR!r}. "
                "The pictures stay, and are not made again."
            ) from None
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        raise OutputError(
            f"The ledger of the output folder cannot be used ({name}); is the disk full, or the "
            "ledger open in another program?"
        ) from None
    except OSError as error:
        raise OutputError(
            f"The ledger of the output folder cannot be made: {error.strerror}."
        ) from None
