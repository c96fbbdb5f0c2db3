import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import ROOT
from tests.extras import skip_without

_PYTHON = f'[ "$1 $2" = "-m venv" ] || exec {sys.executable} "$@"'
# The whole suite does not run inside itself. Commands with further arguments do run.
_WHOLE_SUITE = '"-m pytest" | "-m pytest -n "? | "-m pytest -n "?" --all"'
_TESTED = f'case "$*" in {_WHOLE_SUITE}) exit ;; esac'
_PROGRAMS = {
    "python3": _PYTHON,
    "python": f"{_TESTED}\n{_PYTHON}",
    "pytest": f'exec {sys.executable} -m pytest "$@"',
    "pip": '[ "$1" = install ]',
    "image-variation": f'exec {sys.executable} -m langchain_image_variation "$@"',
}
"""What a page's commands find in place of an environment that pip installs into."""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the examples and a virtual environment that is already installed."""
    results = shutil.ignore_patterns("variations")
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=results)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks")
    for folder in ("bin", ".venv/bin"):
        (tmp_path / folder).mkdir(parents=True)
        for name, script in _PROGRAMS.items():
            program = tmp_path / folder / name
            program.write_text(f"#!/bin/sh\n{script}\n")
            program.chmod(0o755)
    (tmp_path / ".venv/bin/activate").touch()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve the engine `local` on loopback, with the environment that the pages export."""
    # Imported here, because it needs an extra and some pages need no server.
    from langchain_image_variation.server import create_app
    from tests.server.serving import serving

    with serving(create_app("local", store_dir=tmp_path / "store")) as address:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{address}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "any-text")
        yield address


@pytest.fixture
def models(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serve a tiny `sd-variations` with random weights as the Hub, and save it in `my-model`.

    Without the extra `diffusers`, the test is skipped.
    """
    for package in ("accelerate", "diffusers", "safetensors", "torch", "transformers"):
        skip_without(package)
    from langchain_image_variation.engines.diffusers.presets import DEFAULT_PRESET
    from tests.engines.diffusers.fake_hub import (
        HubRepository,
        hub_environment,
        read_files,
        run_fake_hub,
    )
    from tests.engines.diffusers.tiny import save_tiny_model

    files = read_files(save_tiny_model(DEFAULT_PRESET.name, checkout / "my-model"))
    with run_fake_hub() as hub:
        for part in DEFAULT_PRESET.parts:
            hub.repositories[part.repository] = HubRepository(files, (part.revision,))
        for name in ("HF_HUB_OFFLINE", "HF_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        for name, value in hub_environment(hub, checkout / "models").items():
            monkeypatch.setenv(name, value)
        yield
