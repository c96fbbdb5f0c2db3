"""A page with Gradio: choose a photo and how much to change it, and see the variations.

It runs offline and without a model, because the page calls the tool itself. Nothing is kept.
To start it:

    pip install . gradio
    python examples/gradio_app.py
"""

import asyncio
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr
from PIL import Image

from langchain_image_variation import ImageVariationError, ImageVariationTool
from langchain_image_variation.agents.tool import PROGRESS_EVENT

PHOTO = Path(__file__).parent / "lake.jpg"


async def vary(
    photo: str | None,
    n: int,
    strength: float,
    progress: gr.Progress = gr.Progress(),  # noqa: B008  # Gradio looks for this default
) -> list[Image.Image]:
    """Return variations of a photo."""
    if photo is None:
        raise gr.Error("Choose a photo first.")
    with TemporaryDirectory() as folder:
        path = Path(shutil.copy(photo, folder))
        tool = ImageVariationTool(root_dir=folder, expose={"strength"}, fit="keep")
        arguments = {"image": path.name, "n": n, "strength": strength, "size": "512x512"}
        message: Any = None
        try:
            async for event in tool.astream_events(call_of(tool, arguments)):
                data: Any = event["data"]
                if event["name"] == PROGRESS_EVENT:
                    progress((data["done"], data["n"]), unit="images")
                elif event["event"] == "on_tool_end":
                    message = data["output"]
        except ImageVariationError as error:
            raise gr.Error(error.message) from error
        if message.status == "error":
            raise gr.Error(message.text)
        return await asyncio.to_thread(open_all, tool, message.artifact)


def call_of(tool: ImageVariationTool, arguments: dict[str, Any]) -> Any:
    """Return a call of the tool, as a model makes it. Its answer has an artifact."""
    return {"name": tool.name, "args": arguments, "id": "call", "type": "tool_call"}


def open_all(tool: ImageVariationTool, artifact: dict[str, Any]) -> list[Image.Image]:
    """Return the images of an artifact."""
    return [
        Image.open(tool.open_result(artifact, index)) for index in range(len(artifact["images"]))
    ]


def make_page() -> gr.Blocks:
    """Return the page."""
    page = gr.Blocks(title="Image variations", analytics_enabled=False)
    with page:
        gr.Markdown("# Image variations\nVariations of a photo, made on this machine.")
        with gr.Row():
            with gr.Column(scale=2):
                photo = gr.Image(str(PHOTO), type="filepath", label="Photo", height=320)
                n = gr.Slider(1, 8, 4, step=1, label="Variations")
                strength = gr.Slider(0, 1, 0.5, step=0.1, label="How much to change")
                button = gr.Button("Vary", variant="primary")
            gallery = gr.Gallery(
                label="Variations", columns=2, height=560, object_fit="contain", scale=3
            )
        button.click(vary, [photo, n, strength], gallery)
    return page


if __name__ == "__main__":
    make_page().launch()
