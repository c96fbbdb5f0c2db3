"""`Conversation`: the pictures that were put into one conversation or made in it, in order.

It is read anew from the conversation's own messages at each call, so nothing is kept between calls
that another conversation could see, and a conversation that was stored goes on where it stopped.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "LISTED",
    "Conversation",
    "MadePicture",
    "SharedPicture",
    "announced",
    "announcement",
    "scope_name",
]

_NUMBERED = re.compile(r"img[_ -]?([1-9][0-9]{0,5})", re.IGNORECASE)
_ANNOUNCEMENT = re.compile(
    r"Made \d+ variations? of .*?, \d+x\d+ pixels: (?P<handles>[\w.-]+(?:, [\w.-]+)*)\. "
    r"They are saved in .*? as <name>\.png;",
    re.DOTALL,
)
_ANNOUNCEMENT_LENGTH = 4_000
LISTED = 12
"""So many names of each kind are listed in a message: enough to choose from, few tokens."""
_SCOPE_LENGTH = 40


@dataclass(frozen=True, slots=True)
class SharedPicture:
    """A picture that a message brought: from the user, the model or another tool."""

    url: str | None
    """A `data:` or https URL, or None if the message has none."""
    base64: str | None = None
    """The bytes of the picture in base64, as the message has them, which is not copied."""

    @property
    def address(self) -> str | None:
        """A `data:` or https URL, or None if only the model's provider has the picture."""
        return self.url if self.base64 is None else f"data:;base64,{self.base64}"

    def __repr__(self) -> str:
        return "SharedPicture()"


@dataclass(frozen=True, slots=True)
class MadePicture:
    """A result of an earlier call."""

    handle: str
    path: str
    """Where it is kept, as the call's artifact says."""
    sha256: str | None
    """The SHA-256 of its file, in hex: whoever does not know it cannot ask for the picture, but for
    what lies in the conversation's own folder."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a tool call may know of the conversation it belongs to."""

    pictures: Sequence[SharedPicture | MadePicture] = ()
    """All pictures, the oldest first."""
    scope: str | None = None
    """The name of the conversation's own folder of results, if it has an identity."""
    calls: int = 0
    """How many calls of this tool came before this one."""

    def find(self, image: str) -> tuple[str, SharedPicture | MadePicture] | None:
        """Return a picture and what to call it, or None if there is none of that name.

        Args:
            image: "latest", "img_1" and so on, or the handle of a result.
        """
        number = _NUMBERED.fullmatch(image)
        index = len(self.pictures) if image.lower() == "latest" else int(number[1]) if number else 0
        if 1 <= index <= len(self.pictures):
            picture = self.pictures[index - 1]
            return getattr(picture, "handle", f"img_{index}"), picture
        for picture in reversed(self.pictures):
            if isinstance(picture, MadePicture) and image in (
                *(picture.handle, f"{picture.handle}.png", picture.path),
            ):
                return picture.handle, picture
        return None

    def choices(self) -> str:
        """Return one line that names the newest pictures, or nothing if there are none."""
        names = [
            f"img_{index} ({picture.handle})"
            if isinstance(picture, MadePicture)
            else f"img_{index}"
            for index, picture in enumerate(self.pictures, start=1)
        ]
        more = "the newest of them " if len(names) > LISTED else ""
        return f"In this conversation: {more}{', '.join(names[-LISTED:])}." if names else ""


def announcement(handles: Sequence[str], *, label: str, size: str, place: str) -> str:
    """Return what a model is told of new pictures.

    Args:
        handles: The pictures' names.
        label: What the picture is called that was varied.
        size: Of each, such as "256x256".
        place: Where they are.
    """
    made = "1 variation" if len(handles) == 1 else f"{len(handles)} variations"
    return (
        f"Made {made} of {label}, {size} pixels: {', '.join(handles)}. They are saved in {place} "
        "as <name>.png; pass a name as image to vary it again."
    )


def announced(text: str) -> list[MadePicture]:
    """Return the pictures that a text announces, if it begins with an announcement.

    It is for conversations whose messages keep the text of an answer and not its artifact.
    """
    if (found := _ANNOUNCEMENT.match(text[:_ANNOUNCEMENT_LENGTH])) is None:
        return []
    handles = found["handles"].split(", ")
    return [MadePicture(handle, f"{handle}.png", None) for handle in handles]


def scope_name(conversation_id: str) -> str:
    """Return the name of a conversation's own folder of results.

    Two conversations never have the same, as it ends in a hash of the whole identity.
    """
    digest = hashlib.sha256(conversation_id.encode("utf-8", "surrogatepass")).hexdigest()
    begin = re.sub(r"[^A-Za-z0-9_-]+", "-", conversation_id)[:_SCOPE_LENGTH].strip("-")
    return f"{begin}-{digest[:16]}" if begin else digest[:16]
