from collections.abc import Callable
from pathlib import Path

import pytest

MakeTinyModel = Callable[[str], Path]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> MakeTinyModel:
    """Return the folder of a preset's tiny model. Each is made once; don't change its files."""
    # Imported here because it needs torch: without torch, the test is skipped.
    from tests.engines.diffusers.tiny import save_tiny_model

    root = tmp_path_factory.mktemp("tiny")

    def make(preset: str) -> Path:
        folder = root / preset
        return folder if folder.exists() else save_tiny_model(preset, folder)

    return make
