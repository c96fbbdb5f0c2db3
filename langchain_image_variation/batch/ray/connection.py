"""The connection of this process to a Ray cluster, and how many workers that has room for."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from langchain_image_variation.exceptions import EngineError, MissingExtraError

__all__ = ["connected", "room"]

_KNOCK = 10
"""Seconds in which a cluster must take a connection."""


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Be part of a cluster for the block; a connection that is there already stays.

    Args:
        address: As `ray.init` takes it.

    Raises:
        MissingExtraError: If Ray is not installed.
        EngineError: If the cluster cannot be reached.
    """
    try:
        import pyarrow  # noqa: F401
        import ray
        import ray.data
    except ImportError:
        raise MissingExtraError.for_package(
            "A batch on a cluster", "ray", "langchain-image-variation[ray]"
        ) from None
    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        _knock(address or os.environ.get("RAY_ADDRESS", ""))
        with _own_signals():
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        raise EngineError(
            f"The Ray cluster cannot be reached ({type(error).__name__}); check the address after "
            "--ray, and that 'ray status' finds it."
        ) from None
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield
    finally:
        ray.shutdown()


def room(gpus: float) -> int:
    """Return how many workers the machines of the connected cluster have room for.

    Each takes a processor and its part of the GPUs of one machine.

    Args:
        gpus: How much of a GPU each takes.

    Raises:
        EngineError: If there is room for none.
    """
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    workers = sum(_room_on(has, gpus) for has in machines)
    if not workers:
        most = max((has.get("GPU", 0) for has in machines), default=0)
        raise EngineError(
            f"No machine of the cluster has room for a worker with {gpus:g} GPUs and a processor; "
            f"the largest has {most:g} GPUs. Ask for less with --gpus, or add a machine."
        )
    return workers


def _room_on(has: dict[str, float], gpus: float) -> int:
    processors = int(has.get("CPU", 0))
    # Three thirds of one GPU are one.
    return min(processors, int(has.get("GPU", 0) / gpus + 1e-6)) if gpus else processors


def _knock(address: str) -> None:
    """Connect to an address that says host and port: where nobody listens, Ray tries for long."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), _KNOCK).close()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep what is done at SIGTERM: Ray ends the process."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
