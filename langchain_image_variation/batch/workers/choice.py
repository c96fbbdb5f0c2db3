"""Which workers an engine wants: processes of its own, or calls at once from one process."""

from langchain_image_variation.batch.variation_batch import VariationBatch
from langchain_image_variation.batch.workers.processes import Processes
from langchain_image_variation.batch.workers.protocol import CALLS, Workers
from langchain_image_variation.batch.workers.tasks import Tasks
from langchain_image_variation.engines.loading import load_engine_class
from langchain_image_variation.engines.processors import processor_count
from langchain_image_variation.engines.traits import is_hosted

__all__ = ["asks_server", "crew_for", "usual_count"]


def asks_server(engine: str) -> bool:
    """Say whether an engine only waits for a server.

    Raises:
        EngineNotFoundError: If there is no such engine.
        MissingExtraError: If it needs a package that is not installed.
        EngineError: If it cannot be imported.
    """
    return is_hosted(load_engine_class(engine))


def usual_count(engine: str) -> int:
    """Return how many workers there are on one machine unless the user says.

    That is `CALLS` of an engine that asks a server, else the processors that this process may use.

    Raises:
        ImageVariationError: As `asks_server`.
    """
    if asks_server(engine):
        return CALLS
    return processor_count()


def crew_for(batch: VariationBatch, count: int, lock: int | None = None) -> Workers:
    """Return the workers that suit the engine.

    Args:
        batch: The settings.
        count: How many processes, or calls at once.
        lock: The descriptor of the lock of the output folder, which processes keep, or None.

    Raises:
        ImageVariationError: As `asks_server`, or if the engine cannot be made.
    """
    if asks_server(batch.engine):
        return Tasks(batch, count)
    return Processes(batch, count, lock)
