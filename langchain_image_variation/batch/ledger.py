"""`Ledger`: records on disk what the runs of a batch have done, so that the next run can resume.

It is an SQLite database next to the images. One process writes it, with one transaction per source.
The write-ahead log keeps all transactions if the process is killed. A power cut may lose the last
ones, but no images: the next run finds and checks those that the ledger does not know.
"""

import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from langchain_image_variation.batch.folders import BATCH_DIR
from langchain_image_variation.batch.output_names import image_id
from langchain_image_variation.batch.rows import COLUMNS, OutputRow
from langchain_image_variation.exceptions import OutputError

__all__ = ["LEDGER_NAME", "Ledger", "RecordedImage", "translate_sqlite_errors"]

LEDGER_NAME = f"{BATCH_DIR}/ledger.sqlite"
"""The path of the database, relative to the outputs."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS outputs (
    output_path TEXT PRIMARY KEY,
    image_id TEXT NOT NULL,
    output_sha256 TEXT NOT NULL,
    seed INTEGER,
    milliseconds REAL,
    model TEXT,
    note TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS image_ids ON outputs (image_id);
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
    source TEXT,
    PRIMARY KEY (position, "index")
) WITHOUT ROWID;
"""
_SCHEMA_VERSION = 3
_ROWS_PER_QUERY = 1000
"""How many rows one query reads, so that a manifest of millions of rows needs little memory."""


@dataclass(frozen=True, slots=True)
class RecordedImage:
    """What the ledger knows about an image."""

    output_path: str
    output_sha256: str
    seed: int | None
    model: str | None
    note: str | None


class Ledger:
    """The results of all runs into one output folder. Use it as a context manager.

    Only one process may have it open at a time. It is thread-safe.

    Args:
        output_dir: The output folder, which must exist.

    Raises:
        OutputError: If the database cannot be opened, is corrupt, or was written by an incompatible
            version.
    """

    def __init__(self, output_dir: Path) -> None:
        with translate_sqlite_errors():
            (output_dir / BATCH_DIR).mkdir(exist_ok=True)
            _create_file(output_dir / LEDGER_NAME)
            self._connection = _SharedConnection(output_dir / LEDGER_NAME)
        try:
            self._run = self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> int:
        """Prepare the database, and return the number of this run."""
        with self._connection.borrow() as connection:
            # In other locking modes WAL uses shared memory, which network drives don't support.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version not in (0, _SCHEMA_VERSION):
                raise OutputError(
                    "The output folder was written by an incompatible version of this package. "
                    "Choose another folder."
                )
            connection.executescript(_SCHEMA)
            connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            (last_run,) = connection.execute("SELECT MAX(run) FROM rows").fetchone()
        return (last_run or 0) + 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._connection.close()

    def find_images(self, output_paths: Sequence[str]) -> dict[str, RecordedImage]:
        """Return the images at these paths that were made by any run, by path.

        Raises:
            OutputError: If the database cannot be read, or the ledger is closed.
        """
        images = self._select_images("output_path", output_paths)
        return {image.output_path: image for image in images}

    def find_copies(self, output_paths: Sequence[str]) -> dict[str, RecordedImage]:
        """Return recorded images that are equal to those at these paths, by path.

        Sources with the same content but different names have equal images.

        Raises:
            OutputError: If the database cannot be read, or the ledger is closed.
        """
        paths_by_id = {image_id(path): path for path in output_paths}
        return {
            paths_by_id[image_id(image.output_path)]: image
            for image in self._select_images("image_id", list(paths_by_id))
            if image.output_path not in output_paths
        }

    def _select_images(self, column: str, values: Sequence[str]) -> list[RecordedImage]:
        query = (
            "SELECT output_path, output_sha256, seed, model, note FROM outputs "
            f"WHERE {column} IN ({', '.join('?' * len(values))}) ORDER BY output_path"
        )
        with self._connection.borrow() as connection:
            return [RecordedImage(*row) for row in connection.execute(query, values)]

    def record(self, position: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replace the rows of one source.

        Args:
            position: The position of the source in the run, from 0.
            rows: The rows from `VariationBatch`.

        Raises:
            OutputError: If the rows cannot be written, such as on a full disk, or the ledger is
                closed.
        """
        new_rows = [
            {
                **row,
                "position": position,
                "run": self._run,
                "index": row["index"] or 0,
                "source": row.get("source"),
            }
            for row in rows
        ]
        images = [
            {**{key: row[key] for key in COLUMNS}, "image_id": image_id(row["output_path"])}
            for row in new_rows
            if row["output_path"] is not None
        ]
        with self._connection.transaction() as connection:
            connection.execute("DELETE FROM rows WHERE position = ?", (position,))
            connection.executemany(_UPSERT_IMAGE, images)
            connection.executemany(_INSERT_ROW, new_rows)

    def delete_earlier_runs(self) -> None:
        """Delete the rows of earlier runs, once this run has recorded every source.

        Raises:
            OutputError: If the rows cannot be deleted, or the ledger is closed.
        """
        with self._connection.transaction() as connection:
            connection.execute("DELETE FROM rows WHERE run <> ?", (self._run,))

    def is_empty(self) -> bool:
        """Return whether no run has recorded anything yet.

        Raises:
            OutputError: If the database cannot be read, or the ledger is closed.
        """
        query = "SELECT EXISTS (SELECT 1 FROM rows) OR EXISTS (SELECT 1 FROM outputs)"
        with self._connection.borrow() as connection:
            return not connection.execute(query).fetchone()[0]

    def rows(self) -> Iterator[OutputRow]:
        """Yield all rows in order: of this run, and of earlier runs for sources not yet recorded.

        Other threads may use the ledger between two rows. A row that they record in the meantime is
        yielded unless its position has passed.

        Raises:
            OutputError: If the database cannot be read, or the ledger is closed.
        """
        for values in self._select_pages(_SELECT_PAGE):
            yield dict(zip(COLUMNS, values, strict=True))

    def failed_sources(self) -> Iterator[dict[str, object]]:
        """Yield the row and the `error` of each source that failed, in the order of `rows`.

        Raises:
            OutputError: See `rows`.
        """
        for source, error in self._select_pages(_SELECT_FAILED_PAGE):
            yield {**json.loads(source), "error": error}

    def _select_pages(self, query: str) -> Iterator[list[Any]]:
        last_key = (-1, -1)
        while True:
            with self._connection.borrow() as connection:
                page = connection.execute(query, (*last_key, _ROWS_PER_QUERY)).fetchall()
            for position, index, *values in page:
                yield values
                last_key = position, index
            if len(page) < _ROWS_PER_QUERY:
                return

    def copy_to(self, path: Path) -> None:
        """Write a copy of the database in its current state to a new file.

        Raises:
            OutputError: If the copy cannot be written, or the ledger is closed.
        """
        with self._connection.borrow() as connection, closing(sqlite3.connect(path)) as copy:
            connection.backup(copy)


def _create_file(path: Path) -> None:
    """Create a file if it does not exist, with the permissions that the umask allows.

    SQLite would not make it writable for the group even if the umask allows it, so a user who
    shares the folder could not continue the batch. SQLite's other files get the same permissions.

    Raises:
        OSError: If the file cannot be created or is not writable.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o666))


