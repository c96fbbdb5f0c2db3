"""The ledger: sharing it between threads, and errors of SQLite."""

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from langchain_image_variation.batch.ledger import Ledger, RecordedImage, translate_sqlite_errors
from langchain_image_variation.batch.rows import COLUMNS, OutputRow
from langchain_image_variation.exceptions import OutputError

SOURCES = 50
ROUNDS = 2000


def output_path(position: int, index: int) -> str:
    """Return the path of an image of the source at a position."""
    return f"images/{position}-{index}.png"


def recorded_image(position: int, index: int) -> RecordedImage:
    """Return what the ledger should know about that image."""
    path = output_path(position, index)
    return RecordedImage(path, f"{position:032}{index:032}", position * 10 + index, None, None)


def rows_of(position: int) -> list[OutputRow]:
    """Return the rows of a source with two variations."""
    rows = []
    for index in (1, 2):
        image = recorded_image(position, index)
        row: OutputRow = dict.fromkeys(COLUMNS)
        row |= {"index": index, "source_path": f"{position}.png", "seed": image.seed}
        row |= {
            "output_path": output_path(position, index),
            "output_sha256": image.output_sha256,
            "milliseconds": 1.0,
        }
        rows.append(row)
    return rows


def fill_ledger(folder: Path) -> Ledger:
    """Return a new ledger with the rows of all sources."""
    ledger = Ledger(folder)
    for position in range(SOURCES):
        ledger.record(position, rows_of(position))
    return ledger


def test_threads_can_share_a_ledger(tmp_path: Path) -> None:
    """Each thread gets its own results while others read, write, list and copy."""
    start = Barrier(8)

    def look_up(ledger: Ledger, first: int) -> None:
        for turn in range(ROUNDS):
            position = (first + turn) % SOURCES
            paths = [output_path(position, 1), output_path(position, 2), f"missing-{turn}.png"]
            expected = {
                paths[0]: recorded_image(position, 1),
                paths[1]: recorded_image(position, 2),
            }
            assert ledger.find_images(paths) == expected

    def record(ledger: Ledger, first: int) -> None:
        for turn in range(ROUNDS // 10):
            position = (first + turn) % SOURCES
            ledger.record(position, rows_of(position))

    def list_all(ledger: Ledger, _: int) -> None:
        for _ in range(ROUNDS // 100):
            assert [row["output_path"] for row in ledger.rows()] == [
                output_path(position, index) for position in range(SOURCES) for index in (1, 2)
            ]

    def copy(ledger: Ledger, _: int) -> None:
        for turn in range(ROUNDS // 200):
            ledger.copy_to(tmp_path / f"copy-{turn}.sqlite")

    def work(number: int, task: Callable[[Ledger, int], None]) -> None:
        start.wait(60)
        task(ledger, number * 7)

    tasks = [look_up, look_up, look_up, look_up, look_up, record, list_all, copy]
    with fill_ledger(tmp_path) as ledger, ThreadPoolExecutor(len(tasks)) as pool:
        for future in [pool.submit(work, number, task) for number, task in enumerate(tasks)]:
            future.result()
    with sqlite3.connect(tmp_path / "copy-0.sqlite") as connection:
        assert connection.execute("SELECT COUNT(*) FROM rows").fetchone() == (2 * SOURCES,)
    connection.close()


def test_rows_are_read_in_several_queries(tmp_path: Path) -> None:
    """Rows are in order and not repeated, even if those of one source span two queries."""
    with Ledger(tmp_path) as ledger:
        for position in range(3):
            rows = []
            for index in range(1, 778):
                row: OutputRow = dict.fromkeys(COLUMNS)
                rows.append(row | {"index": index, "source_path": f"{position}.png"})
            ledger.record(position, rows)
        rows_read = [(row["source_path"], row["index"]) for row in ledger.rows()]
    assert rows_read == [(f"{n}.png", index) for n in range(3) for index in range(1, 778)]


def test_row_without_index_is_listed(tmp_path: Path) -> None:
    """A source that failed as a whole is listed with one row without an index."""
    with Ledger(tmp_path) as ledger:
        row: OutputRow = dict.fromkeys(COLUMNS)
        ledger.record(0, [row | {"error": "SourceError: none."}])
        assert [(row["index"], row["error"]) for row in ledger.rows()] == [
            (None, "SourceError: none.")
        ]


def test_rows_can_be_recorded_during_listing(tmp_path: Path) -> None:
    """A listing locks the ledger only while it reads."""
    with fill_ledger(tmp_path) as ledger:
        count = 0
        for _ in ledger.rows():
            ledger.record(0, rows_of(0))
            count += 1
    assert count == 2 * SOURCES


def test_failed_record_changes_nothing(tmp_path: Path) -> None:
    """The rows of a source are written together or not at all."""
    with fill_ledger(tmp_path) as ledger:
        invalid_rows = [*rows_of(0)[:1], {**rows_of(0)[1], "output_sha256": None}]
        with pytest.raises(OutputError, match="SQLITE_CONSTRAINT"):
            ledger.record(0, invalid_rows)
        assert len(list(ledger.rows())) == 2 * SOURCES


def test_closed_ledger_raises_an_error(tmp_path: Path) -> None:
    """A closed ledger raises an error in a thread that still uses it."""
    with fill_ledger(tmp_path) as ledger:
        pass
    operations: list[Callable[[], object]] = [
        lambda: ledger.find_images(["a.png"]),
        lambda: ledger.record(0, []),
        lambda: list(ledger.rows()),
        lambda: ledger.copy_to(tmp_path / "copy.sqlite"),
        ledger.delete_earlier_runs,
    ]
    for operation in operations:
        with pytest.raises(OutputError, match=r"is closed because its run has ended\.$"):
            operation()
    with ledger:
        pass  # Closing it again changes nothing.


@pytest.mark.parametrize(
    "error",
    [
        sqlite3.InterfaceError("bad parameter or other API misuse"),
        sqlite3.ProgrammingError("Cannot operate on a closed database."),
        sqlite3.DatabaseError("any"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_without_a_code_are_translated(error: Exception) -> None:
    """Python's sqlite3 module raises errors that have no SQLite error code."""
    with pytest.raises(OutputError, match=rf"cannot be used \({type(error).__name__}\)"):
        with translate_sqlite_errors():
            raise error
