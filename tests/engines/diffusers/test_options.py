import gc
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from langchain_image_variation.engines.checks import find_engine_fault
from langchain_image_variation.engines.diffusers import DiffusersEngine
from langchain_image_variation.engines.loading import load_engine
from langchain_image_variation.exceptions import (
    EngineError,
    InvalidImageError,
    InvalidRequestError,
    ModelNotFoundError,
)
from langchain_image_variation.images.png import SquarePNG
from pytest_image_variation.samples import corrupt_png
from tests.engines.diffusers.calls import make_engine, make_request, open_images
from tests.engines.diffusers.conftest import MakeTinyModel

NAN = float("nan")


WRONG: dict[str, tuple[object, ...]] = {
    "seed": (-1, 1.5, "7", True, NAN),
    "strength": (-0.1, 1.1, NAN, "much", True, None),
    "steps": (0, -1, 101, 2.5, "many", True, NAN),
    "guidance_scale": (-1, 101, NAN, float("inf"), "3", False),
    "device": ("gpu", "", None, 0, "cuda:x", "cpu:0; rm"),
    "dtype": ("half", "float64", "", None, 16),
    "offload": ("all", "", None, True),
    "batch": (0, 11, -1, 1.5, "4", True),
    "safety": (None, 1, "no"),
    "download": (None, 1, "yes"),
    "revision": ("", 7, b"main"),
    "token": ("", 7, b"hf_secret"),
    "cache_dir": ("", 7, []),
    "model": ("sd", "", 7, None, b"unclip", [], "/nowhere/model"),
}


@pytest.mark.parametrize(
    ("option", "value"), [(option, value) for option in WRONG for value in WRONG[option]]
)
def test_refuses_a_wrong_option(option: str, value: Any) -> None:
    """A wrong option is refused when the engine is made; the message names it, and no secret."""
    with pytest.raises(InvalidRequestError, match=option) as caught:
        load_engine("diffusers", **{option: value})
    assert caught.value.param == option
    assert "hf_secret" not in caught.value.message
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(("option", "value"), [("seed", -1), ("strength", 2), ("strength", NAN)])
def test_a_copy_checks_its_options(option: str, value: Any, tiny_model: MakeTinyModel) -> None:
    """`with_options` refuses what the constructor refuses."""
    engine = make_engine(tiny_model("sd-variations"))
    with pytest.raises(InvalidRequestError, match=option):
        engine.with_options(**{option: value})
    engine.close()


def test_the_engine_says_what_it_is(tiny_model: MakeTinyModel) -> None:
    """The engine offers its model under the model's name, and its copies do too."""
    engine = make_engine(tiny_model("unclip"))
    assert find_engine_fault(engine) is None
    assert engine.models == engine.with_options(seed=1).models == ("dall-e-2", "unclip")
    assert engine.create_variation(make_request(model="unclip")).model == "unclip"
    with pytest.raises(ModelNotFoundError, match="'dall-e-2' and 'unclip'"):
        engine.create_variation(make_request(model="sd-variations"))
    engine.close()


