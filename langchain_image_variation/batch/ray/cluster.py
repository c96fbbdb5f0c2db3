"""`Cluster`: which Ray cluster to use and how, the connection to it, and its capacity."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from langchain_image_variation.exceptions import (
    EngineError,
    InvalidRequestError,
    MissingExtraError,
)

__all__ = ["Cluster", "connect", "count_worker_slots"]

_CONNECT_TIMEOUT = 10
"""Seconds in which a cluster must accept a connection."""

_GPU_STEP = 0.0001
"""The smallest part of a GPU that Ray can assign."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster to use, and the workers to start on it.

    Raises:
        InvalidRequestError: If `gpus` is out of range.
    """

    address: str | None = None
    """The address for `ray.init`. None means `RAY_ADDRESS`, or the cluster that this machine
    belongs to, or a new one on this machine alone."""
    workers: int | None = None
    """The number of workers. None means as many as the cluster has room for."""
    gpus: float = 0
    """The number of GPUs per worker, or the part of one."""

    def __post_init__(self) -> None:
        is_whole = self.gpus in (0, 1) or (self.gpus > 1 and self.gpus % 1 == 0)
        if not is_whole and not _GPU_STEP <= self.gpus < 1:
            raise InvalidRequestError(
                f"gpus must be a whole number, or a part of one GPU from {_GPU_STEP} to 1, got "
                f"{self.gpus:g}."
            )


@contextmanager
def connect(address: str | None) -> Iterator[None]:
    """Connect to a cluster for the block. An existing connection is used and stays open.

    Args:
        address: The address for `ray.init`.

    Raises:
        MissingExtraError: If Ray is not installed.
        EngineError: If the cluster cannot be reached.
    """
    try:
        import pyarrow  # noqa: F401  # the actors need it
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
        _check_reachable(address or os.environ.get("RAY_ADDRESS", ""))
        with _preserve_sigterm_handler():
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        raise EngineError(
            f"The Ray cluster cannot be reached ({type(error).__name__}). Check the address after "
            "--ray, and that 'ray status' finds the cluster."
        ) from None
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield
    finally:
        ray.shutdown()


def count_worker_slots(gpus: float) -> int:
    """Return how many workers the connected cluster has room for.

    Each worker needs a processor and its GPUs on the same machine.

    Args:
        gpus: The number of GPUs per worker, or the part of one.

    Raises:
        EngineError: If there is no room for any worker.
    """
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    slots = sum(_count_slots(resources, gpus) for resources in machines)
    if not slots:
        most_gpus = max((resources.get("GPU", 0) for resources in machines), default=0)
        raise EngineError(
            f"No machine of the cluster has room for a worker with one processor and {gpus:g} "
            f"GPUs; the most on one machine is {most_gpus:g}. Lower --gpus, or add a machine."
        )
    return slots


def _count_slots(resources: dict[str, float], gpus: float) -> int:
    processors = int(resources.get("CPU", 0))
    # The small addend corrects rounding: a GPU has room for three workers with a third each.
    return min(processors, int(resources.get("GPU", 0) / gpus + 1e-6)) if gpus else processors


def _check_reachable(address: str) -> None:
    """Connect to a host and port once. Ray itself would keep trying for a long time."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), _CONNECT_TIMEOUT).close()


@contextmanager
def _preserve_sigterm_handler() -> Iterator[None]:
    """Restore the handler of SIGTERM after the block. Ray installs one that ends the process."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
