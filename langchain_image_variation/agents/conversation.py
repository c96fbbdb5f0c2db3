"""`Conversation`: the images of one conversation, in order, and how many calls it has made.

It is read from the conversation's messages at each call. Nothing is kept between calls, so no other
conversation can see it, and a conversation that was stored and restored continues where it stopped.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["MAX_LISTED", "Conversation", "MessageImage", "ResultImage", "scope_name"]

MAX_LISTED = 12
"""The maximum number of names of each kind in a message: enough to choose from, at few tokens."""

_NUMBERED = re.compile(r"img[_ -]?([1-9][0-9]{0,5})", re.IGNORECASE)
_SCOPE_LENGTH = 40


@dataclass(frozen=True, slots=True)
class MessageImage:
    """An image in a message from the user, the model or another tool."""

    url: str | None
    """A `data:` or https URL, or None if the message has none."""
    base64: str | None = None
    """The image in base64: the string of the message itself, not a copy."""

    @property
    def address(self) -> str | None:
        """A `data:` or https URL, or None if only the model's provider has the image."""
        return self.url if self.base64 is None else f"data:;base64,{self.base64}"

    def __repr__(self) -> str:
        return "MessageImage()"


@dataclass(frozen=True, slots=True)
class ResultImage:
    """A result of an earlier call."""

    handle: str
    path: str
    """Where it is saved: the path in the call's artifact."""
    sha256: str | None
    """The SHA-256 of its file, in hex. It proves that the conversation may read the file. Without
    it, only the conversation's own folder is searched."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a call may know about the conversation it belongs to."""

    images: Sequence[MessageImage | ResultImage] = ()
    """All images, the oldest first."""
    scope: str | None = None
    """The name of the conversation's own folder of results, if the conversation has an identity."""
    calls: int = 0
    """How many calls to this tool came before this one."""

    def find(self, handle: str) -> tuple[str, MessageImage | ResultImage] | None:
        """Return an image and its label, or None if the conversation has no such image.

        Args:
            handle: "latest", "img_1" and so on, or the handle, file name or path of a result.
        """
        number = _NUMBERED.fullmatch(handle)
        if handle.lower() == "latest":
            position = len(self.images)
        else:
            position = int(number[1]) if number else 0
        if 1 <= position <= len(self.images):
            image = self.images[position - 1]
            name = image.handle if isinstance(image, ResultImage) else f"img_{position}"
            return name, image
        for image in reversed(self.images):
            if isinstance(image, ResultImage) and handle in (
                *(image.handle, f"{image.handle}.png", image.path),
            ):
                return image.handle, image
        return None

    def choices(self) -> str:
        """Return a sentence that names the newest images, or "" if there are none."""
        if not self.images:
            return ""
        names = [
            f"img_{position} ({image.handle})"
            if isinstance(image, ResultImage)
            else f"img_{position}"
            for position, image in enumerate(self.images, start=1)
        ]
        hint = f" (the newest {MAX_LISTED} of {len(names)})" if len(names) > MAX_LISTED else ""
        return f"In this conversation{hint}: {', '.join(names[-MAX_LISTED:])}."


def scope_name(conversation_id: str) -> str:
    """Return the name of a conversation's own folder of results.

    It ends in a hash of the whole id, so two conversations never get the same name.
    """
    digest = hashlib.sha256(conversation_id.encode("utf-8", "surrogatepass")).hexdigest()
    prefix = re.sub(r"[^A-Za-z0-9_-]+", "-", conversation_id)[:_SCOPE_LENGTH].strip("-")
    return f"{prefix}-{digest[:16]}" if prefix else digest[:16]
