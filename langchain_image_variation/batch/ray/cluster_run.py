"""`ClusterRun`: a run on the machines of a Ray cluster.

Ray Data sends blocks of sources to a pool of actors. If a machine is lost, its blocks go to other
actors, which find the images that it already wrote. The machines return only rows, and this process
records them in the same ledger as a local run.
"""

import os
import pickle
import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from langchain_image_variation.batch.inputs import Input
from langchain_image_variation.batch.job import OPTIONAL_COLUMNS, portable_row
from langchain_image_variation.batch.progress import RunProgress
from langchain_image_variation.batch.ray.actor import (
    POLL_INTERVAL,
    RUN_ID_NAME,
    ActorSettings,
    SourceResult,
    WorkerActor,
)
from langchain_image_variation.batch.ray.cluster import (
    Cluster,
    WorkerResources,
    choose_resources,
    connect,
    count_worker_slots,
    list_machines,
)
from langchain_image_variation.batch.rows import OutputRow
from langchain_image_variation.batch.variation_batch import VariationBatch
from langchain_image_variation.batch.workers import DEFAULT_CALLS
from langchain_image_variation.engines.loading import load_engine_class
from langchain_image_variation.engines.traits import has_devices, is_hosted
from langchain_image_variation.exceptions import EngineError, ImageVariationError
from langchain_image_variation.files.outputs import Outputs

__all__ = ["MAX_BLOCK_SIZE", "ClusterRun"]

MAX_BLOCK_SIZE = 64
"""The maximum number of sources in a block. A lost block is processed again as a whole."""

_BLOCKS_PER_WORKER = 8
"""If there are few sources, blocks are smaller, so that each worker gets this many."""


