"""What `auto` chooses, and that everything that takes the name of an engine accepts it."""

import asyncio
import json
import pickle
import sys
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest

from langchain_image_variation import ImageVariationTool, VariationBatch, load_engine
from langchain_image_variation.cli import main
from langchain_image_variation.engines.auto import EngineChoice, choose_engine
from langchain_image_variation.engines.diffusers.presets import PRESETS
from langchain_image_variation.engines.diffusers.repository import plan_download
from langchain_image_variation.engines.loading import engine_name
from langchain_image_variation.exceptions import InvalidRequestError
from langchain_image_variation.server import create_app
from pytest_image_variation.samples import jpeg, square_png
from tests.agents.scripted import call
from tests.engines.diffusers.fake_hardware import GPU, FakeHardware
from tests.engines.diffusers.fake_hub import HubRepository, run_fake_hub

PACKAGES = ("accelerate", "diffusers", "safetensors", "torch", "transformers")
NO_GPU = FakeHardware()
ONE_GPU = FakeHardware({"cuda:0": GPU("NVIDIA H200")})
PART = PRESETS["sd-variations"].parts[0]
COMPONENTS = ("image_encoder", "unet", "vae")
FILES = {
    "model_index.json": b'{"_class_name": "StableDiffusionImageVariationPipeline"}',
    "scheduler/scheduler_config.json": b"{}",
    **{f"{name}/config.json": b"{}" for name in COMPONENTS},
    **{f"{name}/model.safetensors": b"weights" for name in COMPONENTS},
}
NOT_INSTALLED = "the extra 'diffusers' is not installed"

needs_hub = pytest.mark.skipif(
    find_spec("huggingface_hub") is None, reason="needs the extra diffusers"
)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put empty packages in the place of the large ones. Importing one makes a file of its name."""
    folder = tmp_path / "packages"
    folder.mkdir()
    for name in PACKAGES:
        (folder / f"{name}.py").write_text(f"open({name!r}, 'w').close()\n")
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a cache of models that has the default model, without its real weights."""
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    folder = tmp_path / "cache"
    with run_fake_hub() as hub:
        hub.repositories[PART.repository] = HubRepository(FILES, (PART.revision,))
        plan_download([PART], model="sd-variations", cache_dir=folder, endpoint=hub.url).run()
    yield folder


def test_without_the_packages_it_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    """If one package of the extra is missing, `auto` is `local`."""
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert choose_engine(hardware=ONE_GPU) == EngineChoice("local", NOT_INSTALLED)


@needs_hub
@pytest.mark.usefixtures("packages")
def test_without_the_model_it_is_local(tmp_path: Path) -> None:
    """If the model is not on this machine, `auto` is `local`, and torch is not even imported."""
    for options, name in (({}, "sd-variations"), ({"model": "a/b"}, "a/b")):
        choice = choose_engine({**options, "cache_dir": tmp_path / "none"})
        assert choice.name == "local"
        assert f"the model {name!r} is not on this machine; `image-variation pull {name}`" in (
            choice.reason
        )
    assert not Path("torch").exists()


@needs_hub
@pytest.mark.usefixtures("packages")
def test_with_model_and_gpu_it_is_diffusers(cache: Path) -> None:
    """With the packages, the model and a GPU, `auto` is `diffusers`; without a GPU, `local`."""
    options: dict[str, Any] = {"cache_dir": cache}
    choice = choose_engine(options, hardware=ONE_GPU)
    reason = "the model 'sd-variations' is here, and so is cuda:0 (NVIDIA H200)"
    assert choice == EngineChoice("diffusers", reason)
    for other_options, hardware in ((options, NO_GPU), ({**options, "device": "cpu"}, ONE_GPU)):
        choice = choose_engine(other_options, hardware=hardware)
        assert choice.name == "local"
        assert choice.reason.startswith(("there is no GPU", "device is 'cpu'"))
    assert choose_engine({**options, "model": "unclip"}, hardware=ONE_GPU).name == "local"


