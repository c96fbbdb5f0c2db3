from pathlib import Path

import pytest

from pytest_image_variation.samples import square_png


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder with a photo."""
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "cat.png").write_bytes(square_png(16))
    return folder
