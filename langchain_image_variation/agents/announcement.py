"""Writes the sentence that tells a model about new images, and reads it back from a message."""

import re
from collections.abc import Sequence

from langchain_image_variation.agents.conversation import ResultImage

__all__ = ["announce_results", "parse_announcement"]

_ANNOUNCEMENT = re.compile(
    r"Made \d+ variations? of .*?, \d+x\d+ pixels: (?P<handles>[\w.-]+(?:, [\w.-]+)*)\. "
    r"Saved in .*? as <name>\.png\.",
    re.DOTALL,
)
_MAX_LENGTH = 4_000
"""The maximum number of characters to search for an announcement."""


def announce_results(handles: Sequence[str], *, label: str, size: str, location: str) -> str:
    """Return the sentence that tells a model about new images.

    Args:
        handles: The handles of the images.
        label: What the original image is called.
        size: The size of each image, such as "256x256".
        location: Where they are saved.
    """
    variations = "1 variation" if len(handles) == 1 else f"{len(handles)} variations"
    return (
        f"Made {variations} of {label}, {size} pixels: {', '.join(handles)}. "
        f"Saved in {location} as <name>.png. Pass a name as image to vary it again."
    )


def parse_announcement(text: str) -> list[ResultImage]:
    """Return the images that a text announces, or [] if it does not start with an announcement.

    Some conversations store the text of a tool's message without its artifact.
    """
    match = _ANNOUNCEMENT.match(text[:_MAX_LENGTH])
    if match is None:
        return []
    handles = match["handles"].split(", ")
    return [ResultImage(handle, f"{handle}.png", None) for handle in handles]
