"""The engine through the command line and the server."""

import base64
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from PIL import Image

from langchain_image_variation.server import create_app
from pytest_image_variation.samples import square_png
from tests.engines.diffusers.calls import LAKE, make_engine, make_request, open_images
from tests.engines.diffusers.conftest import MakeTinyModel
from tests.server.serving import server_process, serving

pytestmark = pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
"""The official SDK says that the vendor has removed the endpoint."""

CLI = (sys.executable, "-m", "langchain_image_variation")


def engine_options(model: Path) -> list[str]:
    """Return the options of a command that draws quickly on the CPU."""
    return [
        *("--engine", "diffusers", "--model-path", str(model)),
        *("--device", "cpu", "--steps", "2", "--seed", "7"),
    ]


def test_the_sdk_gets_images_from_the_server(tiny_model: MakeTinyModel) -> None:
    """The official SDK gets what the engine makes, by the name of the model too."""
    engine = make_engine(tiny_model("unclip"))
    with serving(create_app(engine)) as address:
        client = OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0, timeout=300)
        fields: dict[str, Any] = {
            "image": ("lake.png", make_request().image.data),
            "n": 2,
            "size": "256x256",
            "response_format": "b64_json",
        }
        response = client.images.create_variation(**fields)
        again = client.images.create_variation(**fields, model="unclip")
        with pytest.raises(BadRequestError, match="does not exist"):
            client.images.create_variation(**fields, model="sd-variations")
    expected = [image.read() for image in engine.create_variation(make_request(n=2)).data]
    for answer in (response, again):
        assert [base64.b64decode(image.b64_json or "") for image in answer.data or []] == expected
    engine.close()


@pytest.mark.slow
def test_serve_answers_the_sdk(tiny_model: MakeTinyModel, tmp_path: Path) -> None:
    """`serve --engine diffusers` answers the official SDK."""
    options = engine_options(tiny_model("sd-variations"))
    command = (*CLI, "serve", *options, "--port", "0", "--store-dir", str(tmp_path / "store"))
    with server_process(*command) as (_, line):
        address = re.search(r"http://[\d.:]+/v1", line)
        assert address
        with OpenAI(base_url=address[0], api_key="any", timeout=300) as client:
            response = client.images.create_variation(
                image=("any.png", square_png(64)), size="512x512", response_format="b64_json"
            )
    (image,) = response.data or []
    with Image.open(io.BytesIO(base64.b64decode(image.b64_json or ""))) as opened:
        assert opened.size == (512, 512)


@pytest.mark.slow
def test_create_writes_images(tiny_model: MakeTinyModel, tmp_path: Path) -> None:
    """`create --engine diffusers` writes the images and shows nothing of other libraries."""
    command = [*CLI, "create", str(LAKE), "-n", "2", "--size", "256x256", "--no-sheet"]
    process = subprocess.run(
        [*command, *engine_options(tiny_model("sd-variations"))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    lines = process.stderr.strip().splitlines()
    assert lines[1:] == [
        "drawn at 16x16 pixels and enlarged to 256x256",
        "Made by diffusers with the model sd-variations.",
    ]
    expected = make_engine(tiny_model("sd-variations")).create_variation(make_request(n=2))
    files = [Image.open(tmp_path / name) for name in process.stdout.split()]
    assert [file.tobytes() for file in files] == [
        image.tobytes() for image in open_images(expected)
    ]


@pytest.mark.slow
def test_create_names_the_model_in_json(tiny_model: MakeTinyModel, tmp_path: Path) -> None:
    """`create --json` names the engine and its model."""
    command = [*CLI, "create", str(LAKE), "--size", "256x256", "--json"]
    process = subprocess.run(
        [*command, *engine_options(tiny_model("unclip"))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    content = json.loads(process.stdout)
    assert (content["engine"], content["model"]) == ("diffusers", "unclip")
