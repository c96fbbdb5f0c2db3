import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_image_variation.samples import square_png
from tests.batch.declared_engines import declare_engines
from tests.batch.ray.nodes import Nodes
from tests.extras import skip_without


@pytest.fixture(scope="session")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Start a cluster of two nodes, with the engines and file systems of the tests."""
    skip_without("ray")
    from tests.batch.file_systems import declare_file_systems

    with pytest.MonkeyPatch.context() as monkeypatch:
        declare_engines(tmp_path_factory.mktemp("declared"), monkeypatch)
        declare_file_systems(tmp_path_factory.mktemp("shelf"), monkeypatch)
        monkeypatch.setenv("ENGINE_SECONDS", "0.1")
        monkeypatch.setenv("ENGINE_DEVICES", "cuda:0 cuda:1")
        with Nodes.start() as nodes:
            yield nodes


@pytest.fixture(autouse=True)
def engines() -> None:
    """Override the fixture of `tests.batch`: the engines are declared once for the cluster."""


@pytest.fixture(autouse=True)
def photos(nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty folder with a subfolder `photos` of sixteen images, and return that."""
    monkeypatch.chdir(tmp_path)
    Path(os.environ["ENGINE_LOG"]).unlink(missing_ok=True)
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(16):
        (folder / f"{index:02}.png").write_bytes(square_png(32 + index))
    return folder
