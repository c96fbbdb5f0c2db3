import io
from pathlib import Path

import pytest

from pytest_image_variation.samples import jpeg


@pytest.fixture(autouse=True)
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a new folder that has one JPEG photo."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg())
    return path


@pytest.fixture(autouse=True)
def empty_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands in this process read an empty standard input instead of pytest's."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