def test_a_relative_folder_stays_the_same(
    tiny_model: MakeTinyModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A relative folder is that of the moment when the engine is made."""
    monkeypatch.chdir(tiny_model("sd-variations").parent)
    engine = make_engine("./sd-variations")
    monkeypatch.chdir(tmp_path)
    assert engine.create_variation(make_request()).model == "sd-variations"
    engine.close()


def test_the_fingerprint_covers_the_settings(tiny_model: MakeTinyModel, tmp_path: Path) -> None:
    """Engines have equal fingerprints if they make the same images, and only then."""
    folder = shutil.copytree(tiny_model("sd-variations"), tmp_path / "mine")
    options: list[dict[str, Any]] = [
        *({}, {"seed": 8}, {"seed": None}, {"strength": 0.6}, {"steps": 3}),
        *({"guidance_scale": 2}, {"dtype": "bfloat16"}, {"safety": False}),
    ]
    engines = [make_engine(folder, **chosen) for chosen in options]
    prints = {engine.fingerprint for engine in engines}
    assert len(prints) == len(options)
    same: list[dict[str, Any]] = [
        *({"batch": 2}, {"offload": "none"}, {"token": "x"}, {"download": True})
    ]
    for chosen in same:
        assert make_engine(folder, **chosen).fingerprint == engines[0].fingerprint
    assert engines[0].with_options(seed=8).fingerprint == engines[1].fingerprint
    (folder / "unet" / "config.json").write_text("{}")
    assert make_engine(folder).fingerprint not in prints
    assert "hf_secret" not in repr(vars(make_engine(folder, token="hf_secret")))


@pytest.mark.parametrize("seed", [2**32 - 1, 2**32, 2**64, 10**40])
def test_huge_seeds_are_different(seed: int, tiny_model: MakeTinyModel) -> None:
    """A seed of any size works, keeps the contract, and is not cut to 32 or 64 bits."""
    engine = make_engine(tiny_model("sd-variations"), seed=seed)
    first, second = engine.create_variation(make_request(n=2)).data
    assert (first.seed, second.seed) == (seed, seed + 1)
    alone = engine.with_options(seed=seed + 1).create_variation(make_request()).data[0]
    assert alone.read() == second.read()
    for bits in (32, 64):
        short = engine.with_options(seed=(seed + 1) % 2**bits).create_variation(make_request())
        assert (short.data[0].read() == second.read()) == (seed + 1 < 2**bits)
    engine.close()


def test_a_random_seed_is_returned(tiny_model: MakeTinyModel) -> None:
    """Without a seed, each call draws one, and returns it so that the image can be made again."""
    engine = make_engine(tiny_model("sd-variations"), seed=None)
    first, second = (engine.create_variation(make_request()).data[0] for _ in range(2))
    assert first.read() != second.read()
    assert first.seed is not None
    again = engine.with_options(seed=first.seed).create_variation(make_request()).data[0]
    assert again.read() == first.read()
    engine.close()


@pytest.mark.parametrize("size", ["256x256", "512x512", "1024x1024"])
def test_a_note_says_if_images_are_enlarged(size: Any, tiny_model: MakeTinyModel) -> None:
    """Images have exactly the size, and a note says that the model drew smaller ones."""
    engine = make_engine(tiny_model("sd-variations"))
    response = engine.create_variation(make_request(size=size))
    (image,) = open_images(response)
    assert f"{image.width}x{image.height}" == size
    assert response.note == f"drawn at 16x16 pixels and enlarged to {size}"
    engine.close()


def test_refuses_a_source_with_corrupt_pixels(tiny_model: MakeTinyModel) -> None:
    """A source with corrupt pixels is refused, and the engine stays usable."""
    engine = make_engine(tiny_model("sd-variations"))
    with pytest.raises(InvalidImageError, match="corrupt"):
        engine.create_variation(make_request(SquarePNG(corrupt_png())))
    assert engine.create_variation(make_request()).data
    engine.close()


def test_a_closed_engine_says_so(tiny_model: MakeTinyModel) -> None:
    """A closed engine refuses requests; closing twice is fine; a copy stays usable."""
    engine = make_engine(tiny_model("sd-variations"))
    other = engine.with_options(seed=9)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.create_variation(make_request())
    assert other.create_variation(make_request()).data[0].seed == 9
    other.close()


def test_half_precision_draws_nearly_the_same(tiny_model: MakeTinyModel) -> None:
    """Half precision works on the CPU too, and images are not black. "float16" is refused."""
    model = tiny_model("sd-variations")
    engine = make_engine(model, dtype="bfloat16")
    (image,) = open_images(engine.create_variation(make_request()))
    assert image.getbbox() is not None
    engine.close()
    engine = make_engine(model, dtype="float16")
    with pytest.raises(InvalidRequestError, match="Pass dtype='bfloat16'") as caught:
        engine.create_variation(make_request())
    assert caught.value.param == "dtype"
    engine.close()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("unet/diffusion_pytorch_model.safetensors", None),
        ("unet/diffusion_pytorch_model.safetensors", b""),
        ("unet/diffusion_pytorch_model.safetensors", b"\x08\0\0\0\0\0\0\0{}      trash"),
        ("unet/config.json", b"{"),
        ("unet/config.json", None),
        ("image_encoder/model.safetensors", b"trash"),
        ("scheduler/scheduler_config.json", None),
        ("feature_extractor/preprocessor_config.json", None),
        ("vae/config.json", b'{"_class_name": "AutoencoderKL", "block_out_channels": [3]}'),
        ("model_index.json", b'{"_class_name": "StableDiffusionImageVariationPipeline"}'),
        (
            "model_index.json",
            b'{"_class_name": "StableDiffusionImageVariationPipeline", "unet": ["os", "system"]}',
        ),
    ],
)
def test_a_damaged_model_is_an_error(
    name: str, content: bytes | None, tiny_model: MakeTinyModel, tmp_path: Path
) -> None:
    """A model with a missing or damaged file fails at the first request, without its path."""
    folder = shutil.copytree(tiny_model("sd-variations"), tmp_path / "mine")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    engine = make_engine(folder)
    with pytest.raises(EngineError) as caught:
        engine.create_variation(make_request())
    assert caught.value.message.startswith(
        (
            "The files of the model 'mine' cannot be loaded: ",
            f"The file {name!r} of the model 'mine' is missing or corrupt.",
        )
    )
    assert str(tmp_path) not in caught.value.message
    engine.close()


@pytest.mark.parametrize(("dtype", "is_hinted"), [("float32", True), ("bfloat16", False)])
def test_loading_may_run_out_of_memory(
    dtype: str, is_hinted: bool, tiny_model: MakeTinyModel, tmp_path: Path
) -> None:
    """If memory runs out while a model is loaded, the error suggests numbers of half the size."""
    folder = shutil.copytree(tiny_model("sd-variations"), tmp_path / "mine")
    config = folder / "scheduler" / "scheduler_config.json"
    # The scheduler keeps a number for each of its steps: here, those take four petabytes.
    steps = {"num_train_timesteps": 10**15}
    config.write_text(json.dumps({**json.loads(config.read_text()), **steps}))
    engine = make_engine(folder, dtype=dtype)
    with pytest.raises(EngineError) as caught:
        engine.create_variation(make_request())
    assert caught.value.problem == "The main memory is too small to load the model 'mine'."
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("Close other programs, ")
    assert ("pass dtype='bfloat16'" in caught.value.hint) is is_hinted
    engine.close()


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_a_truncated_file_is_named(form: str, tiny_model: MakeTinyModel, tmp_path: Path) -> None:
    """The error for a file whose end is missing names it, and says how to get it again."""
    from tests.engines.diffusers.tiny import convert_to_bin

    folder = shutil.copytree(tiny_model("sd-variations"), tmp_path / "mine")
    if form == "bin":
        convert_to_bin(folder)
    weights = folder / f"unet/diffusion_pytorch_model.{form}"
    os.truncate(weights, weights.stat().st_size - 1000)
    engine = make_engine(folder)
    with pytest.raises(EngineError) as caught:
        engine.create_variation(make_request())
    name = f"unet/diffusion_pytorch_model.{form}"
    message = f"The file {name!r} of the model 'mine' is missing or corrupt."
    assert caught.value.message.startswith(message)
    assert caught.value.hint == "Save the model again, or copy its folder again."
    engine.close()


def test_pickled_weights_are_loaded_without_code(tiny_model: MakeTinyModel, tmp_path: Path) -> None:
    """Weights as pickles give the same images, and a pickle that runs code is refused."""
    from tests.engines.diffusers.tiny import convert_to_bin

    folder = shutil.copytree(tiny_model("sd-variations"), tmp_path / "mine")
    convert_to_bin(folder)
    engine, original = make_engine(folder), make_engine(tiny_model("sd-variations"))
    images = [each.create_variation(make_request()).data[0].read() for each in (engine, original)]
    assert images[0] == images[1]
    for each in (engine, original):
        each.close()
    for name in ("unet/diffusion_pytorch_model.bin", "image_encoder/pytorch_model.bin"):
        trap = shutil.copytree(folder, tmp_path / name.partition("/")[0])
        write_trap(trap / name, tmp_path / "proof")
        engine = make_engine(trap)
        with pytest.raises(EngineError, match="cannot be loaded"):
            engine.create_variation(make_request())
        engine.close()
    assert not (tmp_path / "proof").exists()


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self._proof = proof

    def __reduce__(self) -> Any:
        return Path.touch, (self._proof,)


def write_trap(path: Path, proof: Path) -> None:
    """Write a file of weights that runs code when it is unpickled carelessly."""
    import torch

    torch.save({"weight": Trap(proof)}, path)


def test_a_model_that_draws_black_is_an_error(tiny_model: MakeTinyModel, tmp_path: Path) -> None:
    """If numbers overflow and the image is black, the error names the option that helps."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tiny_model("sd-variations"), tmp_path / "mine")
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["decoder.conv_out.bias"] = torch.full((3,), float("nan"))
    save_file(weights, path, {"format": "pt"})
    engine = make_engine(folder)
    with pytest.raises(EngineError, match=r"drew no image.*float32"):
        engine.create_variation(make_request())
    engine.close()


def test_a_forgotten_engine_frees_its_model(tiny_model: MakeTinyModel) -> None:
    """An engine that is no longer used does not keep its model, even if it was never closed."""

    def count() -> int:
        gc.collect()
        names = [type(item).__name__ for item in gc.get_objects()]
        return names.count("UNet2DConditionModel")

    before = count()
    engine: DiffusersEngine | None = make_engine(tiny_model("sd-variations"), seed=1)
    assert engine is not None
    engine.create_variation(make_request())
    assert count() > before
    engine = None
    assert count() == before


@pytest.mark.parametrize(
    ("model", "options", "param"),
    [
        ("unclip", {"dtype": "float16"}, "dtype"),
        ("flux-redux", {"scheduler": "dpm-solver++"}, "scheduler"),
    ],
)
def test_unfit_options_download_nothing(
    model: str, options: dict[str, str], param: str, tmp_path: Path
) -> None:
    """An option that does not fit the device or the preset is an error before the Hub is asked."""
    engine = make_engine(model, cache_dir=tmp_path, **options)
    with pytest.raises(InvalidRequestError) as caught:
        engine.plan_download()
    assert caught.value.param == param
