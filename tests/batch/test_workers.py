"""Workers with engines that misbehave."""

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
from tests.batch.declared_engines import count_made_images

WORKER_CLASSES: dict[str, Callable[[VariationBatch, int], Workers]] = {
    "processes": WorkerProcesses,
    "calls": ConcurrentCalls,
}
all_workers = pytest.mark.parametrize("worker_class", WORKER_CLASSES.values(), ids=WORKER_CLASSES)


def batch(engine: str) -> VariationBatch:
    """Return a batch with an engine."""
    return VariationBatch(Path("out").absolute(), engine=engine, size="256x256")


def errors(workers: Workers, *paths: str) -> list[str | None]:
    """Process sources, end the workers, and return the errors."""
    futures = [workers.submit({"path": path}) for path in paths]
    rows: list[dict[str, Any]] = [future.result(60)[0] for future in futures]
    workers.close()
    return [row["error"] for row in rows]


@pytest.mark.slow
@all_workers
def test_exiting_engine_fails_only_its_source(worker_class: Any) -> None:
    """An engine that exits fails only its source, and the run does not hang."""
    error = "EngineError: Unexpected SystemExit. This is a bug in the engine or in this package."
    assert errors(worker_class(batch("exiting"), 1), "photos/0.png", "photos/1.png") == [error] * 2


@pytest.mark.slow
@all_workers
def test_engine_is_closed_at_the_end(worker_class: Any) -> None:
    """The engine is closed at the end, and an error in `close` is ignored."""
    assert errors(worker_class(batch("closing"), 1), "photos/0.png", "photos/1.png") == [None, None]
    assert count_made_images().keys() == {"closed"}


@pytest.mark.slow
@all_workers
def test_fatal_error_reaches_the_run(worker_class: Any) -> None:
    """An error with attributes that cannot be pickled does not look like a dead worker."""
    workers = worker_class(batch("refused"), 1)
    with pytest.raises(AuthenticationError, match="The key is wrong"):
        workers.submit({"path": "photos/0.png"}).result(60)
    workers.close()


@pytest.mark.slow
def test_engine_may_change_working_directory() -> None:
    """Relative paths of further sources work after an engine changes the working directory."""
    assert errors(WorkerProcesses(batch("wandering"), 1), "photos/0.png", "photos/1.png") == [
        None,
        None,
    ]


@pytest.mark.slow
def test_working_directory_may_be_deleted(tmp_path: Path) -> None:
    """Absolute paths work after the working directory is deleted."""
    instant_batch = batch("instant")
    (tmp_path / "deleted").mkdir()
    os.chdir(tmp_path / "deleted")
    (tmp_path / "deleted").rmdir()
    assert errors(WorkerProcesses(instant_batch, 1), str(tmp_path / "photos" / "0.png")) == [None]


@pytest.mark.slow
@pytest.mark.parametrize("exits", [True, False])
def test_child_processes_of_an_engine_are_killed(
    exits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Child processes of an engine are killed, since they would delay this run and the next."""
    if exits:
        monkeypatch.setenv("ENGINE_ENDS", "1")
    with open("lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        results = errors(WorkerProcesses(batch("forking"), 1, lock.fileno()), "photos/0.png")
    error = "EngineError: The worker process died 3 times in a row (exit code 9)."
    assert results == [error if exits else None]
    assert len(count_made_images()) == (6 if exits else 2)
    with open("lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for child in map(int, count_made_images()):
        while True:
            # It was killed, but its new parent may need a moment to reap it.
            state = Path(f"/proc/{child}/stat")
            if not state.exists() or state.read_text().split()[2] == "Z":
                break
            time.sleep(0.01)


@pytest.mark.parametrize("gpus", [-1, 0.00001, 1.5, float("nan"), float("inf")])
def test_invalid_gpus_are_refused(gpus: float) -> None:
    """The number of GPUs is checked before a cluster is contacted."""
    with pytest.raises(InvalidRequestError, match="gpus must be a whole number, or a part"):
        Cluster(gpus=gpus)
    assert [Cluster(gpus=number).gpus for number in (0, 0.25, 1, 2)] == [0, 0.25, 1, 2]
