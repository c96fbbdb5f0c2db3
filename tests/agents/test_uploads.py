"""Uploads keep their names and can be varied after their messages were removed."""

from pathlib import Path

import pytest
from langchain_core.messages import HumanMessage

from langchain_image_variation.agents.tool import ImageVariationTool
from pytest_image_variation.samples import square_png
from tests.agents.conversing import Talk, files, upload
from tests.agents.names import name_of
from tests.agents.scripted import call

CAT, LAKE = square_png(64), square_png(65)


@pytest.fixture
def tool(tmp_path: Path) -> ImageVariationTool:
    """Return a tool whose results depend on the original."""
    return ImageVariationTool(root_dir=tmp_path, engine="instant")


def expected(tmp_path: Path, image: bytes) -> list[bytes]:
    """Return the variation of an image, made outside of any conversation."""
    (tmp_path / "image.png").write_bytes(image)
    tool = ImageVariationTool(root_dir=tmp_path, engine="instant", output_dir="expected")
    return files(tool.invoke(call(image="image.png", size="256x256")), tmp_path)


def test_a_summarized_image_is_varied_by_its_name(tool: ImageVariationTool, tmp_path: Path) -> None:
    """After its message is summarized, a name still means the same image, and not a newer one."""
    talk = Talk(tool, "t-1", upload(CAT))
    assert talk.vary("latest").status == "success"
    talk.messages[:] = [HumanMessage(f"Summary: {name_of(CAT)} is a cat."), upload(LAKE)]
    assert files(talk.vary(name_of(CAT)), tmp_path) == expected(tmp_path, CAT)
    assert files(talk.vary("latest"), tmp_path) != expected(tmp_path, CAT)


@pytest.mark.parametrize("thread", [None, "t-1"])
def test_a_number_is_not_a_name(tool: ImageVariationTool, thread: str | None) -> None:
    """Images have no numbers. The answer to `img_1` lists their names and sizes."""
    talk = Talk(tool, thread, upload(CAT), upload(LAKE))
    answer = talk.vary("img_1")
    assert answer.status == "error"
    assert answer.text == (
        f"There is no image 'img_1' here. In this conversation: {name_of(CAT)} (64x64), "
        f"{name_of(LAKE)} (65x65, the newest)."
    )
