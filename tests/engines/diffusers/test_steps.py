"""How many denoising steps the schedulers of the presets can take."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest

from langchain_image_variation.engines.diffusers.engine import MAX_STEPS
from langchain_image_variation.engines.diffusers.families.pipeline import choose_scheduler
from langchain_image_variation.engines.diffusers.presets import PRESETS
from langchain_image_variation.exceptions import InvalidRequestError
from tests.engines.diffusers.calls import make_engine, make_request, open_images
from tests.engines.diffusers.conftest import MakeTinyModel

LEADING: dict[str, Any] = {"timestep_spacing": "leading", "steps_offset": 1}
"""What the published schedulers of the presets have in common. FLUX has another kind."""


@pytest.mark.parametrize("option", ["model", "dpm-solver++"])
@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.DDIMScheduler(**LEADING),
        diffusers.DDPMScheduler(**LEADING),
        diffusers.EulerDiscreteScheduler(**LEADING),
        diffusers.PNDMScheduler(skip_prk_steps=True, **LEADING),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_drawing_starts_from_noise(scheduler: Any, option: str) -> None:
    """With 10 steps or more, drawing starts in the highest tenth of the 1000 levels of noise."""
    pipeline = SimpleNamespace(scheduler=scheduler)
    choose_scheduler(pipeline, option)
    for steps in range(10, MAX_STEPS + 1):
        pipeline.scheduler.set_timesteps(steps)
        assert max(pipeline.scheduler.timesteps) >= 900, steps


def test_more_steps_of_dpm_solver_start_no_lower() -> None:
    """DPM-Solver++ starts from the highest level, whatever spacing the model's scheduler has."""
    pipeline = SimpleNamespace(scheduler=diffusers.EulerDiscreteScheduler(**LEADING))
    choose_scheduler(pipeline, "dpm-solver++")
    for steps in (2, PRESETS["ip-adapter-xl"].steps, MAX_STEPS):
        pipeline.scheduler.set_timesteps(steps)
        assert max(pipeline.scheduler.timesteps) == 999


@pytest.mark.parametrize("scheduler_class", [diffusers.LCMScheduler, diffusers.TCDScheduler])
def test_refuses_more_steps_than_the_model_was_distilled_for(
    scheduler_class: Any, tiny_model: MakeTinyModel, tmp_path: Path
) -> None:
    """A distilled model draws with the steps that it was distilled for, and refuses one more."""
    folder = shutil.copytree(tiny_model("sd-variations"), tmp_path / "mine")
    scheduler_class(original_inference_steps=3).save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", scheduler_class.__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
    engine = make_engine(folder, steps=4)
    with pytest.raises(InvalidRequestError) as caught:
        engine.create_variation(make_request())
    assert caught.value.message.startswith("steps must be a whole number from 1 to 3, got 4;")
    assert caught.value.param == "steps"
    for options in ({"steps": 3}, {"steps": 4, "scheduler": "dpm-solver++"}):
        other = make_engine(folder, **options)
        assert len(open_images(other.create_variation(make_request()))) == 1
        other.close()
    engine.close()