class _SharedConnection:
    """An SQLite connection that threads use in turn.

    `borrow` and `transaction` are the only ways to access the connection, and each lends it to one
    thread at a time. Borrowers must read all rows of a query before they return the connection,
    because its cursors cannot outlive the block.

    Args:
        path: The database.

    Raises:
        sqlite3.Error: If the database cannot be opened.
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
                raise OutputError(
                    "The ledger of the output folder is closed because its run has ended."
                )
            yield self._connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection for a transaction, which is rolled back if the block raises an error.

        Raises:
            OutputError: See `borrow`.
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
        """Wait until no thread uses the connection, and close it."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


_UPSERT_IMAGE = """
INSERT INTO outputs VALUES (:output_path, :image_id, :output_sha256, :seed, :milliseconds, :model,
    :note)
ON CONFLICT (output_path) DO UPDATE SET output_sha256 = excluded.output_sha256,
    milliseconds = COALESCE(excluded.milliseconds, milliseconds),
    model = COALESCE(excluded.model, model),
    note = COALESCE(excluded.note, note)
"""
_INSERT_ROW = """
INSERT INTO rows VALUES (:position, :index, :run, :source_path, :source_sha256, :engine,
    :engine_version, :size, :output_path, :error, :source)
"""
_SELECT_PAGE = """
SELECT position, "index",
    source_path, source_sha256, NULLIF("index", 0), seed, engine, engine_version, model, size,
    output_path, output_sha256, milliseconds, note, error
FROM rows LEFT JOIN outputs USING (output_path)
WHERE (position, "index") > (?, ?)
ORDER BY position, "index"
LIMIT ?
"""

_SELECT_FAILED_PAGE = """
SELECT position, "index", source, error FROM rows
WHERE (position, "index") > (?, ?) AND error IS NOT NULL
ORDER BY position, "index"
LIMIT ?
"""


@contextmanager
def translate_sqlite_errors() -> Iterator[None]:
    """Re-raise SQLite errors, and errors of the file system, as `OutputError`."""
    try:
        yield
    except sqlite3.Error as error:
        # Errors that Python's sqlite3 module raises itself have no code.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
        if code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise OutputError(
                f"The ledger of the output folder is corrupt. Delete its folder {BATCH_DIR!r}; the "
                "images stay, and are not made again."
            ) from None
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        raise OutputError(
            f"The ledger of the output folder cannot be used ({name}). Check that the disk is not "
            "full and that no other program has the ledger open."
        ) from None
    except PermissionError:
        raise OutputError(
            "The ledger of the output folder is not writable. Check the permissions of its "
            f"folder {BATCH_DIR!r}, which may belong to another user, or choose another folder."
        ) from None
    except OSError as error:
        raise OutputError(
            f"The ledger of the output folder cannot be created: {error.strerror}."
        ) from None
