"""`ClusterRun`: a bulk run whose sources are worked on by the machines of a Ray cluster.

Ray Data hands blocks of sources to a pool of actors, and hands those of a machine that is lost to
others, which find the pictures that are there already. Only rows come back: here they are written
into the same ledger as those of a run on one machine.
"""

import os
import pickle
import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from langchain_image_variation.batch.inputs import Entry
from langchain_image_variation.batch.progress import Progress
from langchain_image_variation.batch.ray.actor import LOOK_EVERY, MARK, Actor, Orders
from langchain_image_variation.batch.ray.connection import connected, room
from langchain_image_variation.batch.rows import Row
from langchain_image_variation.batch.variation_batch import VariationBatch
from langchain_image_variation.batch.workers.choice import asks_server
from langchain_image_variation.batch.workers.protocol import CALLS
from langchain_image_variation.exceptions import (
    EngineError,
    ImageVariationError,
    InvalidRequestError,
)
from langchain_image_variation.files.outputs import Outputs

__all__ = ["MOST_IN_A_BLOCK", "Cluster", "ClusterRun"]

MOST_IN_A_BLOCK = 64
"""So many sources are handed out at once: what is told together, and looked at again if lost."""

_BLOCKS_A_WORKER = 8
"""With few sources, blocks are so small that each worker gets so many."""

_LEAST_GPU = 0.0001
"""Ray counts in such steps."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where and how to work.

    Raises:
        InvalidRequestError: If `gpus` is out of range.
    """

    address: str | None = None
    """As `ray.init` takes it; None means `RAY_ADDRESS`, or the cluster this machine is part of, or
    else this machine alone."""
    workers: int | None = None
    """How many; by default as many as the cluster has room for."""
    gpus: float = 0
    """How many GPUs each takes, or what part of one."""

    def __post_init__(self) -> None:
        whole = self.gpus in (0, 1) or (self.gpus > 1 and self.gpus % 1 == 0)
        if not whole and not _LEAST_GPU <= self.gpus < 1:
            raise InvalidRequestError(
                f"gpus must be a whole number, or a part of one GPU from {_LEAST_GPU}, got "
                f"{self.gpus:g}."
            )


