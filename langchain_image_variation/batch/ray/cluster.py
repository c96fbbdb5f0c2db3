"""`Cluster`: which Ray cluster to use and how, the connection to it, and its capacity."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from langchain_image_variation.exceptions import (
    EngineError,
    InvalidRequestError,
    MissingExtraError,
)

__all__ = [
    "Cluster",
    "Machine",
    "WorkerResources",
    "choose_resources",
    "connect",
    "count_worker_slots",
    "list_machines",
]

Machine: TypeAlias = Mapping[str, float]
"""How many there are of each resource of a machine, such as "CPU" and "GPU"."""

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
    gpus: float | None = None
    """The number of GPUs per worker, or the part of one. None means one if the engine computes on
    devices and the cluster has GPUs, otherwise none."""

    def __post_init__(self) -> None:
        if self.gpus is None:
            return
        is_whole = self.gpus in (0, 1) or (self.gpus > 1 and self.gpus % 1 == 0)
        if not is_whole and not _GPU_STEP <= self.gpus < 1:
            raise InvalidRequestError(
                f"gpus must be a whole number, or a part of one GPU from {_GPU_STEP} to 1, got "
                f"{self.gpus:g}."
            )


@dataclass(frozen=True, slots=True)
class WorkerResources:
    """What Ray reserves for each worker."""

    processors: int
    """The number of processors."""
    gpus: float
    """The number of GPUs, or the part of one."""


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


def list_machines() -> list[Machine]:
    """Return the machines of the connected cluster."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def choose_resources(
    cluster: Cluster, machines: Sequence[Machine], *, has_devices: bool
) -> WorkerResources:
    """Return what each worker needs.

    It is one processor, and the GPUs that the user asks for. An engine with devices gets one GPU
    unless the user says otherwise. Without GPUs, it gets all processors of a machine, because it
    computes with all of them. If machines differ, a worker has the processors of the smallest.

    Args:
        cluster: What the user asks for.
        machines: The machines of the cluster.
        has_devices: Whether the engine computes on a device.
    """
    gpus = cluster.gpus
    if gpus is None:
        gpus = int(has_devices and any(machine.get("GPU", 0) >= 1 for machine in machines))
    processors = [int(machine["CPU"]) for machine in machines if machine.get("CPU", 0) >= 1]
    if gpus or not has_devices or not processors:
        return WorkerResources(1, gpus)
    share = sum(processors) // (cluster.workers or 1)
    return WorkerResources(max(1, min(*processors, share)), 0)


def count_worker_slots(worker: WorkerResources, machines: Sequence[Machine]) -> int:
    """Return how many workers machines have room for.

    Each worker needs its processors and its GPUs on the same machine.

    Args:
        worker: What each worker needs.
        machines: The machines.

    Raises:
        EngineError: If there is no room for any worker.
    """
    slots = sum(_count_slots(machine, worker) for machine in machines)
    if not slots:
        most_gpus = max((machine.get("GPU", 0) for machine in machines), default=0)
        raise EngineError(
            "No machine of the cluster has room for a worker with one processor and "
            f"{worker.gpus:g} GPUs; the most on one machine is {most_gpus:g}. Lower --gpus, or "
            "add a machine."
        )
    return slots


def _count_slots(machine: Machine, worker: WorkerResources) -> int:
    slots = int(machine.get("CPU", 0)) // worker.processors
    if not worker.gpus:
        return slots
    # The small addend corrects rounding: a GPU has room for three workers with a third each.
    return min(slots, int(machine.get("GPU", 0) / worker.gpus + 1e-6))


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
