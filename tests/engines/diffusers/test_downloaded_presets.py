"""Every preset, loaded from the files that its parts name and from no others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from langchain_image_variation.engines.diffusers.presets import PRESETS
from tests.engines.diffusers.conftest import MakeTinyModel
from tests.engines.diffusers.fake_hub import (
    FakeHub,
    HubRepository,
    hub_environment,
    read_files,
    run_fake_hub,
)

SCRIPT = """
import sys
from tests.engines.diffusers.calls import make_engine, make_request
for model in sys.argv[1:]:
    engine = make_engine(model, steps=1, download=True)
    assert engine.plan_download() is not None
    response = engine.create_variation(make_request())
    assert engine.plan_download() is None
    print(response.model, len(response.data))
    engine.close()
"""


def publish(hub: FakeHub, preset: str, folder: Path, pipeline: str | None = None) -> None:
    """Put a tiny model into the repositories of its preset, each part into its own.

    Args:
        hub: The hub.
        preset: The name of the preset.
        folder: The folder of the tiny model.
        pipeline: The repository of the pipeline, if it is not that of the preset.
    """
    chosen = PRESETS[preset]
    contents = {part.name: read_files(folder / part.name) for part in chosen.parts[1:]}
    subfolders = tuple(f"{name}/" for name in contents)
    contents["pipeline"] = {
        path: content
        for path, content in read_files(folder).items()
        if not path.startswith(subfolders)
    }
    for part in chosen.parts:
        name = pipeline if pipeline and part.name == "pipeline" else part.repository
        # Adapters of two presets are in one repository.
        earlier = hub.repositories[name].files if name in hub.repositories else {}
        hub.repositories[name] = HubRepository(
            {**earlier, **contents[part.name], "other/weights.safetensors": b"not needed"},
            ("main", part.revision),
            is_gated=chosen.is_gated,
        )


@pytest.mark.slow
def test_presets_work_as_downloaded(tiny_model: MakeTinyModel, tmp_path: Path) -> None:
    """Each preset, and a repository of one's own, works with what is downloaded for it."""
    with run_fake_hub() as hub:
        hub.accepted_tokens = {"hf_accepted"}
        for preset in PRESETS:
            publish(hub, preset, tiny_model(preset))
        publish(hub, "ip-adapter", tiny_model("ip-adapter"), "owner/mine")
        models = (*PRESETS, "owner/mine")
        process = subprocess.run(
            [sys.executable, "-c", SCRIPT, *models],
            env={
                **os.environ,
                **hub_environment(hub, tmp_path / "cache"),
                "HF_TOKEN": "hf_accepted",
                "HF_HUB_DISABLE_IMPLICIT_TOKEN": "",
                "OMP_NUM_THREADS": "1",
            },
            capture_output=True,
            text=True,
        )
    assert process.stdout.splitlines() == [f"{model} 1" for model in models], process.stderr
    assert list((tmp_path / "cache").rglob("unet"))
    assert not list((tmp_path / "cache").rglob("other"))
