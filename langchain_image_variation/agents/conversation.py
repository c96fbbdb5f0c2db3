"""`Conversation`: the images of one conversation, in order, and how many calls it has made.

It is read from the conversation's messages at each call, so no other conversation can see it, and a
conversation that was stored and restored continues where it stopped.
"""

import hashlib
import re
from collections import Counter
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

        Uploads and results have separate limits. Otherwise many results would hide an upload.
        """
        sizes: dict[str, tuple[int, int] | None] = {}
        counts: Counter[str] = Counter()
        for image in reversed(self.images):
            kind = "results" if isinstance(image, ResultImage) else "uploads"
            # Finding the name of an upload may mean to decode and hash it.
            if counts[kind] > MAX_LISTED:
                continue
            name = _name(image)
            if name is not None and name not in sizes:
                counts[kind] += 1
                if counts[kind] <= MAX_LISTED:
                    sizes[name] = _size(image)
        if not sizes:
            return ""
        cut_kinds = [kind for kind in ("uploads", "results") if counts[kind] > MAX_LISTED]
        limits = " and ".join(f"{MAX_LISTED} {kind}" for kind in cut_kinds)
        hint = f" (the newest {limits})" if limits else ""
        # The newest image may have no name, because only the model's provider has it.
        newest_name = _name(self.images[-1]) if len(sizes) > 1 else None
        names = [
            describe_name(name, size, "the newest" if name == newest_name else None)
            for name, size in reversed(sizes.items())
        ]
        return f"In this conversation{hint}: {', '.join(names)}."


def _name(image: MessageImage | ResultImage) -> str | None:
    return image.handle if isinstance(image, ResultImage) else image.name


def _size(image: MessageImage | ResultImage) -> tuple[int, int] | None:
    identity = image.identity if isinstance(image, MessageImage) else None
    return identity.size if identity else None


def describe_name(name: str, size: tuple[int, int] | None, note: str | None = None) -> str:
    """Return a name with a size in pixels and a note: "img_7c1e09ab (640x480, the newest)"."""
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
