"""`LocalRun`: a run by workers on this machine."""

import contextlib
import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace

from langchain_image_variation.batch.inputs import Input
from langchain_image_variation.batch.ledger import RecordedImage
from langchain_image_variation.batch.lookahead import Inspection, inspect_sources
from langchain_image_variation.batch.output_images import OutputImage
from langchain_image_variation.batch.output_names import image_id
from langchain_image_variation.batch.progress import RunProgress
from langchain_image_variation.batch.rows import OutputRow
from langchain_image_variation.batch.variation_batch import VariationBatch
from langchain_image_variation.batch.workers import Workers
from langchain_image_variation.exceptions import ImageVariationError

__all__ = ["LocalRun"]

_POLL_INTERVAL = 0.1
"""Seconds between two checks whether a waiting run should stop."""


class LocalRun:
    """A run by workers on this machine.

    Args:
        batch: The settings.
        progress: Records the results.
        workers: Make the variations. The caller starts and closes them.
    """

    def __init__(self, batch: VariationBatch, progress: RunProgress, workers: Workers) -> None:
        self._batch = batch
        self._progress = progress
        self._workers = workers
        self._skipped_sources = False
        self._fatal_error: ImageVariationError | None = None
        self._pending: dict[Future[list[OutputRow]], tuple[int, str]] = {}
        """The position of each source that a worker has, and the `image_id` of its first variation.
        """

    def run(self, inputs: Iterable[Input]) -> None:
        """Process all sources in order, as many at once as the workers have capacity for.

        Raises:
            ImageVariationError: An error that ends the run. It is raised once all started sources
                are finished.
        """
        inspections = inspect_sources(inputs, self._batch, self._progress.ledger)
        with contextlib.closing(inspections):
            for inspection in inspections:
                if self._should_stop():
                    self._skipped_sources = True
                    break
                if isinstance(inspection, Inspection):
                    self._process(inspection)
                else:
                    row = self._batch.error_row(inspection.source, inspection.error)
                    self._progress.record(inspection.position, [row])
        self._wait_for_workers(max_pending=0)
        self._progress.summary.is_complete = not self._skipped_sources
        if self._fatal_error is not None:
            raise self._fatal_error

    def _should_stop(self) -> bool:
        return self._fatal_error is not None or self._progress.should_stop()

    def _process(self, inspection: Inspection) -> None:
        first_id = image_id(inspection.output_paths[0])
        # A worker may be making the same variations for a copy of this source.
        while any(pending_id == first_id for _, pending_id in self._pending.values()):
            self._wait_for_workers(max_pending=len(self._pending) - 1)
        if len(rows := self._kept_rows(inspection)) == inspection.job.n:
            self._progress.record(inspection.position, rows)
            return
        self._wait_for_workers(max_pending=self._workers.capacity - 1)
        if self._should_stop():
            self._skipped_sources = True
            return
        future = self._workers.submit(inspection.source)
        self._pending[future] = (inspection.position, first_id)

    def _kept_rows(self, inspection: Inspection) -> list[OutputRow]:
        """Return a row for each recorded image that is unchanged. Remove those that changed.

        If a source with the same content but another name has the image, it is copied.
        """
        images = []
        recorded_images = self._progress.ledger.find_images(inspection.output_paths)
        for path, recorded_image in recorded_images.items():
            sha256 = recorded_image.output_sha256
            # A worker may have replaced the image since the inspection, so hash it again.
            if inspection.output_hashes.get(path) == sha256 or self._hash_output(path) == sha256:
                images.append(recorded_image)
            else:
                self._batch.outputs.remove(path)
        kept_paths = {image.output_path for image in images}
        missing_paths = [path for path in inspection.output_paths if path not in kept_paths]
        if missing_paths:
            images += self._copy_images(missing_paths)
        return [
            self._batch.image_row(
                inspection.job,
                inspection.sha256,
                OutputImage(image.output_path, image.output_sha256, None, image.model, image.note),
                seed=image.seed,
            )
            for image in images
        ]

    def _copy_images(self, paths: Sequence[str]) -> list[RecordedImage]:
        """Copy images that are recorded under other names to these paths, and return the copies."""
        copies = []
        for path, image in self._progress.ledger.find_copies(paths).items():
            data = self._batch.outputs.read(image.output_path)
            if data is not None and hashlib.sha256(data).hexdigest() == image.output_sha256:
                self._batch.outputs.write_all({path: data})
                copies.append(replace(image, output_path=path))
        return copies

    def _hash_output(self, path: str) -> str | None:
        data = self._batch.outputs.read(path)
        return None if data is None else hashlib.sha256(data).hexdigest()

    def _wait_for_workers(self, *, max_pending: int) -> None:
        """Wait until workers have no more than `max_pending` sources, and record the results."""
        while len(self._pending) > max_pending:
            if self._should_stop():
                self._withdraw()
            done, _ = wait(self._pending, _POLL_INTERVAL, FIRST_COMPLETED)
            for future in done:
                position, _ = self._pending.pop(future)
                try:
                    rows = future.result()
                except ImageVariationError as error:
                    self._fatal_error = self._fatal_error or error
                else:
                    self._progress.record(position, rows)

    def _withdraw(self) -> None:
        """Take back the sources that no worker has started."""
        for future in list(self._pending):
            if self._workers.withdraw(future):
                del self._pending[future]
                self._skipped_sources = True
