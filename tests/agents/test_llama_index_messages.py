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
from langchain_image_variation.agents.conversation import MessageImage, ResultImage
from langchain_image_variation.agents.llama_index_messages import collect_images
from pytest_image_variation.samples import square_png

PICTURE = square_png()
URL = f"data:;base64,{base64.b64encode(PICTURE).decode()}"
TEXT = announce_results(
    ["cat-0123abcd-1", "cat-4567cdef-2"], label="cat", size="256x256", location="variations/s/"
)
MADE = [
    ResultImage(handle, f"{handle}.png", None) for handle in ("cat-0123abcd-1", "cat-4567cdef-2")
]


def urls(*blocks: ContentBlock) -> list[str | None]:
    """Return the URLs of the pictures of a user's message."""
    found = collect_images([ChatMessage(role="user", blocks=[*blocks])])
    assert all(isinstance(picture, MessageImage) for picture in found)
    return [picture.url for picture in found if isinstance(picture, MessageImage)]


@pytest.mark.parametrize(
    "block",
    [
        ImageBlock(image=PICTURE),
        ImageBlock(image=base64.b64encode(PICTURE)),
        ImageBlock(image=io.BytesIO(PICTURE)),
        ImageBlock(url=f"data:;base64,{base64.b64encode(PICTURE).decode()}"),
        DocumentBlock(data=PICTURE, document_mimetype="image/png"),
        CitableBlock(title="A", source="b", content=[ImageBlock(image=PICTURE)]),
        ImageBlock.model_validate_json(ImageBlock(image=PICTURE).model_dump_json()),
    ],
    ids=lambda block: type(block).__name__,
)
def test_a_picture_in_memory_is_read(block: ContentBlock) -> None:
    """As bytes, as base64, in a buffer, in a URL, in other blocks, and after it was stored."""
    assert urls(block) == [URL]


def test_a_picture_elsewhere_is_named_and_not_read(tmp_path: Path) -> None:
    """A path is nothing, whatever it leads to; a URL is passed on to the policy."""
    path = tmp_path / "cat.png"
    path.write_bytes(PICTURE)
    with open(path, "rb") as file:
        assert urls(ImageBlock(path=path), ImageBlock(image=file), ImageBlock()) == [None] * 3
    address = "https://pictures.example/cat.png"
    assert urls(ImageBlock(url=address), ImageBlock(url=AnyUrl(address))) == [address] * 2


def test_what_is_no_picture_is_left_out() -> None:
    """Text and documents of other kinds."""
    document = DocumentBlock(data=b"%PDF-1.7", document_mimetype="application/pdf")
    assert urls(TextBlock(text="img_1"), document) == []


@pytest.mark.parametrize(
    ("role", "text", "found"),
    [
        ("tool", TEXT, MADE),
        ("assistant", f"Thought: I try.\nObservation: {TEXT}\nThought: Done.", MADE),
        ("assistant", f"Observation: x\nObservation: {TEXT}\nObservation: {TEXT}", MADE * 2),
        ("assistant", f"The tool says: {TEXT}", []),
        ("user", TEXT, []),
        ("user", f"x\nObservation: {TEXT}", []),
    ],
)
def test_results_are_read_from_the_answers_of_the_tool(
    role: str, text: str, found: list[ResultImage]
) -> None:
    """Its own messages, and the observations of an agent that has no tool messages."""
    assert collect_images([ChatMessage(role=role, content=text)]) == found


def test_a_thumbnail_beside_the_answer_is_no_picture_of_its_own() -> None:
    """It shows what the text names; a picture that another tool returns is one."""
    thumbnail = ImageBlock(image=PICTURE)
    ours = ChatMessage(role="tool", blocks=[TextBlock(text=TEXT), thumbnail])
    other = ChatMessage(role="tool", blocks=[TextBlock(text="A chart."), thumbnail])
    assert collect_images([ours, other]) == [*MADE, MessageImage(URL)]
