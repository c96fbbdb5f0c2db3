"""A Ray cluster of two nodes on this machine, each with a processor."""

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

_NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}
_HEALTH = {
    # A lost node is known as lost after a second instead of ten or more.
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 300,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}


class Nodes:
    """The nodes.

    Args:
        cluster: A `ray.cluster_utils.Cluster`, with its head.
    """

    def __init__(self, cluster: Any) -> None:
        self.address: str = cluster.address
        self._cluster = cluster
        self._second = cluster.add_node(**_NODE)

    @classmethod
    @contextmanager
    def started(cls) -> Iterator["Nodes"]:
        """Start the nodes for the block."""
        from ray.cluster_utils import Cluster

        head = {
            **_NODE,
            "include_dashboard": False,
            "_system_config": _HEALTH,
        }
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            yield cls(cluster)
        finally:
            cluster.shutdown()

    def kill_one(self) -> None:
        """Kill all processes of the node that is not the head, at once."""
        self._cluster.remove_node(self._second, allow_graceful=False)

    def start_one(self) -> None:
        """Start another in the place of one that was killed."""
        self._second = self._cluster.add_node(**_NODE)

    @contextmanager
    def one_with_gpu(self) -> Iterator[None]:
        """Have a third node for the block, which says that it has two processors and a GPU."""
        third = {
            **_NODE,
            "num_cpus": 2,
            "num_gpus": 1,
            "env_vars": {"NODE": "third", "ENGINE_SECONDS": "0.5"},
        }
        node = self._cluster.add_node(**third)
        try:
            yield
        finally:
            self._cluster.remove_node(node)

    @contextmanager
    def one_that_does_not_see(self, folder: Path) -> Iterator[None]:
        """Have a third node for the block, to which a folder is another, of a run that was killed.

        The test is skipped where this system lets nobody have mounts of their own.
        """
        alone = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
        mount = f'mount -t tmpfs none "{folder}"'
        if not which("unshare") or subprocess.run([*alone, mount], capture_output=True).returncode:
            pytest.skip("this system lets nobody mount a folder")
        ray = str(Path(sys.executable).with_name("ray"))
        start = [ray, "start", f"--address={self.address}", "--num-cpus=1", "--block"]
        process = subprocess.Popen(
            [
                *alone,
                f'{mount} && mkdir "{folder}/.batch" && touch "{folder}/.batch/run-id" '
                '&& exec "$@"',
                *("sh", *start, "--object-store-memory=80000000", "--disable-usage-stats"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            while self._living() < 3:
                assert process.poll() is None
                time.sleep(0.1)
            yield
        finally:
            process.terminate()
            process.wait(30)
            while self._living() > 2:
                time.sleep(0.1)

    def _living(self) -> int:
        return sum(node["Alive"] for node in self._cluster.global_state.node_table())
