import subprocess
import sys

import pytest

from langchain_image_variation.engines.diffusers.families import load_family
from langchain_image_variation.engines.diffusers.presets import DEFAULT_PRESET, PRESETS, Preset

EACH = pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)


def test_the_default_preset_can_be_chosen_by_name() -> None:
    """The default preset is one of the presets, and needs no license to be accepted."""
    assert PRESETS[DEFAULT_PRESET.name] is DEFAULT_PRESET
    assert not DEFAULT_PRESET.is_gated


@EACH
def test_each_preset_has_a_family_and_its_own_class(preset: Preset) -> None:
    """A preset names a family, and no two presets have one pipeline class."""
    assert load_family(preset.family)
    same = [other for other in PRESETS.values() if other.pipeline_class == preset.pipeline_class]
    assert same == [preset]


@EACH
def test_the_first_part_is_the_pipeline(preset: Preset) -> None:
    """The first part is the pipeline with its index, and every part has its own name."""
    assert preset.parts[0].name == "pipeline"
    assert "model_index.json" in preset.parts[0].patterns
    assert len({part.name for part in preset.parts}) == len(preset.parts)


def test_importing_the_engine_loads_no_large_package() -> None:
    """Importing the engine and its presets loads neither torch nor a package of Hugging Face."""
    code = """
import sys
import langchain_image_variation.engines.diffusers.presets
import langchain_image_variation.engines.diffusers.engine
print({"torch", "diffusers", "transformers", "accelerate", "huggingface_hub"} & {*sys.modules})
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.stdout.strip() == "set()", process.stderr
