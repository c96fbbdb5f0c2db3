from pathlib import Path
from typing import Any

import pytest
from designer import designer
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage


class Model(GenericFakeChatModel):
    """A model whose answers are written down."""

    def bind_tools(self, tools: Any, **options: Any) -> Any:
        """Take any tools."""
        return self


@pytest.fixture
def model() -> Model:
    """It asks for two variations of a picture, and then it is done."""
    call = {"name": "image_variation", "args": {"image": "vase.png", "n": 2}, "id": "1"}
    return Model(messages=iter([AIMessage("", tool_calls=[call]), AIMessage("Done.")]))


def test_the_agent_varies_a_picture(
    image_variation_env: Any, model: Model, tmp_path: Path, square_png: bytes
) -> None:
    """What it asked is in the server's journal, and what it got in the folder."""
    (tmp_path / "vase.png").write_bytes(square_png)
    designer(model, tmp_path).invoke({"messages": [("user", "Vary the vase, twice.")]})
    (asked,) = image_variation_env.journal
    assert asked.fields["n"] == "2"
    assert asked.image.size == (64, 64)
    assert len(list((tmp_path / "variations").iterdir())) == 2


def test_the_agent_goes_on_after_a_refusal(
    image_variation_server: Any,
    image_variation_env: Any,
    model: Model,
    tmp_path: Path,
    square_png: bytes,
) -> None:
    """It reads what went wrong, as text."""
    (tmp_path / "vase.png").write_bytes(square_png)
    image_variation_server.fail_next("content_refused")
    state = designer(model, tmp_path).invoke({"messages": [("user", "Vary the vase, twice.")]})
    _, _, told, done = state["messages"]
    assert "not allowed by our safety system" in told.content
    assert done.content == "Done."
