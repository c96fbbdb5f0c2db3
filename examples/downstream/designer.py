"""An agent that varies the images in a folder."""

from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel

from langchain_image_variation import ImageVariationTool, load_engine


def designer(model: BaseChatModel, folder: Path) -> Any:
    """Return an agent whose variations are made by the server at `OPENAI_BASE_URL`."""
    tool = ImageVariationTool(root_dir=folder, engine=load_engine("variations"))
    return create_agent(model, tools=[tool])
