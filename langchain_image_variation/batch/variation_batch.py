"""`VariationBatch`: variations of many pictures, as any engine for tables can call it.

It knows no framework: columns in, columns out, and a configuration that pickles. Pictures are
written where it runs; only their paths and what is known of them are returned. Calling it again
with the same rows makes only what is missing.
"""

import hashlib
import json
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any, TypeAlias, get_args

from langchain_image_variation.batch.job import Job
from langchain_image_variation.batch.lazy_engine import LazyEngine
from langchain_image_variation.batch.made_images import Picture, SourcePictures
from langchain_image_variation.batch.rows import (
    COLUMNS,
    Column,
    Row,
    Table,
    columns,
    error_row,
    picture_row,
)
from langchain_image_variation.contract import (
    SIZES,
    CreateImageVariationRequest,
    ImagesResponse,
    Size,
)
from langchain_image_variation.engines import VariationEngine
from langchain_image_variation.engines.call import call_engine, call_engine_async
from langchain_image_variation.exceptions import (
    AuthenticationError,
    BillingLimitError,
    EndpointRemovedError,
    EngineNotFoundError,
    ImageVariationError,
    InvalidRequestError,
    MissingExtraError,
    ModelNotFoundError,
    PermissionDeniedError,
    QuotaExceededError,
    shown,
)
from langchain_image_variation.files.file_system import is_url
from langchain_image_variation.files.stored_outputs import open_outputs
from langchain_image_variation.source import Fit, read_file, read_stored_file

__all__ = ["PICTURES", "VariationBatch"]

PICTURES = "pictures"
"""The folder below the output folder that holds the pictures."""

_HOPELESS = (
    AuthenticationError,
    BillingLimitError,
    EndpointRemovedError,
    EngineNotFoundError,
    MissingExtraError,
    ModelNotFoundError,
    PermissionDeniedError,
    QuotaExceededError,
)
"""What would happen with every further picture too."""


@dataclass(frozen=True, slots=True)
class _Ask:
    """A call of an engine, which whoever drives the flow makes."""

    engine: VariationEngine
    request: CreateImageVariationRequest


_Flow: TypeAlias = Generator[_Ask | list[Row], ImagesResponse, None]


