"""The announcement: the text that names new images for the model, and can be read back."""

import re
from collections.abc import Sequence

from langchain_image_variation.agents.conversation import ResultImage

__all__ = ["announce_results", "parse_announcement"]

# The name of a file may look like an announcement, so the last one counts.
_ANNOUNCEMENT = re.compile(
    r"Made \d+ variations? of .*, \d+x\d+ pixels:(?:"
    r" (?P<handles>[\w.-]+(?:, [\w.-]+)*)\. Saved in .*? as <name>\.png\.|"
    r"\n(?P<lines>(?:[\w.-]+: [^\n]+\n)+)The user can open)",
    re.DOTALL,
)
_MAX_LENGTH = 16_000
"""The maximum number of characters in which an announcement is looked for. With ten URLs of 1,000
characters, it is shorter."""


def announce_results(
    handles: Sequence[str],
    *,
    label: str,
    size: str,
    location: str,
    urls: Sequence[str] | None = None,
) -> str:
    """Return the text that names new images for the model.

    Args:
        handles: The handles of the images.
        label: What the original image is called.
        size: The size of each image, such as "256x256".
        location: Where they are saved.
        urls: The URL of each image, if users can open them.
    """
    variations = "1 variation" if len(handles) == 1 else f"{len(handles)} variations"
    text = f"Made {variations} of {label}, {size} pixels:"
    if urls is None:
        text += f" {', '.join(handles)}. Saved in {location} as <name>.png."
    else:
        lines = [f"{handle}: {url}" for handle, url in zip(handles, urls, strict=True)]
        text = "\n".join([text, *lines, "The user can open each address."])
    return f"{text} Pass a name as image to vary it again."


def parse_announcement(text: str) -> list[ResultImage]:
    """Return the images that a text announces, or [] if it does not start with an announcement.

    Some conversations store the text of a tool's message without its artifact.
    """
    match = _ANNOUNCEMENT.match(text[:_MAX_LENGTH])
    if match is None:
        return []
    if match["lines"] is None:
        handles = match["handles"].split(", ")
    else:
        handles = [line.partition(": ")[0] for line in match["lines"].splitlines()]
    return [ResultImage(handle, f"{handle}.png", None) for handle in handles]
