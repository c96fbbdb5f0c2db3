"""`Conversation`: the images of one conversation, in order, and how many calls it has made.

It is read from the conversation's messages at each call, so no other conversation can see it, and a
conversation that was stored and restored continues where it stopped.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from langchain_image_variation.agents.message_image import MessageImage

__all__ = ["MAX_LISTED", "Conversation", "ResultImage", "describe_name", "scope_name"]

MAX_LISTED = 12
"""The maximum number of names of each kind in a message: enough to choose from, at few tokens."""

_SCOPE_LENGTH = 40


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
    """All images in its messages, the oldest first."""
    scope: str | None = None
    """The name of the conversation's own folder of results, if the conversation has an identity."""
    calls: int = 0
    """How many calls to this tool came before this one."""
    has_messages: bool = True
    """Whether the messages are known. A script may call the tool without any."""

    def find_uploads(self, name: str) -> dict[str, MessageImage]:
        """Return the images of a name, such as "img_7c1e09ab", by their SHA-256.

        There is more than one only if their hashes begin with the same digits.
        """
        uploads = {}
        for image in self.images:
            identity = image.identity if isinstance(image, MessageImage) else None
            if isinstance(image, MessageImage) and identity and identity.name == name:
                uploads[identity.sha256] = image
        return uploads

    def find_result(self, handle: str) -> ResultImage | None:
        """Return the newest result with a handle, file name or path, or None."""
        for image in reversed(self.images):
            if isinstance(image, ResultImage) and handle in (
                *(image.handle, f"{image.handle}.png", image.path),
            ):
                return image
        return None

    def choices(self) -> str:
        """Return a sentence that names the newest images, or "" if there are none.

        Uploads and results are limited separately, so many results do not hide an upload.
        """
        names: dict[str, tuple[int, int] | None] = {}
        numbers = {"uploads": 0, "results": 0}
        is_cut = dict.fromkeys(numbers, False)
        for image in reversed(self.images):
            kind = "results" if isinstance(image, ResultImage) else "uploads"
            if is_cut[kind]:
                continue
            if isinstance(image, ResultImage):
                name, size = image.handle, None
            elif identity := image.identity:
                name, size = identity.name, identity.size
            else:
                continue
            if name not in names and numbers[kind] == MAX_LISTED:
                is_cut[kind] = True
            elif name not in names:
                names[name] = size
                numbers[kind] += 1
        if not names:
            return ""
        cut_kinds = [f"{MAX_LISTED} {kind}" for kind in numbers if is_cut[kind]]
        hint = f" (the newest {' and '.join(cut_kinds)})" if cut_kinds else ""
        (name, size), *others = names.items()
        # The newest image may be one without a name, which only the model's provider has.
        is_newest = name == _name(self.images[-1])
        newest = describe_name(name, size, "the newest" if others and is_newest else None)
        all_names = [*(describe_name(*other) for other in reversed(others)), newest]
        return f"In this conversation{hint}: {', '.join(all_names)}."


def _name(image: MessageImage | ResultImage) -> str | None:
    if isinstance(image, ResultImage):
        return image.handle
    return image.identity.name if image.identity else None


def describe_name(name: str, size: tuple[int, int] | None, note: str | None = None) -> str:
    """Return a name with its size in pixels and a note, such as "img_7c1e09ab (640x480, new)"."""
    details = [size and f"{size[0]}x{size[1]}", note]
    text = ", ".join(filter(None, details))
    return f"{name} ({text})" if text else name


def scope_name(conversation_id: str) -> str:
    """Return the name of a conversation's own folder of results.

    It ends in a hash of the whole id, so two conversations never get the same name.
    """
    digest = hashlib.sha256(conversation_id.encode("utf-8", "surrogatepass")).hexdigest()
    prefix = re.sub(r"[^A-Za-z0-9_-]+", "-", conversation_id)[:_SCOPE_LENGTH].strip("-")
    return f"{prefix}-{digest[:16]}" if prefix else digest[:16]
