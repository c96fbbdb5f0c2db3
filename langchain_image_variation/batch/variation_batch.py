"""`VariationBatch`: makes variations of many images, for any engine that processes tables.

It depends on no framework. It takes columns, returns columns, and pickles. Each process writes its
images itself and returns only their paths and metadata. A second call with the same rows makes
only the images that are missing.
"""

import copy
import hashlib
import time
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any, TypeAlias

from langchain_image_variation.batch.job import OPTIONAL_COLUMNS, Job
from langchain_image_variation.batch.lazy_engine import LazyEngine
from langchain_image_variation.batch.output_images import OutputImage, OutputImages
from langchain_image_variation.batch.output_names import output_path
from langchain_image_variation.batch.rows import (
    COLUMNS,
    Column,
    OutputRow,
    SourceRow,
    Table,
    error_row,
    image_row,
    read_columns,
)
from langchain_image_variation.cancellation import cancel_after
from langchain_image_variation.contract import (
    SIZES,
    CreateImageVariationRequest,
    ImagesResponse,
    Size,
)
from langchain_image_variation.engines import VariationEngine
from langchain_image_variation.engines.call import call_engine, call_engine_async
from langchain_image_variation.engines.loading import resolve_engine
from langchain_image_variation.exceptions import (
    AuthenticationError,
    BillingLimitError,
    EndpointRemovedError,
    EngineNotFoundError,
    ImageVariationError,
    InvalidRequestError,
    MissingExtraError,
    ModelNotDownloadedError,
    ModelNotFoundError,
    PermissionDeniedError,
    QuotaExceededError,
    excerpt,
)
from langchain_image_variation.files.storage_policy import StoragePolicy, names_server
from langchain_image_variation.files.storage_urls import is_url
from langchain_image_variation.files.stored_outputs import open_outputs
from langchain_image_variation.source import Fit, check_fit
from langchain_image_variation.source.read import read_file, read_stored_file

__all__ = ["FATAL_ERRORS", "VariationBatch"]

FATAL_ERRORS = (
    AuthenticationError,
    BillingLimitError,
    EndpointRemovedError,
    EngineNotFoundError,
    MissingExtraError,
    ModelNotDownloadedError,
    ModelNotFoundError,
    PermissionDeniedError,
    QuotaExceededError,
)
"""Errors that would occur for every other source too, so they are raised."""


@dataclass(frozen=True, slots=True)
class _EngineCall:
    """A call that the flow asks its driver, sync or async, to make."""

    engine: VariationEngine
    request: CreateImageVariationRequest


_Flow: TypeAlias = Generator[_EngineCall | list[OutputRow], ImagesResponse, None]


