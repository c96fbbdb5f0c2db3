import base64
from pathlib import Path

import pytest

from langchain_image_variation.images.png import SquarePNG
from pytest_image_variation.samples import square_png
from tests.engines.diffusers.conftest import MakeTinyModel
from tests.extras import skip_without
from tests.server.serving import serve


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_the_server_answers_the_vendors_sdk(tiny_model: MakeTinyModel, tmp_path: Path) -> None:
    """`serve --engine diffusers` answers the vendor's SDK with new images of the requested size."""
    skip_without("starlette")
    openai = pytest.importorskip("openai")
    arguments = ("--engine", "diffusers", "--model-path", str(tiny_model("sd-variations")))
    with serve(tmp_path / "store", *arguments, "--steps", "2", "--seed", "7") as (_, address):
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="any-text", max_retries=0)
        response = client.images.create_variation(
            image=square_png(64), n=2, size="256x256", response_format="b64_json", timeout=120
        )
    images = [base64.b64decode(image.b64_json) for image in response.data]
    assert [SquarePNG(image).side for image in images] == [256, 256]
    assert len(set(images)) == 2
