"""`WorkerActor`: a worker on one machine of a cluster, as Ray Data calls it.

It uses the same workers as a run on one machine: a process, so that a source that kills it loses
only itself, or concurrent calls if the engine is hosted.
"""

import os
import pickle
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from langchain_image_variation.batch.folders import BATCH_DIR
from langchain_image_variation.batch.rows import OutputRow, SourceRow
from langchain_image_variation.batch.variation_batch import VariationBatch
from langchain_image_variation.batch.workers import Workers, start_workers
from langchain_image_variation.exceptions import ImageVariationError, OutputError

__all__ = ["POLL_INTERVAL", "RUN_ID_NAME", "ActorSettings", "SourceResult", "WorkerActor"]

POLL_INTERVAL = 0.2
"""Seconds between two checks whether the run should stop."""

RUN_ID_NAME = f"{BATCH_DIR}/run-id"
"""The file that tells an actor that it sees the outputs of the run."""

SourceResult: TypeAlias = list[OutputRow] | ImageVariationError | None
"""The rows of a source, an error that ends the run, or None if the source was not started."""


@dataclass(frozen=True, slots=True)
class ActorSettings:
    """The settings of the run, for its actors."""

    batch: VariationBatch
    """The settings of the batch."""
    concurrency: int
    """The number of processes, or of concurrent calls if the engine is hosted."""
    working_dir: str
    """The folder that relative paths refer to."""
    run_id: bytes
    """The content of the file `RUN_ID_NAME` during this run."""
    stop_flag: Any
    """The handle of a Ray actor that knows whether the run should stop."""
    max_failures: int | None = None
    """The actor stops on its own once this many of its sources have failed."""


class WorkerActor:
    """A worker of a run on a cluster.

    Args:
        settings: The settings.
    """

    def __init__(self, settings: ActorSettings) -> None:
        self._settings = settings
        self._is_stopped = False
        self._failures = 0
        self._last_check = 0.0
        self._workers: Workers | None = None

    def __call__(self, table: Any) -> Any:
        """Process a table of sources, and return the pickled result of each by its position."""
        import pyarrow

        sources = table.to_pylist()
        results = [pickle.dumps(result) for result in self._process(sources)]
        positions = [source["position"] for source in sources]
        return pyarrow.table(
            {"position": positions, "result": pyarrow.array(results, pyarrow.binary())}
        )

    def _process(self, sources: Sequence[SourceRow]) -> list[SourceResult]:
        results: list[SourceResult] = [None] * len(sources)
        pending: dict[Future[list[OutputRow]], int] = {}
        for index, source in enumerate(sources):
            if self._should_stop():
                break
            try:
                workers = self._ensure_workers()
            except ImageVariationError as error:
                self._is_stopped, results[index] = True, error
                break
            pending[workers.submit(source)] = index
            self._wait_for_workers(pending, workers.capacity - 1, results)
        self._wait_for_workers(pending, 0, results)
        return results

    def _wait_for_workers(
        self,
        pending: dict[Future[list[OutputRow]], int],
        max_pending: int,
        results: list[SourceResult],
    ) -> None:
        """Wait until no more than `max_pending` sources are pending, and store the results."""
        while len(pending) > max_pending:
            if self._should_stop():
                self._withdraw(pending)
            done, _ = wait(pending, POLL_INTERVAL, FIRST_COMPLETED)
            for future in done:
                index = pending.pop(future)
                try:
                    rows = results[index] = future.result()
                except ImageVariationError as error:
                    self._is_stopped, results[index] = True, error
                else:
                    self._count_failures(rows)

    def _count_failures(self, rows: list[OutputRow]) -> None:
        """Stop after too many failures. Until the run learns of them, many more could follow."""
        self._failures += any(row["error"] is not None for row in rows)
        limit = self._settings.max_failures
        self._is_stopped = self._is_stopped or (limit is not None and self._failures >= limit)

    def _withdraw(self, pending: dict[Future[list[OutputRow]], int]) -> None:
        """Take back the sources that no worker has started."""
        assert self._workers is not None
        for future in list(pending):
            if self._workers.withdraw(future):
                del pending[future]

    def _ensure_workers(self) -> Workers:
        """Return the workers. The first call starts them.

        Raises:
            OutputError: If this machine does not see the outputs of the run.
            ImageVariationError: If the engine cannot be created.
        """
        if self._workers is None:
            batch = self._settings.batch
            with suppress(OSError):
                os.chdir(self._settings.working_dir)
            if batch.outputs.read(RUN_ID_NAME) != self._settings.run_id:
                raise OutputError(
                    "A machine of the cluster does not see the output folder. Choose a folder that "
                    "all machines share."
                )
            self._workers = start_workers(batch, self._settings.concurrency)
        return self._workers

    def _should_stop(self) -> bool:
        import ray

        if not self._is_stopped and time.monotonic() - self._last_check > POLL_INTERVAL:
            self._is_stopped = ray.get(self._settings.stop_flag.is_set.remote())
            self._last_check = time.monotonic()
        return self._is_stopped
