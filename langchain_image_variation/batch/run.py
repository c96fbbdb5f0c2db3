"""`run_batch`: all sources through workers, into pictures, a ledger and a manifest."""

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait

from langchain_image_variation.batch.gallery import write_pages
from langchain_image_variation.batch.hold import hold
from langchain_image_variation.batch.inputs import GALLERY, Entry, Inputs
from langchain_image_variation.batch.ledger import LEDGER_DIR, Ledger
from langchain_image_variation.batch.lookahead import Look, looks
from langchain_image_variation.batch.made_images import Picture
from langchain_image_variation.batch.manifest import write_manifest
from langchain_image_variation.batch.meter import meter
from langchain_image_variation.batch.progress import Progress, Summary
from langchain_image_variation.batch.ray.run import Cluster, ClusterRun
from langchain_image_variation.batch.rows import Row
from langchain_image_variation.batch.variation_batch import PICTURES, VariationBatch
from langchain_image_variation.batch.workers.choice import crew_for
from langchain_image_variation.batch.workers.protocol import Workers
from langchain_image_variation.engines.loading import load_engine_class
from langchain_image_variation.exceptions import ImageVariationError, InvalidRequestError

__all__ = ["run_batch"]

_LOOK_EVERY = 0.1
"""Seconds after which a run that waits looks whether it was asked to end."""


def run_batch(
    inputs: Inputs,
    batch: VariationBatch,
    *,
    workers: int | Cluster,
    manifests: Iterable[str],
    gallery: bool = False,
    max_failures: int | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Summary:
    """Make what is missing of all sources, and write the manifest.

    Pictures that an earlier run made are looked at and kept, so a run that ended in any way is
    taken up by running it again. A manifest is written even if it ends early; then it also has what
    earlier runs said of sources that had no turn.

    Args:
        inputs: The sources.
        batch: The settings.
        workers: How many processes, or with an engine that asks a server, calls at once; or the
            cluster that works.
        manifests: The names of the manifests to write.
        gallery: Whether to make pages, unless the run ends early.
        max_failures: After so many failed sources no other is begun.
        stopped: Once it says True, no other source is begun.

    Raises:
        InvalidRequestError: If there is no source.
        OutputError: If something cannot be written, or another run writes to the same folder.
        EngineError: If the cluster cannot be reached, or fails.
        ImageVariationError: What would happen with every further source too.
    """
    # Before anything starts: these say what is wrong with the settings.
    load_engine_class(batch.engine)
    with hold(batch.outputs) as held:
        batch.outputs.clear_leftovers((LEDGER_DIR, PICTURES, GALLERY))
        total = inputs.count()
        if not total:
            raise InvalidRequestError("There is no picture to vary; name files or folders.")
        with meter(total, of="sources") as step:
            progress = Progress(
                held.ledger, step, lambda: stopped() or held.is_lost(), max_failures
            )
            try:
                if isinstance(workers, Cluster):
                    ClusterRun(batch, progress, workers).go(inputs, total)
                else:
                    _go_here(inputs, batch, progress, workers, held.lock)
            except ImageVariationError:
                # What is known is written, if it can be; the error is told all the same.
                with contextlib.suppress(ImageVariationError):
                    held.check()
                    _write(manifests, batch, held.ledger)
                raise
        held.check()
        if progress.summary.complete:
            held.ledger.forget_others()
        _write(manifests, batch, held.ledger)
        if gallery and progress.summary.complete:
            made = progress.summary.made + progress.summary.kept
            with meter(made, of="pictures shown") as step:
                rows = _counted(held.ledger.rows(), step)
                write_pages(rows, batch.outputs, batch.read, stopped=stopped)
    return progress.summary


def _go_here(
    inputs: Iterable[Entry],
    batch: VariationBatch,
    progress: Progress,
    workers: int,
    lock: int | None,
) -> None:
    crew = crew_for(batch, workers, lock)
    try:
        _Run(batch, progress, crew).go(inputs)
    except BaseException:
        crew.stop()
        raise
    crew.close()


def _counted(rows: Iterable[Row], step: Callable[[], object]) -> Iterator[Row]:
    for row in rows:
        yield row
        step()


def _write(manifests: Iterable[str], batch: VariationBatch, ledger: Ledger) -> None:
    for name in manifests:
        write_manifest(name, ledger.rows(), batch.outputs)


class _Run:
    """A run between its start and its end."""

    def __init__(self, batch: VariationBatch, progress: Progress, crew: Workers) -> None:
        self._batch = batch
        self._progress = progress
        self._crew = crew
        self._left_out = False
        self._fatal: ImageVariationError | None = None
        self._in_hand: dict[Future[list[Row]], tuple[int, str]] = {}

    def go(self, inputs: Iterable[Entry]) -> None:
        """Take all sources in order, as many at once as the workers can.

        Raises:
            ImageVariationError: What ends the run, once what is in hand is finished.
        """
        with contextlib.closing(looks(inputs, self._batch, self._progress.ledger)) as looked:
            for look in looked:
                if self._is_over():
                    self._left_out = True
                    break
                if isinstance(look, Look):
                    self._begin(look)
                else:
                    position, source, error = look
                    self._progress.record(position, [self._batch.error_row(source, error)])
        self._finish(0)
        self._progress.summary.complete = not self._left_out
        if self._fatal is not None:
            raise self._fatal

    def _is_over(self) -> bool:
        return self._fatal is not None or self._progress.is_over()

    def _begin(self, look: Look) -> None:
        first = look.paths[0]
        # The same pictures may be in hand for a copy of this source.
        while any(other == first for _, other in self._in_hand.values()):
            self._finish(len(self._in_hand) - 1)
        if len(kept := self._kept(look)) == look.job.n:
            self._progress.record(look.position, kept)
            return
        self._finish(self._crew.capacity - 1)
        if self._is_over():
            self._left_out = True
            return
        self._in_hand[self._crew.submit(look.source)] = (look.position, first)

    def _kept(self, look: Look) -> list[Row]:
        """Return a row for each picture that is there as it was made; remove any that is not."""
        rows = []
        for path, known in self._progress.ledger.known(look.paths).items():
            # What was seen earlier may have been made anew since.
            sha256 = known.output_sha256
            if look.seen.get(path) == sha256 or self._sha256(path) == sha256:
                picture = Picture(path, sha256, None)
                rows.append(
                    self._batch.picture_row(look.job, look.sha256, picture, seed=known.seed)
                )
            else:
                self._batch.outputs.remove(path)
        return rows

    def _sha256(self, path: str) -> str | None:
        data = self._batch.outputs.read(path)
        return None if data is None else hashlib.sha256(data).hexdigest()

    def _finish(self, left: int) -> None:
        """Wait until no more sources than `left` are in hand, and write down what came of them."""
        while len(self._in_hand) > left:
            if self._is_over():
                self._withdraw()
            done, _ = wait(self._in_hand, _LOOK_EVERY, FIRST_COMPLETED)
            for future in done:
                position, _ = self._in_hand.pop(future)
                try:
                    rows = future.result()
                except ImageVariationError as error:
                    self._fatal = self._fatal or error
                else:
                    self._progress.record(position, rows)

    def _withdraw(self) -> None:
        """Take back what no worker has begun."""
        for future in list(self._in_hand):
            if self._crew.withdraw(future):
                del self._in_hand[future]
                self._left_out = True
