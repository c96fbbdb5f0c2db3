from pathlib import Path

import pytest

from pytest_image_variation.samples import square_png
from tests.batch.declared_engines import declare_engines


@pytest.fixture(autouse=True)
def engines(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Declare the engines of `tests.batch.declared_engines`."""
    declare_engines(tmp_path_factory.mktemp("declared"), monkeypatch)


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty folder with a subfolder `photos` of five images, and return that."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(5):
        (folder / f"{index}.png").write_bytes(square_png(32 + index))
    return folder
