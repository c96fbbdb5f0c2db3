"""Inspects the next sources of a run in advance: what they contain, and which outputs exist.

Several sources are inspected at once, since most of the time goes to waiting for a disk or a remote
server.
"""

import hashlib
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TypeAlias

from langchain_image_variation.batch.inputs import Input
from langchain_image_variation.batch.job import Job
from langchain_image_variation.batch.ledger import Ledger
from langchain_image_variation.batch.rows import SourceRow, unexpected_error
from langchain_image_variation.batch.variation_batch import VariationBatch
from langchain_image_variation.exceptions import ImageVariationError, OutputError

__all__ = ["FailedInspection", "Inspection", "inspect_sources"]

_THREADS = 4
"""How many sources are inspected at once. Each may be in memory."""

_MAX_PENDING = 8
"""The maximum number of inspections that are running or waiting to be used."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What an inspection found out about a source."""

    position: int
    """The position of the source in the run, from 0."""
    source: SourceRow
    """The row of the source."""
    job: Job
    """The settings for the source."""
    sha256: str
    """The SHA-256 of its bytes, in hex."""
    output_paths: list[str]
    """The paths of all its variations."""
    output_hashes: dict[str, str] = field(default_factory=dict)
    """The SHA-256, in hex, of the variations that exist and are in the ledger, by path. A variation
    that a worker is making may have changed since."""


@dataclass(frozen=True, slots=True)
class FailedInspection:
    """Why a source cannot be used."""

    position: int
    """The position of the source in the run, from 0."""
    source: SourceRow
    """The row of the source."""
    error: ImageVariationError
    """The error."""


_Result: TypeAlias = Inspection | FailedInspection


def inspect_sources(
    inputs: Iterable[Input], batch: VariationBatch, ledger: Ledger
) -> Generator[_Result]:
    """Inspect sources in advance, and yield the results in order.

    Raises:
        OutputError: If the ledger cannot be read.
    """
    inspect = partial(_inspect, batch=batch, ledger=ledger)
    items = enumerate(inputs)
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="lookahead")
    pending: deque[Future[_Result]] = deque()
    try:
        pending.extend(pool.submit(inspect, *item) for item in islice(items, _MAX_PENDING))
        while pending:
            yield pending.popleft().result()
            pending.extend(pool.submit(inspect, *item) for item in islice(items, 1))
    finally:
        # A run that ends early does not wait for a server that may not respond.
        pool.shutdown(wait=False, cancel_futures=True)


def _inspect(position: int, item: Input, *, batch: VariationBatch, ledger: Ledger) -> _Result:
    source = {**item.row, "position": position}
    try:
        if item.error is not None:
            raise item.error
        job = batch.read_job(source)
        data, name = batch.read_source(job.path)
        sha256 = hashlib.sha256(data).hexdigest()
    except ImageVariationError as error:
        return FailedInspection(position, source, error)
    except Exception as error:
        return FailedInspection(position, source, unexpected_error(error))
    paths = batch.output_paths(job, sha256, name)
    inspection = Inspection(position, source, job, sha256, paths)
    recorded_paths = list(ledger.find_images(paths))
    # If an output cannot be read, the run reads it again and reports the error.
    with suppress(OutputError):
        contents = batch.outputs.read_all(recorded_paths)
        for path, content in zip(recorded_paths, contents, strict=True):
            if content is not None:
                inspection.output_hashes[path] = hashlib.sha256(content).hexdigest()
    return inspection
