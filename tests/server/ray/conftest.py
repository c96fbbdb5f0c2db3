import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.batch.ray.nodes import Nodes
from tests.extras import skip_without
from tests.server.ports import free_port
from tests.server.ray.noted_engine import Notes, declare_noted

SIGNING_KEY = "k" * 32
SETTINGS = {
    "engine": "noted",
    "engine_options": {"seconds": 0.05},
    "max_replicas": 2,
    "upscale_delay": 0,
    "num_cpus": 2,
    "server_replicas": 2,
    "queue": 3,
}
"""A node with three processors has room for one replica of the engine and one of the server."""


class RayServe:
    """A cluster of two nodes that runs Serve. Its proxy is on the first.

    Args:
        nodes: The nodes.
        port: Where the proxy listens.
        notes: The notes of the engine.
        store_url: A store that all nodes share.
    """

    def __init__(self, nodes: Nodes, port: int, notes: Notes, store_url: str) -> None:
        self.nodes = nodes
        self.notes = notes
        self.address = f"http://127.0.0.1:{port}"
        self._store_url = store_url
        self._is_deployed = False

    def deploy(self) -> None:
        """Deploy the application with the command of Serve, unless it runs already."""
        if self._is_deployed:
            return
        arguments = {**SETTINGS, "store_url": self._store_url}
        serve = [str(Path(sys.executable).with_name("serve")), "run", "--non-blocking"]
        subprocess.run(
            [
                *(*serve, "--address", self.nodes.address, "--name", "variations"),
                "langchain_image_variation.server.ray:app",
                *(f"{name}={value}" for name, value in arguments.items()),
            ],
            check=True,
            timeout=180,
            capture_output=True,
        )
        self._is_deployed = True

    def replace(self, **changes: Any) -> None:
        """Replace the application by one with other settings, and wait until it runs."""
        from ray import serve

        from langchain_image_variation.server.ray import Settings, app

        settings = Settings(**{**SETTINGS, "store_url": self._store_url, **changes})
        serve.run(app(settings), name="variations")

    def kill_servers(self) -> None:
        """Kill the replicas of the server, each of which Serve then replaces."""
        import ray

        for server in self._replicas("Server"):
            ray.kill(server)

    def count_calls_of_servers(self) -> dict[str, int]:
        """Return how many requests the servers on each node are working on, by the node's ID."""
        counts: dict[str, int] = {}
        for server, node in self._nodes_of("Server"):
            calls = ray_get(server.get_num_ongoing_requests.remote())
            counts[node] = counts.get(node, 0) + calls
        return counts

    def has_replica_on_second(self) -> bool:
        """Return whether the second node has a replica of the server or the engine."""
        nodes = [node for name in ("Server", "Engine") for _, node in self._nodes_of(name)]
        return self.nodes.second_id in nodes

    def _nodes_of(self, deployment: str) -> list[tuple[Any, str]]:
        """Return the replicas of a deployment that run, and the IDs of their nodes."""
        from ray.exceptions import RayError

        def read_node(_: object) -> str:
            import ray

            return str(ray.get_runtime_context().get_node_id())

        nodes = []
        for replica in self._replicas(deployment):
            # It may have died, or wait for a node.
            with suppress(RayError):
                nodes.append((replica, ray_get(replica.__ray_call__.remote(read_node))))
        return nodes

    def _replicas(self, deployment: str) -> list[Any]:
        import ray

        replicas = []
        for actor in ray.util.list_named_actors(all_namespaces=True):
            if f"#{deployment}#" in actor["name"]:
                # It may have died.
                with suppress(ValueError):
                    replicas.append(ray.get_actor(actor["name"], actor["namespace"]))
        return replicas

    def read_logs_of_servers(self) -> str:
        """Return what the replicas of the server have logged."""
        import ray

        folder = Path(ray._private.worker._global_node.get_session_dir_path(), "logs", "serve")
        return "".join(path.read_text() for path in folder.glob("replica_variations_Server_*.log"))

    def remove(self) -> None:
        """Remove the application, and wait until it is gone."""
        from ray import serve

        self._is_deployed = False
        serve.delete("variations")


def ray_get(reference: Any) -> Any:
    """Return what an actor answers within ten seconds."""
    import ray

    return ray.get(reference, timeout=10)


@pytest.fixture(scope="session")
def ray_serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayServe]:
    """Start the cluster."""
    skip_without("aiohttp_cors")
    import ray
    from ray import serve

    folder = tmp_path_factory.mktemp("ray-serve")
    with pytest.MonkeyPatch.context() as monkeypatch:
        notes = declare_noted(folder, monkeypatch)
        monkeypatch.setenv("IMAGE_VARIATION_SIGNING_KEY", SIGNING_KEY)
        with Nodes.start(num_cpus=3) as nodes:
            ray.init(nodes.address, logging_level="ERROR", log_to_driver=False)
            port = free_port("127.0.0.1")
            serve.start("HeadOnly", {"host": "127.0.0.1", "port": port})
            (folder / "store").mkdir()
            try:
                yield RayServe(nodes, port, notes, f"file://{folder}/store")
            finally:
                serve.shutdown()
                ray.shutdown()


@pytest.fixture
def deployed(ray_serve: RayServe) -> Iterator[RayServe]:
    """The application on the cluster, without notes."""
    ray_serve.notes.clear()
    ray_serve.deploy()
    yield ray_serve
    ray_serve.notes.release()


@pytest.fixture
def address(deployed: RayServe) -> str:
    """The address of the application."""
    return deployed.address
