"""What an agent's tool pays for, and what it says about the cost."""

from pathlib import Path
from typing import Any

import pytest

from langchain_image_variation.agents.tool import ImageVariationTool
from langchain_image_variation.exceptions import BillingLimitError
from pytest_image_variation.samples import square_png
from tests.hosted.services.fakes import FakeFal, FakeRecraft


def call(tool: ImageVariationTool, n: int, image: str = "cat.png") -> Any:
    """Call the tool as an agent does."""
    arguments = {"image": image, "n": n, "size": "256x256"}
    return tool.invoke({"type": "tool_call", "id": "1", "name": tool.name, "args": arguments})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of two images."""
    for index, name in enumerate(("cat", "dog")):
        (tmp_path / f"{name}.png").write_bytes(square_png(32 + index))
    return tmp_path


def test_a_tool_stops_at_its_limit(fal: FakeFal, open_engine: Any, root: Path) -> None:
    """A tool makes no billed call above the limit, and a repeated call pays for nothing."""
    engine = open_engine("fal", fal, seed=1, max_billed_calls=3)
    tool = ImageVariationTool(engine=engine, root_dir=root, output_dir=root / "results", cache=True)
    first = call(tool, 2)
    again = call(tool, 2)
    assert len(fal.paths("POST")) == 2
    assert again.artifact["cached"]
    assert "usage_metadata" not in again.artifact
    assert first.artifact["usage_metadata"] == {"billed_calls": 2}
    with pytest.raises(BillingLimitError, match="used up") as caught:
        call(tool, 2, "dog.png")
    assert "2 of the 3 that max_billed_calls allows" in str(caught.value.__cause__)
    assert len(fal.paths("POST")) == 2
    call(tool, 1, "dog.png")
    assert len(fal.paths("POST")) == 3


def test_a_tool_says_what_it_cost(recraft: FakeRecraft, open_engine: Any, root: Path) -> None:
    """The artifact and the text have what Recraft says that it charged."""
    engine = open_engine("recraft", recraft)
    tool = ImageVariationTool(engine=engine, root_dir=root, output_dir=root / "results")
    message = call(tool, 7)
    assert message.artifact["usage_metadata"] == {"billed_calls": 2, "credits": 80}
    assert "Took 2 billed calls to Recraft. Recraft charged 80 credits." in message.content
