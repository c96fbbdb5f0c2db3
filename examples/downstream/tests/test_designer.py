from pathlib import Path
from typing import Any

import pytest
from designer import designer
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage


class Model(GenericFakeChatModel):
    """A model that follows a script."""

    def bind_tools(self, tools: Any, **options: Any) -> Any:
        """Accept any tools."""
        return self


@pytest.fixture
def model() -> Model:
    """Asks for two variations of an image, and then says that it is done."""
    call = {"name": "image_variation", "args": {"image": "vase.png", "n": 2}, "id": "1"}
    return Model(messages=iter([AIMessage("", tool_calls=[call]), AIMessage("Done.")]))


def test_the_agent_varies_an_image(
    image_variation_env: Any, model: Model, tmp_path: Path, square_png: bytes
) -> None:
    """The request is in the journal of the server, and the results are in the folder."""
    (tmp_path / "vase.png").write_bytes(square_png)
    designer(model, tmp_path).invoke({"messages": [("user", "Vary the vase, twice.")]})
    (request,) = image_variation_env.journal
    assert request.fields["n"] == "2"
    assert request.image.size == (64, 64)
    assert len(list((tmp_path / "variations").iterdir())) == 2


def test_the_agent_continues_after_a_refusal(
    image_variation_server: Any,
    image_variation_env: Any,
    model: Model,
    tmp_path: Path,
    square_png: bytes,
) -> None:
    """After a refusal, the agent gets the error as text, and continues."""
    (tmp_path / "vase.png").write_bytes(square_png)
    image_variation_server.fail_next("content_refused")
    state = designer(model, tmp_path).invoke({"messages": [("user", "Vary the vase, twice.")]})
    _, _, answer, conclusion = state["messages"]
    assert "refused this image because of its content" in answer.content
    assert conclusion.content == "Done."