class ClusterRun:
    """A run over the machines of a cluster.

    Args:
        batch: The settings.
        progress: Where results go.
        cluster: Where and how to work.
    """

    def __init__(self, batch: VariationBatch, progress: Progress, cluster: Cluster) -> None:
        self._batch = batch
        self._progress = progress
        self._cluster = cluster
        self._left_out = False
        self._fatal: ImageVariationError | None = None

    def go(self, inputs: Iterable[Entry], total: int) -> None:
        """Work on all sources.

        Args:
            inputs: The sources.
            total: How many there are.

        Raises:
            MissingExtraError: If Ray is not installed.
            EngineError: If the cluster cannot be reached, has no room, or fails.
            OutputError: If something cannot be written, or the folder is not shared.
            ImageVariationError: What would happen with every further source too, once what is in
                hand is finished.
        """
        with connected(self._cluster.address), _marked(self._batch.outputs) as mark:
            changed = self._pass(enumerate(inputs), total, mark)
            if changed:
                # They are no longer what was made; now that they are removed, they are made anew.
                again = ((at, entry) for at, entry in enumerate(inputs) if at in changed)
                self._pass(again, len(changed), mark)
        self._progress.summary.complete = not self._left_out

    def _pass(self, entries: Iterable[tuple[int, Entry]], total: int, mark: bytes) -> set[int]:
        """Work on sources; return where those stand whose pictures were changed by others."""
        import ray

        there = room(self._cluster.gpus)
        workers = self._cluster.workers or there
        at_once = CALLS if asks_server(self._batch.engine) else 1
        # A worker has the sources of one block in hand, not those of two.
        block = max(at_once, min(MOST_IN_A_BLOCK, -(-total // (workers * _BLOCKS_A_WORKER))))
        tables = [ray.put(table) for table in self._tables(entries, block)]
        changed: set[int] = set()
        if tables:
            workers = min(workers, len(tables))
            stop = _stop_flag()
            most = self._progress.max_failures
            orders = Orders(self._batch, at_once, os.getcwd(), mark, stop, most)
            with self._watching(stop):
                for position, outcome in self._outcomes(tables, block, workers, orders):
                    if isinstance(outcome, ImageVariationError):
                        self._fatal = self._fatal or outcome
                    elif outcome is None:
                        self._left_out = True
                    elif self._are_as_made(outcome):
                        self._progress.record(position, outcome)
                    else:
                        changed.add(position)
        if self._fatal is not None:
            raise self._fatal
        return changed

    def _tables(self, entries: Iterable[tuple[int, Entry]], block: int) -> Iterator[Any]:
        """Yield the sources in tables of so many rows; what cannot even be asked for is told."""
        import pyarrow

        schema = pyarrow.schema(
            [
                ("position", pyarrow.int64()),
                # A name need not be Unicode.
                ("path", pyarrow.binary()),
                ("n", pyarrow.int64()),
                ("size", pyarrow.string()),
                ("seed", pyarrow.int64()),
                ("strength", pyarrow.float64()),
            ]
        )
        rows = self._askable(entries)
        while table := list(islice(rows, block)):
            yield pyarrow.Table.from_pylist(table, schema)

    def _askable(self, entries: Iterable[tuple[int, Entry]]) -> Iterator[Row]:
        for position, entry in entries:
            if self._progress.is_over():
                self._left_out = True
                return
            source = {**entry.row, "position": position}
            try:
                if entry.error is not None:
                    raise entry.error
                job = self._batch.job(source)
            except ImageVariationError as error:
                self._progress.record(position, [self._batch.error_row(source, error)])
                continue
            asked = {"n": job.n, "size": job.size, "seed": job.seed, "strength": job.strength}
            yield {"position": position, "path": os.fsencode(job.path), **asked}

    def _outcomes(
        self, tables: list[Any], block: int, workers: int, orders: Orders
    ) -> Iterator[tuple[int, Any]]:
        """Yield what came of each source, in the order in which it is known."""
        import ray.data
        import ray.exceptions

        made = ray.data.from_arrow_refs(tables).map_batches(
            Actor,
            batch_size=block,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers),
            fn_constructor_kwargs={"orders": orders},
            num_cpus=1,
            num_gpus=self._cluster.gpus or None,
        )
        try:
            for table in made.iter_batches(batch_size=None, batch_format="pyarrow"):
                for row in table.to_pylist():
                    yield row["position"], pickle.loads(row["outcome"])
        except ray.exceptions.RayError as error:
            raise EngineError(
                f"The Ray cluster failed ({type(error).__name__}); the same command goes on from "
                "here. Have all its machines the same release of this package?"
            ) from None

    def _are_as_made(self, rows: list[Row]) -> bool:
        """Say whether pictures that were there are those in the ledger; remove those that are not.

        Raises:
            OutputError: If one cannot be removed.
        """
        kept = {
            row["output_path"]: row["output_sha256"]
            for row in rows
            if row["output_path"] is not None and row["milliseconds"] is None
        }
        known = self._progress.ledger.known(list(kept))
        changed = [path for path, one in known.items() if one.output_sha256 != kept[path]]
        for path in changed:
            self._batch.outputs.remove(path)
        return not changed

    @contextmanager
    def _watching(self, stop: Any) -> Iterator[None]:
        """Tell the workers to begin nothing more, once the run is to end in the block."""
        done = threading.Event()

        def watch() -> None:
            while not done.wait(LOOK_EVERY):
                if self._fatal is not None or self._progress.is_over():
                    stop.set.remote()
                    return

        watcher = threading.Thread(target=watch, name="stop", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


class _Flag:
    """Whether anything more is to be begun."""

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        self._is_set = True

    def is_set(self) -> bool:
        return self._is_set


def _stop_flag() -> Any:
    """Return a flag that lives on this machine, so that it lives as long as the run."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    strategy = NodeAffinitySchedulingStrategy(here, soft=False)
    return ray.remote(_Flag).options(num_cpus=0, scheduling_strategy=strategy).remote()


@contextmanager
def _marked(outputs: Outputs) -> Iterator[bytes]:
    """Put a file among the outputs for the block, by which workers know it.

    What it holds is new each time: a folder of the same name on a machine that does not share this
    one may have such a file from a run of its own.
    """
    mark = secrets.token_hex(16).encode()
    outputs.put({MARK: mark})
    try:
        yield mark
    finally:
        outputs.remove(MARK)
