"""How many denoising steps the schedulers of the presets can take."""

from types import SimpleNamespace
from typing import Any

import diffusers
import pytest

from langchain_image_variation.engines.diffusers.engine import MAX_STEPS
from langchain_image_variation.engines.diffusers.families.pipeline import choose_scheduler
from langchain_image_variation.engines.diffusers.presets import PRESETS

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
