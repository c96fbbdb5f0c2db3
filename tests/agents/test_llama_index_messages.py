import base64
import io
from pathlib import Path

import pytest

pytest.importorskip("llama_index.core")

from llama_index.core.base.llms.types import (
    CitableBlock,
    ContentBlock,
    DocumentBlock,
    ImageBlock,
    TextBlock,
)
from llama_index.core.llms import ChatMessage
from pydantic import AnyUrl

from langchain_image_variation.agents.announcement import announce_results
from langchain_image_variation.agents.conversation import ResultImage
from langchain_image_variation.agents.llama_index_messages import collect_images
from langchain_image_variation.agents.message_image import MessageImage, identify
from pytest_image_variation.samples import square_png

PNG = square_png()
NAME = identify(PNG).name
TEXT = announce_results(
    ["cat-0123abcd-1", "cat-4567cdef-2"], label="cat", size="256x256", location="variations/s/"
)
RESULTS = [
    ResultImage(handle, f"{handle}.png", None) for handle in ("cat-0123abcd-1", "cat-4567cdef-2")
]


def urls(*blocks: ContentBlock) -> list[str | None]:
    """Return the URLs of the images in a user's message."""
    images = collect_images([ChatMessage(role="user", blocks=[*blocks])])
    assert all(isinstance(image, MessageImage) for image in images)
    return [image.url for image in images if isinstance(image, MessageImage)]


@pytest.mark.parametrize(
    "block",
    [
        ImageBlock(image=PNG),
        ImageBlock(image=base64.b64encode(PNG)),
        ImageBlock(image=io.BytesIO(PNG)),
        ImageBlock(url=f"data:;base64,{base64.b64encode(PNG).decode()}"),
        DocumentBlock(data=PNG, document_mimetype="image/png"),
        CitableBlock(title="A", source="b", content=[ImageBlock(image=PNG)]),
        ImageBlock.model_validate_json(ImageBlock(image=PNG).model_dump_json()),
    ],
    ids=lambda block: type(block).__name__,
)
def test_reads_an_image_in_memory(block: ContentBlock) -> None:
    """An image is read from bytes, base64, a buffer or a data URL, even after it was stored."""
    (image,) = collect_images([ChatMessage(role="user", blocks=[block])])
    assert isinstance(image, MessageImage)
    assert image.identity is not None
    assert image.identity.name == NAME
    assert image.read(None) == PNG


def test_does_not_read_paths_or_urls(tmp_path: Path) -> None:
    """A block with a path yields no image, and a URL is left to the policy."""
    path = tmp_path / "cat.png"
    path.write_bytes(PNG)
    with open(path, "rb") as file:
        assert urls(ImageBlock(path=path), ImageBlock(image=file), ImageBlock()) == [None] * 3
    address = "https://images.example/cat.png"
    assert urls(ImageBlock(url=address), ImageBlock(url=AnyUrl(address))) == [address] * 2


def test_ignores_other_blocks() -> None:
    """Blocks with text and other documents are ignored."""
    document = DocumentBlock(data=b"%PDF-1.7", document_mimetype="application/pdf")
    assert urls(TextBlock(text="img_7c1e09ab"), document) == []


@pytest.mark.parametrize(
    ("role", "text", "images"),
    [
        ("tool", TEXT, RESULTS),
        ("assistant", f"Thought: I try.\nObservation: {TEXT}\nThought: Done.", RESULTS),
        ("assistant", f"Observation: x\nObservation: {TEXT}\nObservation: {TEXT}", RESULTS * 2),
        ("assistant", f"The tool says: {TEXT}", []),
        ("user", TEXT, []),
        ("user", f"x\nObservation: {TEXT}", []),
    ],
)
def test_reads_results_from_answers_of_the_tool(
    role: str, text: str, images: list[ResultImage]
) -> None:
    """Results are read from tool messages and from the observations of a ReAct agent."""
    assert collect_images([ChatMessage(role=role, content=text)]) == images


def test_a_thumbnail_is_not_an_image() -> None:
    """The tool's own thumbnail does not count as an image, but another tool's image does."""
    thumbnail = ImageBlock(image=PNG)
    ours = ChatMessage(role="tool", blocks=[TextBlock(text=TEXT), thumbnail])
    other = ChatMessage(role="tool", blocks=[TextBlock(text="A chart."), thumbnail])
    assert collect_images([ours, other]) == [*RESULTS, MessageImage(None, base64.b64encode(PNG))]
