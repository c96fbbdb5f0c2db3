"""Batch workers: local processes for engines that compute, concurrent calls for hosted engines."""

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, Protocol

from langchain_image_variation.batch.rows import OutputRow, SourceRow
from langchain_image_variation.batch.variation_batch import VariationBatch
from langchain_image_variation.engines.loading import load_engine_class
from langchain_image_variation.engines.processors import processor_count
from langchain_image_variation.engines.traits import engine_devices, has_devices, is_hosted

__all__ = ["DEFAULT_CALLS", "Workers", "default_worker_count", "start_workers"]

DEFAULT_CALLS = 8
"""The default number of concurrent calls to a hosted engine."""


class Workers(Protocol):
    """Workers that make the variations of sources."""

    capacity: int
    """How many sources should be submitted at once, so that no worker waits for the next one."""

    def submit(self, source: SourceRow) -> "Future[list[OutputRow]]":
        """Start a source. The future has its rows, or the error that ends the run."""
        ...

    def withdraw(self, future: "Future[list[OutputRow]]") -> bool:
        """Take a source back if no worker has started it, and return whether this succeeded."""
        ...

    def close(self) -> None:
        """End the workers. All sources must be finished."""
        ...

    def stop(self) -> None:
        """End the workers immediately, even if they have sources."""
        ...


def default_worker_count(engine: str, options: Mapping[str, object]) -> int:
    """Return the default number of workers on this machine.

    It is `DEFAULT_CALLS` for a hosted engine, and the number of devices for an engine that chooses
    one. Otherwise it is the number of processors that this process may use.

    Args:
        engine: The name of the engine.
        options: The options of the engine. If they name a device, there is one worker.

    Raises:
        ImageVariationError: See `load_engine_class` and `engine_devices`.
    """
    engine_class = load_engine_class(engine)
    if is_hosted(engine_class):
        return DEFAULT_CALLS
    return len(_devices(engine_class, options)) if has_devices(engine_class) else processor_count()


def _devices(engine_class: type[Any], options: Mapping[str, object]) -> tuple[str, ...]:
    """Return the devices for workers: the one that the options name, or all."""
    device = options.get("device", "auto")
    return engine_devices(engine_class) if device == "auto" else (str(device),)


def start_workers(batch: VariationBatch, count: int, lock: int | None = None) -> Workers:
    """Start the kind of workers that suits the engine.

    Args:
        batch: The settings.
        count: The number of processes or concurrent calls.
        lock: The file descriptor of the output folder's lock, which worker processes hold too.

    Raises:
        ImageVariationError: See `load_engine_class` and `engine_devices`. Also if a hosted engine
            cannot be created.
    """
    # Imported late because worker processes import this package and need neither. Importing asyncio
    # alone takes longer than making a small image.
    engine_class = load_engine_class(batch.engine)
    if is_hosted(engine_class):
        from langchain_image_variation.batch.workers.calls import ConcurrentCalls

        return ConcurrentCalls(batch, count)
    from langchain_image_variation.batch.workers.processes import WorkerProcesses

    devices: tuple[str | None, ...] = ()
    if has_devices(engine_class):
        # A single engine chooses its device itself, and listing all of them takes seconds.
        devices = _devices(engine_class, batch.options) if count > 1 else (None,)
    return WorkerProcesses(batch, count, lock, devices)
