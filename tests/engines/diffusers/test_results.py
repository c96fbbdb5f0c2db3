"""What the tool, the server and a batch say about images of a model."""

import json
from pathlib import Path

import httpx
import pytest

from langchain_image_variation import ImageVariationTool
from langchain_image_variation.cli import main
from langchain_image_variation.engines.auto import choose_engine
from langchain_image_variation.server import create_app
from pytest_image_variation.samples import jpeg, square_png
from tests.agents.scripted import call
from tests.engines.diffusers.calls import make_engine
from tests.engines.diffusers.conftest import MakeTinyModel
from tests.engines.diffusers.fake_hardware import GPU, FakeHardware


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with a photo."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat.jpg").write_bytes(jpeg())
    return tmp_path


def test_the_tool_names_model_and_kind(tiny_model: MakeTinyModel) -> None:
    """The artifact names engine and model, and the text the kind of variation and the size."""
    engine = make_engine(tiny_model("sd-variations"))
    tool = ImageVariationTool(engine=engine, fixed_size="256x256", expose={"strength"}, cache=True)
    messages = [
        tool.invoke(call(image="cat.jpg", **arguments))
        for arguments in ({}, {"strength": 0.9}, {"strength": 0.9})
    ]
    for message in messages:
        (image,) = message.artifact["images"]
        assert (image["engine"], image["model"]) == ("diffusers", "sd-variations")
        assert "Kind of variation: new images of the same subject." in message.text
        assert message.artifact["note"] in message.text
    own, strong, again = (message.artifact["images"][0] for message in messages)
    assert own["sha256"] != strong["sha256"] == again["sha256"]
    assert messages[2].artifact["cached"]


@pytest.mark.slow
def test_a_manifest_names_the_model(tiny_model: MakeTinyModel) -> None:
    """A batch lists the engine, the model and the note of each image."""
    options = ["--engine", "diffusers", "--model-path", str(tiny_model("sd-variations"))]
    arguments = ["cat.jpg", "--size", "256x256", "--steps", "2", "--device", "cpu", "-q"]
    assert main(["batch", *arguments, *options, "-o", "out", "--jsonl"]) == 0
    row = json.loads(Path("out/manifest.jsonl").read_text())
    assert (row["engine"], row["model"]) == ("diffusers", "sd-variations")
    assert "256" in row["note"]


async def test_a_request_sets_the_strength(tiny_model: MakeTinyModel, root: Path) -> None:
    """A server that accepts the strength draws with that of the request."""
    app = create_app(
        make_engine(tiny_model("sd-variations")),
        store_dir=root / "store",
        accept_fields=["strength"],
    )
    answers = []
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for strength in ("0.5", "", "1"):
            form = {"size": "256x256", "response_format": "b64_json", "strength": strength}
            files = {"image": ("a.png", square_png(64))}
            response = await client.post("/v1/images/variations", data=form, files=files)
            answers.append(response.json()["data"])
    assert answers[0] == answers[1] != answers[2]


def test_auto_takes_a_model_in_a_folder(tiny_model: MakeTinyModel) -> None:
    """With a complete model in a folder and a GPU, `auto` is `diffusers`."""
    options = {"model": tiny_model("sd-variations")}
    hardware = FakeHardware({"cuda:0": GPU()})
    assert choose_engine(options, hardware=hardware).name == "diffusers"
    assert choose_engine(options).name in ("diffusers", "local")