class VariationBatch:
    """Makes variations of a batch of images, and writes them to a folder or a file system.

    A variation is written to ``images/ab/<stem>-<hash>-<index>.png``. `<stem>` is the name of the
    source, made safe and short. `<hash>` is a hash of the source's bytes, the engine, its version
    and options, the size, `fit`, the model and the row's own settings. So a name is the same on
    every machine, and sources with the same name do not clash. A variation that exists intact is
    not made again, so raising `n` adds images. Files are written atomically. Unless you set a
    seed, it is derived from the source's bytes.

    An instance pickles. Each process creates the engine on its first call. An engine that takes
    `seed` is created again for each source, so keep whatever is slow to set up in the engine's
    class. An engine that takes `threads` gets one thread unless `options` says otherwise, since a
    batch usually runs one process per processor. Settings that the engine reads from the
    environment are not part of file names. If an engine takes no `seed`, raising `n` asks it for
    the additional images only. If it always returns the same images, those repeat.

    Args:
        output_dir: The folder to write to, which is created if it does not exist, or the URL of a
            store, such as "s3://bucket/prefix". Source paths may be such URLs too.
        engine: The name of an engine. "auto" means the best one that is usable on this machine. It
            is chosen now, for all processes that get this object.
        options: The engine's options. The values must be JSON types. `seed` and `strength` apply to
            rows without their own.
        n: The number of variations of a source whose row has no `n`, from 1 to 10.
        size: Width x height in pixels, for rows without `size`.
        fit: How to handle an image that is not a square PNG under 4 MB. See `load_source`. With
            "keep", the variations have the shape of their source, and `size` is the longer side.
        model: One of the engine's models.
        storage_options: Passed to the file systems of URLs, like fsspec's `storage_options`. You
            don't need it for file systems that fsspec's configuration covers.
        allow_storage: Stores that URLs may name in addition to those that every batch allows: kinds
            of URL such as "lakefs", or servers such as "sftp://nas.example". Rows may always name
            the server of `output_dir`.

    Raises:
        InvalidRequestError: If a setting is invalid or out of range, or `output_dir` is a URL of
            a kind that is not allowed or with a password. `param` names the setting.
        MissingExtraError: If `output_dir` is a URL and fsspec, or the package for this kind of URL,
            is not installed.
        OutputError: If the file system of `output_dir` cannot be reached.
    """

    def __init__(
        self,
        output_dir: str | PathLike[str],
        *,
        engine: str = "local",
        options: Mapping[str, object] | None = None,
        n: int = 1,
        size: Size = "1024x1024",
        fit: Fit = "crop",
        model: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
        allow_storage: Iterable[str] = (),
    ) -> None:
        check_fit(fit)
        if model is not None and (not isinstance(model, str) or not model):
            raise InvalidRequestError(
                f"model must be a non-empty string or None, got {excerpt(model)}.", param="model"
            )
        if not isinstance(engine, str):
            raise InvalidRequestError(
                "engine must be the name of an engine, because each worker creates its own; got a "
                f"value of type {type(engine).__name__}. Declare its class as an entry point.",
                param="engine",
            )
        for name, mapping in (("options", options), ("storage_options", storage_options)):
            if not isinstance(mapping, Mapping | None):
                raise InvalidRequestError(
                    f"{name} must be a mapping of names to values, got a {type(mapping).__name__}.",
                    param=name,
                )
        # Defaults have the same limits as the values of a row.
        row = {"path": "unused", "n": n, "size": size, "seed": (options or {}).get("seed")}
        defaults = Job.from_row(row, n=1, size=SIZES[-1])
        # Chosen here, so that all workers use the same engine, and the rows name it.
        self.engine = resolve_engine(engine, options)
        self._engine = LazyEngine(self.engine, options or {})
        self.options = self._engine.options
        self._seed = defaults.seed
        self.n = defaults.n
        self.size = defaults.size
        self.fit = fit
        self.model = model
        self.output_dir = output_dir
        self.storage_options = dict(storage_options or {})
        allow_storage = [allow_storage] if isinstance(allow_storage, str) else [*allow_storage]
        if isinstance(output_dir, str) and names_server(output_dir):
            allow_storage.append(output_dir)
        self.storage_policy = StoragePolicy(allow_storage)
        self.outputs = open_outputs(output_dir, self.storage_options, policy=self.storage_policy)

    def __call__(self, batch: Mapping[str, Column] | Table) -> dict[str, list[Any]]:
        """Make the missing variations of a batch.

        Args:
            batch: A mapping of columns of equal length, each a list or an array, or a data frame or
                an Arrow table. The column `path` is required. `n`, `size`, `seed` and `strength`
                are optional; None, NaN and "" mean the default. `position` is optional and may have
                any values: each output row repeats the value of its source.

        Returns:
            `COLUMNS`, with one row per image in order, and `position` if the batch has it. `index`
            counts from 1. `seed` is the seed of the image, or None if the engine takes no seed.
            `output_path` is relative to `output_dir`. `milliseconds` is the engine's time for the
            image, or an equal share if one call made several. It is None if the image already
            existed. A source that failed has a row without `index`, whose `error` holds the class
            and the message of the error.

        Raises:
            InvalidRequestError: If `batch` is not a table, has no column `path`, or has columns of
                different lengths, or if the engine refuses an option.
            OutputError: If an image cannot be written or read back, such as on a full disk.
            EngineError: If the engine cannot be created.
            ImageVariationError: If an error would affect every other source too: an invalid key, an
                exhausted budget, an unknown engine, model or endpoint, or a package that the engine
                needs and that is not installed.
        """
        rows: list[OutputRow] = []
        columns = read_columns(batch)
        for values in zip(*columns.values(), strict=True):
            rows += self.make_rows(dict(zip(columns, values, strict=True)))
        names = (*COLUMNS, *(["position"] if "position" in columns else []))
        return {name: [row[name] for row in rows] for name in names}

    def make_rows(self, source: SourceRow) -> list[OutputRow]:
        """Make the missing variations of one source.

        Args:
            source: Its row, with the columns of a batch.

        Returns:
            One row per image in order, and a row with the error if the source failed. See
            `__call__` for the columns.

        Raises:
            ImageVariationError: See `__call__`.
        """
        flow = self._flow(source)
        step = next(flow)
        while isinstance(step, _EngineCall):
            try:
                response = call_engine(step.engine, step.request)
            except ImageVariationError as error:
                step = flow.throw(error)
            else:
                step = flow.send(response)
        return step

    async def make_rows_async(self, source: SourceRow) -> list[OutputRow]:
        """Do what `make_rows` does, without blocking the event loop.

        Raises:
            ImageVariationError: See `__call__`.
        """
        # Most callers don't need asyncio, and importing it takes longer than making a small image.
        import asyncio

        flow = self._flow(source)
        with cancel_after():
            step = await asyncio.to_thread(next, flow)
            while isinstance(step, _EngineCall):
                try:
                    response = await call_engine_async(step.engine, step.request)
                except ImageVariationError as error:
                    step = await asyncio.to_thread(flow.throw, error)
                else:
                    step = await asyncio.to_thread(flow.send, response)
            return step

    def read_job(self, source: SourceRow) -> Job:
        """Return the settings for a source.

        Raises:
            SourceError: If the row has no path.
            InvalidRequestError: If a value is invalid or out of range.
        """
        return Job.from_row(source, n=self.n, size=self.size)

    def output_paths(self, job: Job, source_sha256: str, name: str) -> list[str]:
        """Return the paths of all variations of a source, relative to the output folder.

        Args:
            job: The settings for the source.
            source_sha256: The SHA-256 of the source's bytes, in hex.
            name: The name of the source, from `read_source`.

        Raises:
            EngineNotFoundError: If there is no engine of this name.
        """
        settings = [self.engine, self.version, self._engine.options_json, self.fit, self.model]
        settings += [job.size, str(job.seed), str(job.strength)]
        return [output_path(name, source_sha256, settings, index) for index in range(1, job.n + 1)]

    @property
    def version(self) -> str:
        """The version of the package that provides the engine.

        Raises:
            EngineNotFoundError: If there is no engine of this name.
        """
        return self._engine.version

    def load(self) -> VariationEngine:
        """Return the engine. The first call creates it.

        Raises:
            ImageVariationError: See `load_engine`.
        """
        return self._engine.load()

    def read_source(self, path: str) -> tuple[bytes, str]:
        """Return the bytes of a source, and its file name without the suffix.

        Args:
            path: The path or URL of the source.

        Raises:
            SourceError: If the source cannot be read.
            MissingExtraError: If a package for the URL is missing.
        """
        if is_url(path):
            return read_stored_file(path, self.storage_options, self.storage_policy)
        return read_file(path)

    def image_row(
        self, job: Job, source_sha256: str, image: OutputImage, *, seed: int | None
    ) -> OutputRow:
        """Return the row of an output image.

        Args:
            job: The settings for its source.
            source_sha256: The SHA-256 of the source's bytes, in hex.
            image: The image, at one of the `output_paths`.
            seed: The seed of the image, or None if the engine takes no seed.
        """
        return image_row(job, source_sha256, image, seed=seed) | self._engine_columns()

    def error_row(
        self,
        source: SourceRow,
        error: ImageVariationError,
        *,
        source_sha256: str | None = None,
    ) -> OutputRow:
        """Return the row of a source that failed.

        Args:
            source: The row of the source.
            error: The error.
            source_sha256: The SHA-256 of the source's bytes in hex, or None if it could not be
                read.
        """
        row = error_row(source, error, source_sha256=source_sha256) | self._engine_columns()
        return {**row, "size": row["size"] or self.size}

    def on_device(self, device: str) -> "VariationBatch":
        """Return a copy whose engine computes on a device: the option `device` is set to it."""
        batch = copy.copy(self)
        batch._engine = copy.copy(self._engine)
        batch._engine.device = device
        return batch

    def close(self) -> None:
        """Close the engine if it can be closed. The next call creates a new one."""
        self._engine.close()

    def _engine_columns(self) -> OutputRow:
        return {"engine": self.engine, "engine_version": self.version}

    def _first_seed(self, job: Job, source_sha256: str) -> int | None:
        """Return the seed of the first variation, or None if there is none."""
        if job.seed is not None or self._seed is not None:
            return self._seed if job.seed is None else job.seed
        return int(source_sha256[:8], 16) if self._engine.wants_seeds else None

    def _flow(self, source: SourceRow) -> _Flow:
        """Make the variations of one source: yield each engine call and, at the end, the rows."""
        # An engine that cannot be created fails the batch, not the source.
        self.load()
        try:
            job = self.read_job(source)
            data, name = self.read_source(job.path)
        except ImageVariationError as error:
            yield [self.error_row(source, error)]
            return
        source_sha256 = hashlib.sha256(data).hexdigest()
        first_seed = self._first_seed(job, source_sha256)
        seeds = [None if first_seed is None else first_seed + offset for offset in range(job.n)]
        paths = self.output_paths(job, source_sha256, name)
        outputs = OutputImages(data, name, job, paths, self.outputs, fit=self.fit)
        for positions in outputs.find_missing():
            try:
                request = outputs.make_request(len(positions), model=self.model)
                engine = self._engine.with_options(seeds[positions.start], job.strength)
                start = time.perf_counter()
                try:
                    response = yield _EngineCall(engine, request)
                finally:
                    self._engine.release(engine)
            except FATAL_ERRORS:
                raise
            except ImageVariationError as error:
                if error.param in self.options.keys() - OPTIONAL_COLUMNS:
                    # The engine refuses an option of the batch, and would for every other source.
                    raise
                outputs.error = error
                break
            outputs.write(positions, response, (time.perf_counter() - start) * 1000)
        rows = [
            self.image_row(job, source_sha256, image, seed=seeds[position])
            for position, image in sorted(outputs.images.items())
        ]
        if outputs.error is not None:
            rows.append(self.error_row(source, outputs.error, source_sha256=source_sha256))
        yield [{**row, "position": source.get("position")} for row in rows]
