import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_image_variation.samples import square_png
from tests.batch.declared import declare_engines
from tests.batch.ray.nodes import Nodes
from tests.extras import skip_without


@pytest.fixture(scope="session")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Start a cluster of two nodes on this machine, which know the engines of the tests."""
    skip_without("ray")
    from tests.batch.shelf import declare_shelf

    with pytest.MonkeyPatch.context() as monkeypatch:
        declare_engines(tmp_path_factory.mktemp("declared"), monkeypatch)
        declare_shelf(tmp_path_factory.mktemp("shelf"), monkeypatch)
        monkeypatch.setenv("ENGINE_SECONDS", "0.1")
        with Nodes.started() as nodes:
            yield nodes


@pytest.fixture(autouse=True)
def engines() -> None:
    """Declare none for a single test: the cluster knows those of the session."""


@pytest.fixture(autouse=True)
def photos(nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a fresh folder, with sixteen pictures in its folder `photos`, and an empty log."""
    monkeypatch.chdir(tmp_path)
    Path(os.environ["ENGINE_LOG"]).unlink(missing_ok=True)
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(16):
        (folder / f"{index:02}.png").write_bytes(square_png(32 + index))
    return folder
