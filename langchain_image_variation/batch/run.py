"""`run_batch`: runs a batch from start to end, or resumes an earlier run into the same outputs."""

import contextlib
from collections.abc import Callable, Iterable, Iterator

from langchain_image_variation.batch.exclusive_access import exclusive_access
from langchain_image_variation.batch.folders import BATCH_DIR, GALLERY_DIR, IMAGES_DIR
from langchain_image_variation.batch.gallery import write_gallery
from langchain_image_variation.batch.inputs import Input, Inputs
from langchain_image_variation.batch.ledger import Ledger
from langchain_image_variation.batch.local_run import LocalRun
from langchain_image_variation.batch.manifest import write_failed_sources, write_manifest
from langchain_image_variation.batch.progress import RunProgress, RunSummary
from langchain_image_variation.batch.ray.cluster import Cluster
from langchain_image_variation.batch.ray.cluster_run import ClusterRun
from langchain_image_variation.batch.rows import OutputRow
from langchain_image_variation.batch.variation_batch import VariationBatch
from langchain_image_variation.batch.workers import start_workers
from langchain_image_variation.engines.loading import load_engine_class
from langchain_image_variation.exceptions import ImageVariationError, InvalidRequestError
from langchain_image_variation.progress_bar import show_progress

__all__ = ["run_batch"]


def run_batch(
    inputs: Inputs,
    batch: VariationBatch,
    *,
    workers: int | Cluster,
    manifests: Iterable[str],
    gallery: bool = False,
    max_failures: int | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
    quiet: bool = False,
    summary: RunSummary,
) -> None:
    """Make the missing variations of all sources, and write the manifest.

    Images from earlier runs are verified and kept. So to resume a run, however it ended, run it
    again. If the run stops early, it still writes the manifest, with the rows of earlier runs for
    sources that it did not reach.

    Args:
        inputs: The sources.
        batch: The settings.
        workers: The number of worker processes, or of concurrent calls if the engine is hosted. Or
            the cluster to run on.
        manifests: The names of the manifests to write.
        gallery: Whether to write the gallery, unless the run stops early.
        max_failures: Start no more sources once this many have failed.
        is_stopped: Returns True once no more sources should be started.
        quiet: Whether to show no progress.
        summary: Counts the results, also those of a run that ends with an error.

    Raises:
        InvalidRequestError: If there are no sources.
        OutputError: If a file cannot be written, or another run is writing to the same outputs.
        EngineError: If the cluster cannot be reached, or fails.
        ImageVariationError: If an error would affect every other source too.
    """
    # Report a wrong setting before anything is written.
    load_engine_class(batch.engine)
    total = inputs.count()
    if not total:
        raise InvalidRequestError(
            "No images found. Pass image files, or folders that contain images."
        )
    with exclusive_access(batch.outputs) as access:
        batch.outputs.remove_temporary_files((BATCH_DIR, IMAGES_DIR, GALLERY_DIR))
        with show_progress(total, unit="sources", quiet=quiet) as advance:
            progress = RunProgress(
                access.ledger,
                advance,
                lambda: is_stopped() or access.is_lost(),
                max_failures,
                summary,
            )
            try:
                _make_variations(inputs, total, batch, progress, workers, access.lock)
            except ImageVariationError:
                # Write what is done so far if possible, but report the original error.
                with contextlib.suppress(ImageVariationError):
                    access.check()
                    if not access.ledger.is_empty():
                        _write_manifests(manifests, batch, access.ledger)
                raise
        access.check()
        if summary.is_complete:
            access.ledger.delete_earlier_runs()
        _write_manifests(manifests, batch, access.ledger)
        if gallery and summary.is_complete:
            images = summary.images_made + summary.images_kept
            with show_progress(images, unit="images shown", quiet=quiet) as advance:
                rows = _call_after_each(access.ledger.rows(), advance)
                write_gallery(rows, batch.outputs, batch.read_source, is_stopped=is_stopped)


def _make_variations(
    inputs: Iterable[Input],
    total: int,
    batch: VariationBatch,
    progress: RunProgress,
    workers: int | Cluster,
    lock: int | None,
) -> None:
    if isinstance(workers, Cluster):
        ClusterRun(batch, progress, workers).run(inputs, total)
        return
    local_workers = start_workers(batch, workers, lock)
    try:
        LocalRun(batch, progress, local_workers).run(inputs)
    except BaseException:
        local_workers.stop()
        raise
    local_workers.close()


def _call_after_each(
    rows: Iterable[OutputRow], advance: Callable[[], object]
) -> Iterator[OutputRow]:
    for row in rows:
        yield row
        advance()


def _write_manifests(names: Iterable[str], batch: VariationBatch, ledger: Ledger) -> None:
    for name in names:
        write_manifest(name, ledger.rows(), batch.outputs)
    write_failed_sources(ledger.failed_sources(), batch.outputs)
