"""`ClusterRun`: a bulk run whose sources are worked on by the machines of a Ray cluster.

Ray Data hands blocks of sources to a pool of actors, and hands those of a machine that is lost to
others, which find the pictures that are there already. Only rows come back: here they are written
into the same ledger as those of a run on one machine.
"""

import logging
import os
import pickle
import signal
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from langchain_image_variation.batch import VariationBatch
from langchain_image_variation.batch_rows import Row
from langchain_image_variation.bulk.inputs import Entry
from langchain_image_variation.bulk.processes import Processes
from langchain_image_variation.bulk.progress import Progress
from langchain_image_variation.exceptions import (
    EngineError,
    ImageVariationError,
    MissingExtraError,
    OutputError,
)
from langchain_image_variation.output_folder import Outputs

__all__ = ["MOST_IN_A_BLOCK", "Cluster", "ClusterRun"]

MOST_IN_A_BLOCK = 64
"""So many sources are handed out at once: what is told together, and looked at again if lost."""

_BLOCKS_A_WORKER = 8
"""With few sources, blocks are so small that each worker gets so many."""

_LOOK_EVERY = 0.2
"""Seconds after which it is seen that a run is to end."""

_KNOCK = 10
"""Seconds in which a cluster must take a connection."""

_SHARED = ".bulk/shared"
"""A file by which a worker knows the output folder."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where and how to work."""

    address: str | None = None
    """As `ray.init` takes it; None means `RAY_ADDRESS`, or the cluster this machine is part of, or
    else this machine alone."""
    workers: int | None = None
    """How many; by default as many as the cluster has room for."""
    gpus: float = 0
    """How much of a GPU each takes."""


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
        with _connected(self._cluster.address), _marked(self._batch.outputs):
            changed = self._pass(enumerate(inputs), total)
            if changed:
                # They are no longer what was made; now that they are removed, they are made anew.
                again = ((at, entry) for at, entry in enumerate(inputs) if at in changed)
                self._pass(again, len(changed))
        self._progress.summary.complete = not self._left_out

    def _pass(self, entries: Iterable[tuple[int, Entry]], total: int) -> set[int]:
        """Work on sources; return where those stand whose pictures were changed by others."""
        import ray

        workers = self._cluster.workers or _room(self._cluster.gpus)
        block = min(MOST_IN_A_BLOCK, -(-total // (workers * _BLOCKS_A_WORKER)))
        tables = [ray.put(table) for table in self._tables(entries, block)]
        changed: set[int] = set()
        if tables:
            workers = min(workers, len(tables))
            stop = _stop_flag()
            with self._watching(stop):
                for position, outcome in self._outcomes(tables, block, workers, stop):
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
        self, tables: list[Any], block: int, workers: int, stop: Any
    ) -> Iterator[tuple[int, Any]]:
        """Yield what came of each source, in the order in which it is known."""
        import ray.data
        import ray.exceptions

        made = ray.data.from_arrow_refs(tables).map_batches(
            _Worker,
            batch_size=block,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers),
            fn_constructor_kwargs={"batch": self._batch, "home": os.getcwd(), "stop": stop},
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
            while not done.wait(_LOOK_EVERY):
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


class _Worker:
    """What an actor holds: a process, so that a source that kills it costs itself and no other.

    Args:
        batch: The settings.
        home: The folder that relative paths are relative to.
        stop: An actor that knows whether to begin anything more.
    """

    def __init__(self, batch: VariationBatch, home: str, stop: Any) -> None:
        self._batch = batch
        self._home = home
        self._stop = stop
        self._stopped = False
        self._looked = 0.0
        self._crew: Processes | None = None

    def __call__(self, table: Any) -> Any:
        import pyarrow

        sources = table.to_pylist()
        outcomes = [pickle.dumps(self._outcome(source)) for source in sources]
        positions = [source["position"] for source in sources]
        return pyarrow.table(
            {"position": positions, "outcome": pyarrow.array(outcomes, pyarrow.binary())}
        )

    def _outcome(self, source: dict[str, Any]) -> list[Row] | ImageVariationError | None:
        """Return the rows of a source, an error that ends the run, or None if it had no turn."""
        if self._is_over():
            return None
        try:
            return self._started().submit(source).result()
        except ImageVariationError as error:
            self._stopped = True
            return error

    def _started(self) -> Processes:
        if self._crew is None:
            with suppress(OSError):
                os.chdir(self._home)
            if self._batch.outputs.read(_SHARED) is None:
                raise OutputError(
                    "A machine of the cluster does not see the output folder; name one that all of "
                    "them share."
                )
            self._crew = Processes(self._batch, 1)
        return self._crew

    def _is_over(self) -> bool:
        import ray

        if not self._stopped and time.monotonic() - self._looked > _LOOK_EVERY:
            self._stopped = ray.get(self._stop.is_set.remote())
            self._looked = time.monotonic()
        return self._stopped


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
def _connected(address: str | None) -> Iterator[None]:
    """Be part of a cluster for the block; a connection that is there already stays."""
    try:
        import pyarrow  # noqa: F401
        import ray
        import ray.data
    except ImportError:
        raise MissingExtraError(
            "Working on a cluster needs the package 'ray', which is not installed; run: pip "
            "install 'langchain-image-variation[ray]'"
        ) from None
    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        _knock(address or os.environ.get("RAY_ADDRESS", ""))
        with _own_signals():
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        raise EngineError(
            f"The Ray cluster cannot be reached ({type(error).__name__}); check the address after "
            "--ray, and that 'ray status' finds it."
        ) from None
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Connect to an address that says host and port: where nobody listens, Ray tries for long."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), _KNOCK).close()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep what is done at SIGTERM: Ray ends the process."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _marked(outputs: Outputs) -> Iterator[None]:
    """Put a file into the output folder for the block, by which workers know it."""
    outputs.put({_SHARED: b"A run on a cluster is under way.\n"})
    try:
        yield
    finally:
        outputs.remove(_SHARED)


def _room(gpus: float) -> int:
    """Return how many workers a cluster has room for.

    Raises:
        EngineError: If for none.
    """
    import ray

    has = ray.cluster_resources()
    room = int(has.get("GPU", 0) / gpus) if gpus else int(has.get("CPU", 0))
    if room < 1:
        raise EngineError(
            f"The cluster has {has.get('CPU', 0):g} processors and {has.get('GPU', 0):g} GPUs, "
            "which is not enough for one worker; ask for less with --gpus."
        )
    return room
