from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.batch.ray.nodes import Nodes
from tests.extras import skip_without
from tests.server.ray.noted_engine import Notes, declare_noted
from tests.server.test_hosts import _free_port

SIGNING_KEY = "k" * 32


class RayServe(NamedTuple):
    """A cluster that runs Serve."""

    nodes: Nodes
    port: int
    notes: Notes
    store_url: str
    """A store that all nodes share."""

    @property
    def address(self) -> str:
        """Where the proxy listens."""
        return f"http://127.0.0.1:{self.port}"

    def deploy(self, **arguments: Any) -> None:
        """Deploy the application "variations" at the root, and wait until it runs."""
        from ray import serve

        from langchain_image_variation.server.ray import Settings, app

        settings = Settings(**{"engine": "noted", "num_cpus": 0.1, **arguments})
        serve.run(app(settings), name="variations", logging_config={"log_level": "ERROR"})


@pytest.fixture(scope="session")
def ray_serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayServe]:
    """Start a cluster of two nodes with Serve, whose proxy is on the first."""
    skip_without("ray")
    skip_without("aiohttp_cors")
    import ray
    from ray import serve

    folder = tmp_path_factory.mktemp("ray-serve")
    with pytest.MonkeyPatch.context() as monkeypatch:
        notes = declare_noted(folder, monkeypatch)
        monkeypatch.setenv("IMAGE_VARIATION_SIGNING_KEY", SIGNING_KEY)
        monkeypatch.setenv("RAY_SERVE_LOG_TO_STDERR", "0")
        with Nodes.start(num_cpus=3) as nodes:
            ray.init(nodes.address, logging_level="ERROR", log_to_driver=False)
            port = _free_port("127.0.0.1")
            serve.start(
                proxy_location="HeadOnly",
                http_options={"host": "127.0.0.1", "port": port},
                logging_config={"log_level": "ERROR"},
            )
            (folder / "store").mkdir()
            try:
                yield RayServe(nodes, port, notes, f"file://{folder}/store")
            finally:
                serve.shutdown()
                ray.shutdown()
