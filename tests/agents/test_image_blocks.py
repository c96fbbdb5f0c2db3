"""Messages that contain the results as image blocks."""

import base64
import io
import os
from pathlib import Path
from typing import Any

from langchain_core.messages import ToolMessage
from PIL import Image

from langchain_image_variation.agents.image_blocks import MAX_BLOCKS_LENGTH, encode_results
from langchain_image_variation.agents.tool import ImageVariationTool
from langchain_image_variation.contract import ImagesResponse
from langchain_image_variation.images.pixels import encode_png
from langchain_image_variation.output.file_format import FileFormat
from tests.agents.scripted import call


def response(*images: Image.Image) -> ImagesResponse:
    """Return a response with these images."""
    return ImagesResponse.from_pngs(map(encode_png, images), response_format="b64_json")


def open_blocks(message: ToolMessage) -> list[Image.Image]:
    """Return the images in a message."""
    images: list[Image.Image] = []
    for block in message.content_blocks[1:]:
        assert block["type"] == "image"
        assert block["mime_type"] == "image/jpeg"
        images.append(Image.open(io.BytesIO(base64.b64decode(block["base64"]))))
    return images


def test_each_result_is_a_block(root: Path) -> None:
    """Each result is a block of its full size, in the order of the artifact, next to the text."""
    settings: Any = {"root_dir": root, "engine": "local", "cache": True}
    arguments = call(image="cat.png", n=3, size="256x256")
    plain = ImageVariationTool(**settings).invoke(arguments)
    tool = ImageVariationTool(**settings, content="blocks")
    for _ in range(2):
        message = tool.invoke(arguments)
        assert message.text.startswith(plain.text.partition(" Kind")[0])
        images = open_blocks(message)
        assert len(images) == len(message.artifact["images"]) == 3
        for index, image in enumerate(images):
            with Image.open(tool.open_result(message.artifact, index)) as saved:
                assert image.size == saved.size == (256, 256)
                difference = [
                    abs(a - b)
                    for a, b in zip(
                        image.convert("RGB").tobytes(), saved.convert("RGB").tobytes(), strict=True
                    )
                ]
            assert sum(difference) / len(difference) < 3


def test_a_call_without_an_id_returns_blocks(root: Path) -> None:
    """A call with plain arguments returns the blocks too."""
    tool = ImageVariationTool(root_dir=root, engine="instant", content="blocks")
    text, image = tool.invoke({"image": "cat.png", "size": "256x256"})
    assert (text["type"], image["type"]) == ("text", "image")


def test_blocks_have_no_transparency() -> None:
    """A transparent image is put on white, as a person sees it on a page."""
    (jpeg,) = encode_results(response(Image.new("RGBA", (64, 64), (255, 0, 0, 0))))
    with Image.open(io.BytesIO(jpeg)) as image:
        assert image.convert("RGB").getpixel((9, 9)) == (255, 255, 255)


def test_blocks_have_a_limit() -> None:
    """Images that do not compress become smaller, so that the message stays within the limit."""
    noise = Image.frombytes("RGB", (1024, 1024), os.urandom(3 * 1024 * 1024))
    dots = [Image.new("RGB", (1, 1))] * 9
    jpegs = encode_results(response(noise, *dots))
    assert MAX_BLOCKS_LENGTH < 10 * len(base64.b64encode(FileFormat("jpeg").encode(noise)))
    for jpeg, side in zip(jpegs, [512, *[1] * 9], strict=True):
        assert len(base64.b64encode(jpeg)) <= MAX_BLOCKS_LENGTH / 10
        with Image.open(io.BytesIO(jpeg)) as image:
            assert image.size == (side, side)
