"""`Look`: what a run sees of a source before its turn: its content, and what is there of it.

Several sources are looked at at once and ahead of their turn, since most of it is waiting: for a
disk, or for a server far away.
"""

import hashlib
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from langchain_image_variation.batch.inputs import Entry
from langchain_image_variation.batch.job import Job
from langchain_image_variation.batch.ledger import Ledger
from langchain_image_variation.batch.variation_batch import VariationBatch
from langchain_image_variation.batch.workers.protocol import Source
from langchain_image_variation.exceptions import (
    ImageVariationError,
    MissingExtraError,
    OutputError,
)

__all__ = ["Look", "looks"]

_AT_ONCE = 4
"""So many sources are looked at at once; each may be in the memory."""

_AHEAD = 8
"""So many looks wait at most, or are under way."""


@dataclass(frozen=True, slots=True)
class Look:
    """What is seen of a source."""

    position: int
    """Where it stands in the run, from 0."""
    source: Source
    """The values of its row by column."""
    job: Job
    """What is asked for."""
    sha256: str
    """The SHA-256 of its bytes, in hex."""
    paths: list[str]
    """The names of all its pictures."""
    seen: dict[str, str] = field(default_factory=dict)
    """The SHA-256 of those that the ledger knows and that are there, by name, in hex. One that is
    in other hands may have changed since."""


def looks(
    entries: Iterable[Entry], batch: VariationBatch, ledger: Ledger
) -> Generator[Look | tuple[int, Source, ImageVariationError]]:
    """Yield a look at each source in order, or where it stands, and what is wrong with it.

    Raises:
        OutputError: If the ledger cannot be read.
        MissingExtraError: If sources cannot be read for want of a package.
    """
    look = partial(_look, batch=batch, ledger=ledger)
    left = enumerate(entries)
    pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="look")
    waiting: deque[Future[Look | tuple[int, Source, ImageVariationError]]] = deque()
    try:
        waiting.extend(pool.submit(look, *one) for one in islice(left, _AHEAD))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(look, *one) for one in islice(left, 1))
    finally:
        # Whoever ends early does not wait for a server that may be gone.
        pool.shutdown(wait=False, cancel_futures=True)


def _look(
    position: int, entry: Entry, *, batch: VariationBatch, ledger: Ledger
) -> Look | tuple[int, Source, ImageVariationError]:
    source = {**entry.row, "position": position}
    try:
        if entry.error is not None:
            raise entry.error
        job = batch.job(source)
        sha256 = hashlib.sha256(batch.read(job.path)[0]).hexdigest()
    except MissingExtraError:
        raise
    except ImageVariationError as error:
        return position, source, error
    paths = batch.output_paths(job, sha256)
    look = Look(position, source, job, sha256, paths)
    known = list(ledger.known(paths))
    # Those who need it are told.
    with suppress(OutputError):
        for path, data in zip(known, batch.outputs.read_all(known), strict=True):
            if data is not None:
                look.seen[path] = hashlib.sha256(data).hexdigest()
    return look
