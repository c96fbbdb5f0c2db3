"""A Ray cluster of two nodes on this machine."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from typing import Any

import pytest

__all__ = ["Nodes"]

_NODE = {"object_store_memory": 80_000_000, "include_log_monitor": False}
_HEALTH = {
    # A lost node is detected after about a second instead of ten or more.
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 300,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}


class Nodes:
    """The nodes of a cluster.

    Args:
        cluster: A `ray.cluster_utils.Cluster` with a head node.
        num_cpus: The processors that each node claims to have.
    """

    def __init__(self, cluster: Any, num_cpus: int) -> None:
        self.address: str = cluster.address
        self._cluster = cluster
        self._node = {**_NODE, "num_cpus": num_cpus}
        self._second = cluster.add_node(**self._node)

    @classmethod
    @contextmanager
    def start(cls, num_cpus: int = 1) -> Iterator["Nodes"]:
        """Start the nodes, and stop them after the block."""
        from ray.cluster_utils import Cluster

        head = {
            **_NODE,
            "num_cpus": num_cpus,
            # Fewer processes, so that a busy machine starts the others in time.
            "include_dashboard": False,
            "no_monitor": True,
            "_system_config": _HEALTH,
        }
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            yield cls(cluster, num_cpus)
        finally:
            cluster.shutdown()

    @property
    def second_id(self) -> str:
        """The ID of the second node."""
        return str(self._second.node_id)

    def kill_second(self) -> None:
        """Kill all processes of the second node at once."""
        self._cluster.remove_node(self._second, allow_graceful=False)

    def restart_second(self) -> None:
        """Start a new second node after it was killed."""
        self._second = self._cluster.add_node(**self._node)

    @contextmanager
    def extra_node(self, *, num_cpus: int, num_gpus: int) -> Iterator[None]:
        """Add a third node for the block, with the processors and GPUs that it claims to have."""
        third = {
            **_NODE,
            "num_cpus": num_cpus,
            "num_gpus": num_gpus,
            "env_vars": {"NODE": "third", "ENGINE_SECONDS": "0.5"},
        }
        node = self._cluster.add_node(**third)
        try:
            yield
        finally:
            self._cluster.remove_node(node)

    @contextmanager
    def extra_node_without(self, folder: Path) -> Iterator[None]:
        """Add a third node for the block, which sees another folder in place of this one.

        That folder contains the files of a killed run. Skips the test if this system does not allow
        private mounts.
        """
        namespace = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
        mount = f'mount -t tmpfs none "{folder}"'
        if (
            not which("unshare")
            or subprocess.run([*namespace, mount], capture_output=True).returncode
        ):
            pytest.skip("this system does not allow private mounts")
        ray = str(Path(sys.executable).with_name("ray"))
        start = [ray, "start", f"--address={self.address}", "--num-cpus=1", "--block"]
        process = subprocess.Popen(
            [
                *namespace,
                f'{mount} && mkdir "{folder}/.batch" && touch "{folder}/.batch/run-id" '
                '&& exec "$@"',
                *("sh", *start, "--object-store-memory=80000000", "--disable-usage-stats"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            while self._count_alive() < 3:
                assert process.poll() is None
                time.sleep(0.1)
            yield
        finally:
            process.terminate()
            process.wait(30)
            while self._count_alive() > 2:
                time.sleep(0.1)

    def _count_alive(self) -> int:
        return sum(node["Alive"] for node in self._cluster.global_state.node_table())
