"""`Actor`: what a run on a cluster keeps on one of its machines for a worker.

It is the same crew as on one machine: a process of its own, so that a source that kills it costs
itself and no other, or calls at once if the engine asks a server.
"""

import os
import pickle
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from langchain_image_variation.batch.rows import Row
from langchain_image_variation.batch.variation_batch import VariationBatch
from langchain_image_variation.batch.workers.choice import crew_for
from langchain_image_variation.batch.workers.protocol import Workers
from langchain_image_variation.exceptions import ImageVariationError, OutputError

__all__ = ["LOOK_EVERY", "MARK", "Actor", "Orders", "Outcome"]

LOOK_EVERY = 0.2
"""Seconds after which it is seen that a run is to end."""

MARK = ".bulk/shared"
"""The file by which a worker knows that its outputs are those of the run."""

Outcome: TypeAlias = list[Row] | ImageVariationError | None
"""What came of a source: its rows, an error that ends the run, or None if it had no turn."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What a worker is told when it is started."""

    batch: VariationBatch
    """The settings."""
    at_once: int
    """How many processes, or calls at once."""
    home: str
    """The folder that relative paths are relative to."""
    mark: bytes
    """What `MARK` holds during this run."""
    stop: Any
    """An actor that knows whether to begin anything more."""
    max_failures: int | None = None
    """After so many failed sources of its own a worker begins no other, before it is told."""


class Actor:
    """A worker of a run on a cluster, as Ray Data calls it.

    Args:
        orders: What it is told.
    """

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._stopped = False
        self._failures = 0
        self._looked = 0.0
        self._crew: Workers | None = None

    def __call__(self, table: Any) -> Any:
        """Work on a table of sources, and return what came of each by its position."""
        import pyarrow

        sources = table.to_pylist()
        outcomes = [pickle.dumps(outcome) for outcome in self._outcomes(sources)]
        positions = [source["position"] for source in sources]
        return pyarrow.table(
            {"position": positions, "outcome": pyarrow.array(outcomes, pyarrow.binary())}
        )

    def _outcomes(self, sources: Sequence[Mapping[str, object]]) -> list[Outcome]:
        outcomes: list[Outcome] = [None] * len(sources)
        in_hand: dict[Future[list[Row]], int] = {}
        for at, source in enumerate(sources):
            if self._is_over():
                break
            try:
                crew = self._started()
            except ImageVariationError as error:
                self._stopped, outcomes[at] = True, error
                break
            in_hand[crew.submit(source)] = at
            self._finish(in_hand, crew.capacity - 1, outcomes)
        self._finish(in_hand, 0, outcomes)
        return outcomes

    def _finish(
        self, in_hand: dict[Future[list[Row]], int], left: int, outcomes: list[Outcome]
    ) -> None:
        """Wait until no more sources than `left` are in hand, and note what came of them."""
        while len(in_hand) > left:
            if self._is_over():
                self._withdraw(in_hand)
            done, _ = wait(in_hand, LOOK_EVERY, FIRST_COMPLETED)
            for future in done:
                at = in_hand.pop(future)
                try:
                    rows = outcomes[at] = future.result()
                except ImageVariationError as error:
                    self._stopped, outcomes[at] = True, error
                else:
                    self._count(rows)

    def _count(self, rows: list[Row]) -> None:
        """Begin nothing more after too many failures: when the run knows of them, many follow."""
        self._failures += any(row["error"] is not None for row in rows)
        most = self._orders.max_failures
        self._stopped = self._stopped or (most is not None and self._failures >= most)

    def _withdraw(self, in_hand: dict[Future[list[Row]], int]) -> None:
        """Take back what no process has begun."""
        assert self._crew is not None
        for future in list(in_hand):
            if self._crew.withdraw(future):
                del in_hand[future]

    def _started(self) -> Workers:
        if self._crew is None:
            batch = self._orders.batch
            with suppress(OSError):
                os.chdir(self._orders.home)
            if batch.outputs.read(MARK) != self._orders.mark:
                raise OutputError(
                    "A machine of the cluster does not see the output folder; name one that all of "
                    "them share."
                )
            self._crew = crew_for(batch, self._orders.at_once)
        return self._crew

    def _is_over(self) -> bool:
        import ray

        if not self._stopped and time.monotonic() - self._looked > LOOK_EVERY:
            self._stopped = ray.get(self._orders.stop.is_set.remote())
            self._looked = time.monotonic()
        return self._stopped
