"""A Ray cluster of two nodes on this machine, each with a processor."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