class VariationBatch:
    """Makes variations of a batch of pictures, and writes them to a folder or a file system.

    Names and seeds follow from the source's content: a picture is
    ``pictures/ab/<source>-<job>-<index>.png``, where `<source>` begins the SHA-256 of the source's
    bytes and `<job>` that of engine, version, options, size, fit and model. So a picture that is
    there, whole and of the right size, is not made again, and raising `n` adds pictures. Each is
    put in place whole.

    An instance pickles; its engine is made on the first call, wherever that is. An engine that
    takes `seed` is made anew for each source, so what is slow to make belongs to its class. One
    that takes `threads` gets one unless `options` says otherwise: whoever runs many batches runs a
    process for each processor. What an engine takes from the environment is no part of a name. An
    engine without `seed` is asked for further pictures alone, so one that always makes the same
    repeats them.

    Args:
        output_dir: The folder to write to, made when it is needed, or a URL of any file system that
            fsspec knows, such as "s3://bucket/prefix". The paths of sources may be such URLs too.
        engine: The name of an engine.
        options: Options of the engine: texts, numbers and the like. `seed` and `strength` are
            those of rows that name none.
        n: How many variations of a source whose row does not say, 1 to 10.
        size: Their width x height in pixels, if its row does not say.
        fit: What to do with a picture that is no square PNG under 4 MB, as in `load_source`.
        model: The model, by the engine's own names.
        storage_options: Passed to the file systems of URLs, as fsspec's own. What fsspec is
            configured with needs no options.

    Raises:
        InvalidRequestError: If a setting is out of range, or `output_dir` a URL of no known kind or
            with a password; `param` names it.
        MissingExtraError: If `output_dir` is a URL, and fsspec is not installed, or the package for
            this kind of URL.
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
    ) -> None:
        if fit not in get_args(Fit):
            raise InvalidRequestError(
                f"fit must be 'strict', 'crop' or 'pad', got {shown(fit)}.", param="fit"
            )
        if model is not None and (not isinstance(model, str) or not model):
            raise InvalidRequestError("model must be a non-empty string.", param="model")
        if not isinstance(engine, str):
            raise InvalidRequestError(
                f"engine must be the name of an engine, got a {type(engine).__name__}; each worker "
                "makes its own.",
                param="engine",
            )
        for name, given_options in (("options", options), ("storage_options", storage_options)):
            if not isinstance(given_options, Mapping | None):
                raise InvalidRequestError(f"{name} must be a mapping.", param=name)
        # What a row may say is checked in one place.
        said = {"path": "all", "n": n, "size": size, "seed": (options or {}).get("seed")}
        given = Job.read(said, n=1, size=SIZES[-1])
        self.engine = engine
        self._engine = LazyEngine(engine, options or {})
        self._seed = given.seed
        self.n = given.n
        self.size = given.size
        self.fit = fit
        self.model = model
        self.output_dir = output_dir
        self.storage_options = dict(storage_options or {})
        self.outputs = open_outputs(output_dir, self.storage_options)

    def __call__(self, batch: Mapping[str, Column] | Table) -> dict[str, list[Any]]:
        """Make what is missing of a batch.

        Args:
            batch: Columns of equal length, as lists or arrays, or a data frame or an Arrow table:
                `path`, and if wanted `n`, `size`, `seed` and `strength`, where None, NaN and ""
                mean the default. `position`, which may be anything, comes out with each picture of
                its source.

        Returns:
            `COLUMNS`, one row a picture in order, and `position` if it was given. `index` counts
            from 1. `seed` is that of the picture, or None with an engine that takes none.
            `output_path` is relative to `output_dir`. `milliseconds` is the engine's time for
            the picture, its share where several were made at once, and None if it was there
            already. What could not be made of a source is one row with `error`, the class of the
            error and its sentence, and without `index`.

        Raises:
            InvalidRequestError: If the batch is no table, `path` is missing, the columns differ in
                length, or the engine refuses an option.
            OutputError: If a picture cannot be written or read back, such as on a full disk.
            EngineError: If the engine cannot be made.
            ImageVariationError: What would happen with every further picture too: no right key, a
                budget that is used up, no such engine, model or endpoint, a package that is
                missing.
        """
        rows: list[Row] = []
        given = columns(batch)
        for values in zip(*given.values(), strict=True):
            rows += self.rows(dict(zip(given, values, strict=True)))
        names = (*COLUMNS, *(["position"] if "position" in given else []))
        return {name: [row[name] for row in rows] for name in names}

    def rows(self, source: Mapping[str, object]) -> list[Row]:
        """Do what a call does for a single source.

        Args:
            source: The values of its row by column.

        Raises:
            ImageVariationError: As a call does.
        """
        flow = self._flow(source)
        step = next(flow)
        while isinstance(step, _Ask):
            try:
                answer = call_engine(step.engine, step.request)
            except ImageVariationError as error:
                step = flow.throw(error)
            else:
                step = flow.send(answer)
        return step

    async def rows_async(self, source: Mapping[str, object]) -> list[Row]:
        """Do what `rows` does without blocking the loop.

        Raises:
            ImageVariationError: As a call does.
        """
        # Few use it, and the import takes longer than many a picture.
        import asyncio

        flow = self._flow(source)
        step = await asyncio.to_thread(next, flow)
        while isinstance(step, _Ask):
            try:
                answer = await call_engine_async(step.engine, step.request)
            except ImageVariationError as error:
                step = await asyncio.to_thread(flow.throw, error)
            else:
                step = await asyncio.to_thread(flow.send, answer)
        return step

    def job(self, source: Mapping[str, object]) -> Job:
        """Return what a row asks for.

        Raises:
            SourceError: If it has no path.
            InvalidRequestError: If a value is out of range.
        """
        return Job.read(source, n=self.n, size=self.size)

    def output_paths(self, job: Job, source_sha256: str) -> list[str]:
        """Return the names of all pictures of a job, relative to the output folder.

        Args:
            job: What is asked for.
            source_sha256: The SHA-256 of the source's bytes, in hex.

        Raises:
            EngineNotFoundError: If there is no such engine.
        """
        said = [self.engine, self.version, self._engine.relevant, self.fit, self.model]
        said += [job.size, str(job.seed), str(job.strength)]
        digest = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:8]
        folder = f"{PICTURES}/{source_sha256[:2]}"
        stem = f"{folder}/{source_sha256[:24]}-{digest}"
        return [f"{stem}-{index}.png" for index in range(1, job.n + 1)]

    @property
    def version(self) -> str:
        """The version of the engine's distribution.

        Raises:
            EngineNotFoundError: If there is no such engine.
        """
        return self._engine.version

    def load(self) -> VariationEngine:
        """Return the engine, made when this is called first.

        Raises:
            ImageVariationError: As `load_engine`.
        """
        return self._engine.load()

    def read(self, path: str) -> tuple[bytes, str]:
        """Return the bytes of a source, and its name without suffix.

        Args:
            path: The path of a file, or its URL.

        Raises:
            SourceError: If it cannot be read.
            MissingExtraError: If a package for the URL is missing.
        """
        return read_stored_file(path, self.storage_options) if is_url(path) else read_file(path)

    def picture_row(
        self, job: Job, source_sha256: str, picture: Picture, *, seed: int | None
    ) -> Row:
        """Return the row of a picture that is there.

        Args:
            job: What was asked for.
            source_sha256: The SHA-256 of the source's bytes, in hex.
            picture: The picture, under one of `output_paths`.
            seed: The picture's seed, with an engine that takes one.
        """
        return picture_row(job, source_sha256, picture, seed=seed) | self._made_by()

    def error_row(
        self,
        source: Mapping[str, object],
        error: ImageVariationError,
        *,
        source_sha256: str | None = None,
    ) -> Row:
        """Return the row that says what went wrong with a source.

        Args:
            source: The values of its row by column.
            error: What went wrong.
            source_sha256: The SHA-256 of its bytes in hex, if they could be read.
        """
        row = error_row(source, error, source_sha256=source_sha256) | self._made_by()
        return {**row, "size": row["size"] or self.size}

    def close(self) -> None:
        """Close the engine, if it was made and can be closed. The next call makes a new one."""
        self._engine.close()

    def _made_by(self) -> Row:
        return {"engine": self.engine, "engine_version": self.version}

    def _first_seed(self, job: Job, source_sha256: str) -> int | None:
        """Return the seed of the first picture, or None if neither row nor engine knows seeds."""
        if job.seed is not None or not self._engine.takes_seed:
            return job.seed
        return int(source_sha256[:8], 16) if self._seed is None else self._seed

    def _flow(self, source: Mapping[str, object]) -> _Flow:
        """Do all for one source; yields the calls of the engine and, last, the rows."""
        # First: if the engine cannot be made, that is no fault of the source.
        self.load()
        try:
            job = self.job(source)
            data, name = self.read(job.path)
        except _HOPELESS:
            raise
        except ImageVariationError as error:
            yield [self.error_row(source, error)]
            return
        digest = hashlib.sha256(data).hexdigest()
        first = self._first_seed(job, digest)
        seeds = [None if first is None else first + at for at in range(job.n)]
        paths = self.output_paths(job, digest)
        pictures = SourcePictures(data, name, job, paths, self.outputs)
        for places in pictures.missing():
            try:
                request = pictures.request(len(places), fit=self.fit, model=self.model)
                engine = self._engine.with_options(seeds[places.start], job.strength)
                start = time.perf_counter()
                try:
                    answer = yield _Ask(engine, request)
                finally:
                    self._engine.release(engine)
            except _HOPELESS:
                raise
            except ImageVariationError as error:
                pictures.failure = error
                break
            pictures.keep(places, answer, (time.perf_counter() - start) * 1000)
        rows = [
            self.picture_row(job, digest, picture, seed=seeds[at])
            for at, picture in sorted(pictures.there.items())
        ]
        if pictures.failure is not None:
            rows.append(self.error_row(source, pictures.failure, source_sha256=digest))
        yield [{**row, "position": source.get("position")} for row in rows]