@needs_hub
@pytest.mark.usefixtures("packages")
def test_a_folder_is_a_model_too(cache: Path, tmp_path: Path) -> None:
    """A model in a local folder needs no cache, and a wrong option is an error."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "model_index.json").write_bytes(FILES["model_index.json"])
    assert choose_engine({"model": str(folder)}, hardware=ONE_GPU).name == "diffusers"
    with pytest.raises(InvalidRequestError, match="There is no folder 'none' for the model"):
        choose_engine({"model": str(tmp_path / "none")}, hardware=ONE_GPU)
    with pytest.raises(InvalidRequestError, match="no device 'xpu:0'"):
        choose_engine({"cache_dir": cache, "device": "xpu"}, hardware=ONE_GPU)


@needs_hub
def test_packages_that_fail_are_not_used(packages: Path, cache: Path) -> None:
    """If torch was built for another machine, `auto` is `local`, and says what failed."""
    (packages / "torch.py").write_text("raise OSError('libcuda.so: /home/x')\n")
    choice = choose_engine({"cache_dir": cache})
    assert choice == EngineChoice("local", "the packages of diffusers cannot be used (OSError)")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with a photo, without the packages of `diffusers`."""
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(jpeg())
    return tmp_path


@pytest.mark.usefixtures("root")
def test_the_tool_names_the_chosen_engine() -> None:
    """`auto` is the name of an engine for `load_engine` and the tool, whose artifact names it."""
    engine: Any = load_engine("auto", seed=7)
    assert (engine_name(engine), engine.seed) == ("local", 7)
    tool = ImageVariationTool(engine="auto", fixed_size="256x256", cache=True)
    for message in (
        tool.invoke(call(image="photo.jpg")),
        asyncio.run(tool.ainvoke(call(image="photo.jpg"))),
    ):
        assert message.artifact["images"][0]["engine"] == "local"


@pytest.mark.usefixtures("root")
def test_an_option_of_the_other_engine_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    """An option that the chosen engine lacks is an error that says why that engine was chosen."""
    reason = f" auto chose it because {NOT_INSTALLED}."
    for options in ({"steps": 5}, {"model": "unclip"}):
        for use in (partial(load_engine, "auto", **options), partial(make_auto_batch, options)):
            with pytest.raises(InvalidRequestError) as caught:
                use()
            [name] = options
            assert caught.value.message.startswith(f"The engine 'local' has no option {name!r}.")
            assert caught.value.message.endswith(reason)
            assert caught.value.param == name
    for arguments in (["--steps", "5"], ["--model", "unclip"], ["--model-path", "."]):
        assert main(["create", "photo.jpg", "--engine", "auto", "--quiet", *arguments]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("image-variation: The engine 'local' has no option --")
        assert line.endswith(reason)


def make_auto_batch(options: dict[str, Any]) -> VariationBatch:
    """Return a batch with the engine `auto` and these options."""
    return VariationBatch("out", engine="auto", options=options)


def test_a_batch_chooses_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch chooses when it is made, so its processes use one engine, which its rows name."""
    batch = VariationBatch("out", engine="auto", size="256x256")
    named_batch = VariationBatch("out", engine="local", size="256x256")
    columns = pickle.loads(pickle.dumps(batch))({"path": ["photo.jpg"]})
    assert (columns["engine"], columns["model"]) == (["local"], ["local"])
    assert columns["output_path"] == named_batch({"path": ["photo.jpg"]})["output_path"]


@pytest.mark.usefixtures("root")
def test_commands_say_what_they_chose(capsys: pytest.CaptureFixture[str]) -> None:
    """`create` and `batch` print the chosen engine and why, and their results name it."""
    note = f"auto chose the engine local: {NOT_INSTALLED}."
    options = ["--engine", "auto", "--size", "256x256"]
    assert main(["create", "photo.jpg", *options, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["engine"] == "local"
    first, *_, last = err.splitlines()
    assert first == note
    assert last.startswith("Make these again with --engine local --seed ")
    assert main(["batch", "photo.jpg", *options, "-o", "out", "--jsonl"]) == 0
    assert note in capsys.readouterr().err.splitlines()
    assert json.loads(Path("out/manifest.jsonl").read_text())["engine"] == "local"
    assert main(["create", "photo.jpg", *options, "--quiet"]) == 0
    assert capsys.readouterr().err == ""


async def test_the_server_chooses_too(root: Path) -> None:
    """A server with the engine `auto` offers the models of the chosen one."""
    transport = httpx.ASGITransport(create_app("auto", store_dir=root / "store"))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        models = (await client.get("/v1/models")).json()["data"]
        form = {"size": "256x256", "response_format": "b64_json"}
        response = await client.post(
            "/v1/images/variations", data=form, files={"image": ("a.png", square_png())}
        )
    assert [model["id"] for model in models] == ["dall-e-2", "local"]
    assert response.status_code == 200