class ClusterRun:
    """A run on the machines of a cluster.

    Args:
        batch: The settings.
        progress: Records the results.
        cluster: The cluster.
    """

    def __init__(self, batch: VariationBatch, progress: RunProgress, cluster: Cluster) -> None:
        self._batch = batch
        self._progress = progress
        self._cluster = cluster
        self._skipped_sources = False
        self._fatal_error: ImageVariationError | None = None

    def run(self, inputs: Iterable[Input], total: int) -> None:
        """Process all sources.

        Args:
            inputs: The sources.
            total: The number of sources.

        Raises:
            MissingExtraError: If Ray is not installed.
            EngineError: If the cluster cannot be reached, has no room for a worker, or fails.
            OutputError: If a file cannot be written, or a machine does not see the outputs.
            ImageVariationError: An error that would affect every other source too. It is raised
                once all started sources are finished.
        """
        with connect(self._cluster.address), _shared_run_id(self._batch.outputs) as run_id:
            changed_positions = self._process(enumerate(inputs), total, run_id)
            if changed_positions:
                # These sources had images that were changed and have just been removed.
                items = (
                    (position, item)
                    for position, item in enumerate(inputs)
                    if position in changed_positions
                )
                self._process(items, len(changed_positions), run_id)
        self._progress.summary.is_complete = not self._skipped_sources

    def _process(self, items: Iterable[tuple[int, Input]], total: int, run_id: bytes) -> set[int]:
        """Process sources, and return the positions of those whose images had been changed."""
        import ray

        engine_class = load_engine_class(self._batch.engine)
        machines = list_machines()
        resources = choose_resources(self._cluster, machines, has_devices=has_devices(engine_class))
        slots = count_worker_slots(resources, machines)
        workers = self._cluster.workers or slots
        concurrency = 1
        if is_hosted(engine_class):
            concurrency = DEFAULT_CALLS
        elif has_devices(engine_class):
            concurrency = max(1, int(resources.gpus))
        # A worker has the sources of only one block at a time.
        even_share = -(-total // (workers * _BLOCKS_PER_WORKER))
        block_size = max(concurrency, min(MAX_BLOCK_SIZE, even_share))
        tables = [ray.put(table) for table in self._make_tables(items, block_size)]
        changed_positions: set[int] = set()
        if tables:
            workers = min(workers, len(tables))
            stop_flag = _make_stop_flag()
            settings = ActorSettings(
                batch=self._batch,
                concurrency=concurrency,
                working_dir=os.getcwd(),
                run_id=run_id,
                stop_flag=stop_flag,
                max_failures=self._progress.max_failures,
            )
            with self._forward_stop(stop_flag):
                results = self._results(tables, block_size, workers, resources, settings)
                for position, result in results:
                    if isinstance(result, ImageVariationError):
                        self._fatal_error = self._fatal_error or result
                    elif result is None:
                        self._skipped_sources = True
                    elif self._remove_changed(result):
                        changed_positions.add(position)
                    else:
                        self._progress.record(position, result)
        if self._fatal_error is not None:
            raise self._fatal_error
        return changed_positions

    def _make_tables(self, items: Iterable[tuple[int, Input]], block_size: int) -> Iterator[Any]:
        """Yield the sources as tables. Sources with an error are recorded instead."""
        import pyarrow

        schema = pyarrow.schema(
            [
                ("position", pyarrow.int64()),
                # A file name may not be valid Unicode.
                ("path", pyarrow.binary()),
                ("n", pyarrow.int64()),
                ("size", pyarrow.string()),
                ("seed", pyarrow.int64()),
                ("strength", pyarrow.float64()),
            ]
        )
        rows = self._valid_rows(items)
        while block := list(islice(rows, block_size)):
            yield pyarrow.Table.from_pylist(block, schema)

    def _valid_rows(self, items: Iterable[tuple[int, Input]]) -> Iterator[dict[str, object]]:
        for position, item in items:
            if self._progress.should_stop():
                self._skipped_sources = True
                return
            source = {**item.row, "position": position}
            try:
                if item.error is not None:
                    raise item.error
                job = self._batch.read_job(source)
            except ImageVariationError as error:
                self._progress.record(position, [self._batch.error_row(source, error)])
                continue
            # The actors know the defaults. A source that fails there is listed as it is here.
            given_names = portable_row(source).keys()
            options = {
                name: getattr(job, name) if name in given_names else None
                for name in OPTIONAL_COLUMNS
            }
            yield {"position": position, "path": os.fsencode(job.path), **options}

    def _results(
        self,
        tables: list[Any],
        block_size: int,
        workers: int,
        resources: WorkerResources,
        settings: ActorSettings,
    ) -> Iterator[tuple[int, SourceResult]]:
        """Yield the position and result of each source, in the order in which they arrive."""
        import ray.data
        import ray.exceptions

        dataset = ray.data.from_arrow_refs(tables).map_batches(
            WorkerActor,
            batch_size=block_size,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers),
            fn_constructor_kwargs={"settings": settings},
            num_cpus=resources.processors,
            num_gpus=resources.gpus or None,
        )
        try:
            for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
                for row in table.to_pylist():
                    yield row["position"], pickle.loads(row["result"])
        except ray.exceptions.RayError as error:
            raise EngineError(
                f"The Ray cluster failed ({type(error).__name__}). Check that all machines have "
                "the same version of this package, then run the same command again to continue."
            ) from None

    def _remove_changed(self, rows: list[OutputRow]) -> bool:
        """Remove kept images that differ from the ledger, and return whether there are any.

        Raises:
            OutputError: If an image cannot be removed.
        """
        kept_hashes = {
            row["output_path"]: row["output_sha256"]
            for row in rows
            if row["output_path"] is not None and row["milliseconds"] is None
        }
        recorded_images = self._progress.ledger.find_images(list(kept_hashes))
        changed_paths = [
            path
            for path, image in recorded_images.items()
            if image.output_sha256 != kept_hashes[path]
        ]
        for path in changed_paths:
            self._batch.outputs.remove(path)
        return bool(changed_paths)

    @contextmanager
    def _forward_stop(self, stop_flag: Any) -> Iterator[None]:
        """During the block, set the flag for the actors once the run should stop."""
        is_over = threading.Event()

        def forward() -> None:
            while not is_over.wait(POLL_INTERVAL):
                if self._fatal_error is not None or self._progress.should_stop():
                    stop_flag.set.remote()
                    return

        thread = threading.Thread(target=forward, name="forward-stop", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


class _StopFlag:
    """Whether the run should stop."""

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        self._is_set = True

    def is_set(self) -> bool:
        return self._is_set


def _make_stop_flag() -> Any:
    """Return the handle of a flag that lives on this machine, so that no lost machine ends it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node_id = ray.get_runtime_context().get_node_id()
    strategy = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(_StopFlag).options(num_cpus=0, scheduling_strategy=strategy).remote()


@contextmanager
def _shared_run_id(outputs: Outputs) -> Iterator[bytes]:
    """For the block, write a random ID to the outputs, so that actors recognize them.

    It is new for each run. A folder of the same name on a machine that does not share this one may
    contain the ID of another run.
    """
    run_id = secrets.token_hex(16).encode()
    outputs.write_all({RUN_ID_NAME: run_id})
    try:
        yield run_id
    finally:
        outputs.remove(RUN_ID_NAME)
