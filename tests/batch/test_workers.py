"""The workers themselves, with engines that behave badly."""

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from langchain_image_variation import VariationBatch
from langchain_image_variation.batch.ray.cluster import Cluster
from langchain_image_variation.batch.workers import Workers
from langchain_image_variation.batch.workers.calls import ConcurrentCalls
from langchain_image_variation.batch.workers.processes import WorkerProcesses
from langchain_image_variation.exceptions import AuthenticationError, InvalidRequestError
from tests.batch.declared import made

CREWS: dict[str, Callable[[VariationBatch, int], Workers]] = {
    "processes": WorkerProcesses,
    "tasks": ConcurrentCalls,
}
either = pytest.mark.parametrize("crew", CREWS.values(), ids=CREWS)


def batch(engine: str) -> VariationBatch:
    """Return settings for an engine."""
    return VariationBatch(Path("out").absolute(), engine=engine, size="256x256")


def errors(workers: Workers, *paths: str) -> list[str | None]:
    """Return what went wrong with each source, once all are done and the workers have ended."""
    futures = [workers.submit({"path": path}) for path in paths]
    rows: list[dict[str, Any]] = [future.result(60)[0] for future in futures]
    workers.close()
    return [row["error"] for row in rows]


@either
def test_an_engine_that_asks_to_exit_is_an_error_of_its_source(crew: Any) -> None:
    """It costs no other source, and the run does not wait for ever."""
    said = "EngineError: Unexpected SystemExit. This is a bug in the engine or in this package."
    assert errors(crew(batch("exiting"), 1), "photos/0.png", "photos/1.png") == [said] * 2


@either
def test_an_engine_is_closed_at_the_end(crew: Any) -> None:
    """One that fails at that costs nothing."""
    assert errors(crew(batch("closing"), 1), "photos/0.png", "photos/1.png") == [None, None]
    assert made().keys() == {"closed"}


@either
def test_an_error_arrives_whatever_it_carries(crew: Any) -> None:
    """What ends a run does so, and not as a worker that died."""
    workers = crew(batch("refused"), 1)
    with pytest.raises(AuthenticationError, match="The key is wrong"):
        workers.submit({"path": "photos/0.png"}).result(60)
    workers.close()


def test_an_engine_may_leave_its_folder() -> None:
    """The paths of further sources mean what they meant."""
    assert errors(WorkerProcesses(batch("wandering"), 1), "photos/0.png", "photos/1.png") == [
        None,
        None,
    ]


def test_the_folder_may_be_gone(tmp_path: Path) -> None:
    """That of the run, where no path is relative to it."""
    workers = batch("instant")
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert errors(WorkerProcesses(workers, 1), str(tmp_path / "photos" / "0.png")) == [None]


@pytest.mark.slow
@pytest.mark.parametrize("ends", [True, False])
def test_what_an_engine_starts_holds_nothing_up(
    ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the run, which waits for answers, nor the next one; and none of it stays."""
    if ends:
        monkeypatch.setenv("ENGINE_ENDS", "1")
    with open("lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = errors(WorkerProcesses(batch("forking"), 1, lock.fileno()), "photos/0.png")
    died = "EngineError: The worker process died 3 times in a row (exit code 9)."
    assert found == [died if ends else None]
    assert len(made()) == (6 if ends else 2)
    with open("lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for child in map(int, made()):
        while True:
            # It was killed, and whoever adopted it may take a moment to notice.
            state = Path(f"/proc/{child}/stat")
            if not state.exists() or state.read_text().split()[2] == "Z":
                break
            time.sleep(0.01)


@pytest.mark.parametrize("gpus", [-1, 0.00001, 1.5, float("nan"), float("inf")])
def test_parts_of_gpus_that_no_cluster_knows_are_refused(gpus: float) -> None:
    """Before one is asked."""
    with pytest.raises(InvalidRequestError, match="gpus must be a whole number, or a part"):
        Cluster(gpus=gpus)
    assert [Cluster(gpus=known).gpus for known in (0, 0.25, 1, 2)] == [0, 0.25, 1, 2]
