"""Files in half precision: which are chosen, downloaded, found and loaded."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from langchain_image_variation.engines.auto import choose_engine
from langchain_image_variation.engines.diffusers.model_cache import cached_folder
from langchain_image_variation.engines.diffusers.model_download import is_downloaded
from langchain_image_variation.engines.diffusers.precision import loads_float16, model_dtype
from langchain_image_variation.engines.diffusers.presets import PRESETS, Part
from langchain_image_variation.engines.diffusers.repository import (
    Download,
    find_folders,
    plan_download,
)
from langchain_image_variation.engines.diffusers.weight_files import (
    choose_files,
    find_corrupt_file,
    loaded_variant,
)
from langchain_image_variation.exceptions import InvalidRequestError, ModelNotDownloadedError
from tests.engines.diffusers.conftest import MakeTinyModel
from tests.engines.diffusers.fake_hardware import GPU, FakeHardware
from tests.engines.diffusers.fake_hub import FakeHub, HubRepository, run_fake_hub
from tests.extras import skip_without

UNET = "unet/diffusion_pytorch_model"
HALVED_UNET = f"{UNET}.fp16"
PART = Part("pipeline", "owner/tiny", "main", ("model_index.json", "unet/*", "vae/*"))
FILES = {
    "model_index.json": b'{"_class_name": "StableUnCLIPImg2ImgPipeline"}',
    "unet/config.json": b"{}",
    f"{UNET}.safetensors": b"weights of the U-Net",
    f"{HALVED_UNET}.safetensors": b"half of it",
    "vae/config.json": b"{}",
    "vae/diffusion_pytorch_model.safetensors": b"weights of the decoder",
}
FULL = sorted(set(FILES) - {f"{HALVED_UNET}.safetensors"})
HALVED = sorted(set(FILES) - {f"{UNET}.safetensors"})
NO_WEIGHTS = b"\2" + bytes(7) + b"{}"
"""A file in the format safetensors without a single weight: the length of its header, and that."""

GPU_MACHINE = FakeHardware({"cuda:0": GPU("NVIDIA H200")})


def choose(*paths: str, float16: bool, revision: str = "v1") -> list[str]:
    """Return the chosen files of some in the folder `unet`, without that folder."""
    names = [f"unet/{path}" for path in paths]
    chosen = choose_files(
        names, ["unet/*"], repository="owner/tiny", revision=revision, float16=float16
    )
    return [path.removeprefix("unet/") for path in chosen]


@pytest.mark.parametrize(
    ("paths", "full", "halved"),
    [
        (["m.safetensors", "m.fp16.safetensors"], [0], [1]),
        (["m.safetensors", "m.non_ema.safetensors"], [0], [0]),
        (["m.fp16.safetensors"], [0], [0]),
        (["m.fp16.safetensors", "m.bin"], [0], [0]),
        (["m.safetensors", "m.fp16.bin"], [0], [0]),
        (["m.bin", "m.fp16.bin"], [0], [1]),
        (
            [
                *("m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"),
                *("m.safetensors.index.json", "m.safetensors.index.fp16.json"),
                *("m.fp16-00001-of-00002.safetensors", "m.fp16-00002-of-00002.safetensors"),
            ],
            [0, 1, 2],
            [3, 4, 5],
        ),
        (
            ["m-00001-of-00001.fp16.safetensors", "m.safetensors.index.fp16.json", "m.safetensors"],
            [2],
            [0, 1],
        ),
    ],
    ids=["both", "ema", "half", "pickle", "half-pickle", "pickles", "shards", "old-shards"],
)
def test_one_format_of_weights_is_chosen(
    paths: list[str], full: list[int], halved: list[int]
) -> None:
    """Safe files come first, and then those of the wanted precision, with their index."""
    assert choose(*paths, float16=False) == sorted(paths[index] for index in full)
    assert choose(*paths, float16=True) == sorted(paths[index] for index in halved)
    others = ("config.json", "notes.txt")
    assert {*others} < {*choose(*paths, *others, float16=True)}


SDXL_UNET = (
    *("config.json", "diffusion_flax_model.msgpack", "diffusion_pytorch_model.fp16.safetensors"),
    *("diffusion_pytorch_model.safetensors", "model.onnx", "model.onnx_data"),
    *("openvino_model.bin", "openvino_model.xml"),
)
"""The files in the folder `unet` of stabilityai/stable-diffusion-xl-base-1.0."""


def test_weights_of_other_programs_are_not_downloaded() -> None:
    """Files for ONNX, OpenVINO and Flax are left out, and so is what no program is known to need.

    In the repository of SDXL, they are three times as large as the rest.
    """
    assert choose(*SDXL_UNET, float16=False) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    tokenizer = ("merges.txt", "spiece.model", "tokenizer_config.json", "vocab.json")
    assert choose(*tokenizer, "sample.wav", "README.md", float16=True) == [*tokenizer]
    assert choose("openvino_model.bin", "pytorch_model.bin", float16=False) == ["pytorch_model.bin"]


@pytest.mark.parametrize("float16", [False, True])
def test_other_variants_are_named(float16: bool) -> None:
    """If the weights of a folder exist only in variants that cannot be loaded, these are named."""
    with pytest.raises(InvalidRequestError) as caught:
        choose("m.bf16.safetensors", "m.non_ema.bin", "config.json", float16=float16)
    assert caught.value.message == (
        "The repository 'owner/tiny' has the weights of 'unet' only in the variants 'bf16', "
        "'non_ema'. Of all variants, only 'fp16' can be loaded. Choose another model, or another "
        "revision."
    )


def test_pickles_in_half_precision_need_a_pin() -> None:
    """A pickle in half precision is refused from a branch, as any pickle."""
    with pytest.raises(InvalidRequestError, match="only as pickles"):
        choose("m.bin", "m.fp16.bin", float16=True, revision="main")
    assert choose("m.bin", "m.fp16.safetensors", float16=True, revision="main")


def test_weights_of_openvino_are_not_checked(tmp_path: Path) -> None:
    """A corrupt file is named, and not the weights for OpenVINO, which nothing here loads."""
    skip_without("safetensors")
    for name in ("unet/openvino_model.bin", "vae/diffusion_pytorch_model.safetensors"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"neither ZIP nor safetensors")
    assert find_corrupt_file(tmp_path) == "vae/diffusion_pytorch_model.safetensors"


def test_an_incomplete_format_is_not_loaded(tmp_path: Path) -> None:
    """If shards in half precision are missing, the other files of the component are loaded."""
    skip_without("safetensors")
    (tmp_path / "m.safetensors").write_bytes(NO_WEIGHTS)
    assert loaded_variant(tmp_path, float16=True) is None
    index = tmp_path / "m.safetensors.index.fp16.json"
    index.write_text('{"weight_map": {"a": "m.fp16-00001-of-00001.safetensors"}}')
    (tmp_path / "m.fp16-00002-of-00002.safetensors").write_bytes(NO_WEIGHTS)
    assert loaded_variant(tmp_path, float16=True) is None
    assert find_corrupt_file(tmp_path) is not None
    index.write_text("{")
    assert loaded_variant(tmp_path, float16=True) is None
    index.unlink()
    assert loaded_variant(tmp_path, float16=True) == "fp16"
    assert loaded_variant(tmp_path, float16=False) is None
    (tmp_path / "m.safetensors").unlink()
    assert loaded_variant(tmp_path, float16=False) == "fp16"
    (tmp_path / "m.safetensors.index.json").write_text('{"weight_map": {"a": "missing"}}')
    assert loaded_variant(tmp_path, float16=True) == "fp16"
    assert loaded_variant(tmp_path, float16=False) is None


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_corrupt_format_is_not_loaded(suffix: str, tmp_path: Path) -> None:
    """In `float16`, a whole file is loaded instead of a truncated one of the other precision."""
    skip_without("safetensors")
    content = NO_WEIGHTS if suffix == "safetensors" else b"\x80\x02."
    full, halved = tmp_path / f"m.{suffix}", tmp_path / f"m.fp16.{suffix}"
    for path in (full, halved):
        path.write_bytes(content)
    assert loaded_variant(tmp_path, float16=True) == "fp16"
    halved.write_bytes(content[:-1] if suffix == "safetensors" else b"")
    assert loaded_variant(tmp_path, float16=True) is None
    # If nothing is whole, the error names the file that was wanted. Neither a file of another
    # precision nor a pickle replaces it.
    full.write_bytes(b"")
    (tmp_path / f"m.bf16.{suffix}").write_bytes(content)
    if suffix == "safetensors":
        (tmp_path / "m.bin").write_bytes(b"\x80\x02.")
    assert loaded_variant(tmp_path, float16=True) == "fp16"
    # In float32, an image must not depend on which file is whole.
    halved.write_bytes(content)
    assert loaded_variant(tmp_path, float16=False) is None


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """Run a hub with a model whose U-Net has files in half precision."""
    skip_without("huggingface_hub")
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    with run_fake_hub() as hub:
        hub.repositories["owner/tiny"] = HubRepository(FILES)
        yield hub


def plan(hub: FakeHub, cache: Path, *, float16: bool) -> Download:
    """Plan the download of the model."""
    return plan_download(
        [PART],
        model="tiny",
        cache_dir=cache,
        endpoint=hub.url,
        prefers_float16=lambda: float16,
    )


def names(download: Download) -> list[str]:
    """Return the files of a download."""
    return [file.path for file in download.files["pipeline"]]


def test_half_precision_halves_the_download(hub: FakeHub, tmp_path: Path) -> None:
    """In float16, the smaller files arrive, are found, and are not enough for float32."""
    download = plan(hub, tmp_path, float16=True)
    assert names(download) == HALVED
    assert download.missing_bytes == sum(len(FILES[path]) for path in HALVED)
    folder = download.run(lambda done, total: None)["pipeline"]
    assert cached_folder(PART, tmp_path, float16=True) == folder
    assert cached_folder(PART, tmp_path) is None
    assert find_folders([PART], model="tiny", cache_dir=tmp_path, float16=True)
    with pytest.raises(ModelNotDownloadedError) as caught:
        find_folders([PART], model="tiny", cache_dir=tmp_path)
    assert caught.value.message == (
        "The model 'tiny' is on this machine in half precision only. Run `image-variation pull "
        "tiny --dtype float32`, or pass download=True."
    )
    download = plan(hub, tmp_path, float16=False)
    assert download.missing_bytes == len(FILES[f"{UNET}.safetensors"])
    assert download.run(lambda done, total: None)["pipeline"] == folder
    assert cached_folder(PART, tmp_path) == folder


def test_whole_files_are_not_downloaded_again(hub: FakeHub, tmp_path: Path) -> None:
    """Files in the usual precision that are here are used in float16 too."""
    plan(hub, tmp_path, float16=False).run(lambda done, total: None)
    download = plan(hub, tmp_path, float16=True)
    assert (names(download), download.missing_bytes) == (FULL, 0)
    assert cached_folder(PART, tmp_path, float16=True) is not None


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_a_moved_branch_keeps_the_files(is_interrupted: bool, hub: FakeHub, tmp_path: Path) -> None:
    """After a change of another file, weights that are here are used, whatever their precision."""
    plan(hub, tmp_path, float16=False).run(lambda done, total: None)
    changed_files = {**FILES, "unet/config.json": b"{} "}
    hub.repositories["owner/tiny"] = HubRepository(changed_files)
    if is_interrupted:
        # The end of the whole file is smaller than the file in half precision.
        [blob] = {path.resolve() for path in tmp_path.rglob(f"{UNET}.safetensors")}
        os.truncate(blob, blob.stat().st_size - 1)
        blob.rename(blob.with_name(f"{blob.name}.incomplete"))
    download = plan(hub, tmp_path, float16=True)
    assert names(download) == FULL
    assert (
        download.missing_bytes
        == sum(len(changed_files[path]) for path in FULL if path.endswith("json")) + is_interrupted
    )


def test_halved_files_of_a_moved_branch_stay(hub: FakeHub, tmp_path: Path) -> None:
    """After a change of another file, weights in half precision are used again in float16."""
    plan(hub, tmp_path, float16=True).run(lambda done, total: None)
    hub.repositories["owner/tiny"] = HubRepository({**FILES, "unet/config.json": b"{} "})
    assert names(plan(hub, tmp_path, float16=True)) == HALVED


def test_precision_is_asked_for_only_if_it_matters(hub: FakeHub, tmp_path: Path) -> None:
    """If there are no files in half precision, nobody asks for the device, which imports torch."""
    hub.repositories["owner/tiny"] = HubRepository({path: FILES[path] for path in FULL})

    def fail() -> bool:
        raise AssertionError

    download = plan_download(
        [PART], model="tiny", cache_dir=tmp_path, endpoint=hub.url, prefers_float16=fail
    )
    assert names(download) == FULL


def test_auto_needs_the_files_of_its_precision(hub: FakeHub, tmp_path: Path) -> None:
    """With files in half precision only, `auto` is `diffusers` if the GPU computes in float16."""
    skip_without("torch")
    part = replace(PART, patterns=PRESETS["unclip"].parts[0].patterns)
    hub.repositories["owner/tiny"] = HubRepository(FILES)
    plan_download(
        [part],
        model="tiny",
        cache_dir=tmp_path,
        endpoint=hub.url,
        prefers_float16=lambda: True,
    ).run(lambda done, total: None)
    options = {"model": "owner/tiny", "cache_dir": tmp_path}
    assert choose_engine(options, hardware=GPU_MACHINE).name == "diffusers"
    old_machine = FakeHardware({"cuda:0": GPU("NVIDIA GeForce GTX 1660")})
    for choice in (
        choose_engine(options, hardware=old_machine),
        choose_engine({**options, "dtype": "bfloat16"}, hardware=GPU_MACHINE),
    ):
        assert choice.name == "local"
        assert choice.reason == (
            "the model 'owner/tiny' is on this machine in half precision only; `image-variation "
            "pull owner/tiny --dtype float32` gets the other files"
        )
    named_revision = {**options, "revision": "main"}
    assert "`image-variation pull owner/tiny --revision main --dtype float32` gets" in (
        choose_engine(named_revision, hardware=old_machine).reason
    )
    assert is_downloaded("owner/tiny", cache_dir=tmp_path, dtype="float16")
    assert not is_downloaded("owner/tiny", cache_dir=tmp_path, device="cpu")


def test_the_precision_follows_device_and_model() -> None:
    """GPUs load float16, except for models that need bfloat16, and a dtype decides for itself."""
    presets = [preset for preset in PRESETS.values() if preset.name != "flux-redux"]
    for preset in presets:
        assert model_dtype(preset, hardware=GPU_MACHINE) == "float16"
        assert loads_float16(preset, hardware=GPU_MACHINE)
        assert not loads_float16(preset, hardware=FakeHardware())
        assert not loads_float16(preset, dtype="bfloat16", hardware=GPU_MACHINE)
        assert loads_float16(preset, dtype="float16", hardware=FakeHardware())
    assert not loads_float16(PRESETS["flux-redux"], hardware=GPU_MACHINE)


def test_the_size_is_a_lower_bound() -> None:
    """The size of a download that is not known exactly is right in each precision."""
    sizes = {
        name: (
            preset.least_download_bytes(float16=False),
            preset.least_download_bytes(float16=True),
        )
        for name, preset in PRESETS.items()
    }
    assert sizes["sd-variations"] == (3_775_000_000, 3_775_000_000)
    assert sizes["unclip"] == (5_170_000_000, 3_171_812_184)
    # Nothing is published about these. No file has less than two bytes for each number.
    assert sizes["ip-adapter"] == (3_856_630_146, 3_856_630_146)


@pytest.mark.parametrize(
    "preset",
    [
        "unclip",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("ip-adapter-xl", "kandinsky")),
    ],
)
def test_both_precisions_load_the_same(
    preset: str, tiny_model: MakeTinyModel, tmp_path: Path
) -> None:
    """In float16, weights are equal bit for bit, whichever files they are loaded from."""
    import torch

    from langchain_image_variation.engines.diffusers.families import load_family
    from langchain_image_variation.engines.diffusers.models import read_model
    from tests.engines.diffusers.tiny import halve_weights

    def fail(_: object) -> dict[str, Path]:
        raise AssertionError

    folders = {"full": tiny_model(preset)}
    for name, is_alone in (("both", False), ("half", True)):
        folders[name] = shutil.copytree(folders["full"], tmp_path / name)
        halve_weights(folders[name], keep_originals=not is_alone)
    models = {}
    for name, folder in folders.items():
        description = read_model(folder, None, fail)
        family = load_family(description.preset.family)
        loaded = family.load(description.folders, torch.float16, safety=True)
        models[name] = {
            f"{part}.{key}": value
            for pipeline in loaded.pipelines
            for part, component in pipeline.components.items()
            if hasattr(component, "state_dict")
            for key, value in component.state_dict().items()
        }
    assert models["full"]
    for name in ("both", "half"):
        assert models[name].keys() == models["full"].keys()
        for key, value in models["full"].items():
            assert torch.equal(value, models[name][key]), key
    # In float32, files in half precision are used only if there are no others.
    for name, expected in (("both", torch.equal), ("half", lambda *pair: not torch.equal(*pair))):
        weights = [
            family.load(
                read_model(folders[folder], None, fail).folders, torch.float32, safety=True
            ).pipeline.unet.conv_in.weight
            for folder in ("full", name)
        ]
        assert expected(*weights)
