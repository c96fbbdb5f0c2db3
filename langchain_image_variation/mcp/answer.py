"""The answers of the tools: text, structured content with its schema, and images."""

from collections.abc import Sequence
from typing import Any

from mcp_types import CallToolResult, ContentBlock, ImageContent, TextContent
from pydantic import BaseModel, Field

from langchain_image_variation.agents.call_result import CallResult
from langchain_image_variation.mcp.resources import result_uri

__all__ = [
    "ASK_FOR_IMAGE",
    "CreatedImage",
    "CreatedImages",
    "ImageNames",
    "describe_names",
    "describe_result",
    "error_answer",
    "text_answer",
]


ASK_FOR_IMAGE = "Ask the user to save the image in the server's folder."
"""What a model can do without an image. Hosts do not pass the images of a chat to a server."""


class CreatedImage(BaseModel):
    """A new image."""

    name: str
    path: str = Field(description="The file, relative to the server's folder.")
    uri: str = Field(description="The resource with the whole PNG file.")
    width: int
    height: int
    seed: int | None = Field(default=None, description="Pass it to make the same image again.")


class CreatedImages(BaseModel):
    """The structured content of `create_image_variations`."""

    images: list[CreatedImage]
    engine: str
    model: str | None = None
    note: str | None = Field(default=None, description="What the user should know.")
    usage: dict[str, Any] | None = Field(default=None, description="Tokens, and the cost in USD.")


class ImageNames(BaseModel):
    """The structured content of `list_images`."""

    files: list[str]
    results: list[str]
    has_more: bool = Field(description="Whether there may be more.")


def text_answer(text: str, content: BaseModel, thumbnails: Sequence[str] = ()) -> CallToolResult:
    """Return an answer with a text, structured content and images.

    Args:
        text: The text for the model.
        content: The structured content.
        thumbnails: JPEG files in base64.
    """
    blocks: list[ContentBlock] = [TextContent(text=text)]
    blocks += [ImageContent(data=data, mime_type="image/jpeg") for data in thumbnails]
    return CallToolResult(
        content=blocks,
        structured_content=content.model_dump(mode="json", exclude_none=True),
    )


def error_answer(text: str) -> CallToolResult:
    """Return an answer that says what the model can do after a mistake or a failure."""
    return CallToolResult(content=[TextContent(text=text)], is_error=True)


def describe_result(result: CallResult) -> CreatedImages:
    """Return the structured content for the result of a call."""
    artifact = result.artifact
    images: list[dict[str, Any]] = artifact["images"]
    return CreatedImages(
        images=[
            CreatedImage(
                name=image["handle"],
                path=image["path"],
                uri=result_uri(image["handle"]),
                width=image["width"],
                height=image["height"],
                seed=image["seed"],
            )
            for image in images
        ],
        engine=images[0]["engine"],
        model=images[0]["model"],
        note=artifact.get("note"),
        usage=artifact.get("usage_metadata"),
    )


def describe_names(names: ImageNames) -> str:
    """Return the text for a list of images."""
    lines = [
        f"{title}: {', '.join(listed)}."
        for title, listed in (("Files", names.files), ("Results", names.results))
        if listed
    ]
    if not lines:
        start = "No images were found" if names.has_more else "There are no images"
        return f"{start} here. {ASK_FOR_IMAGE}"
    if names.has_more:
        lines.append("There may be more. They can be used by name.")
    return "\n".join(lines)
