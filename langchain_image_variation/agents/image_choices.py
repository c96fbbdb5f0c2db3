"""The images that a model may choose from, as a line for its messages."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from langchain_image_variation.agents.conversation import (
    MAX_LISTED,
    Conversation,
    ResultImage,
    describe_name,
)
from langchain_image_variation.agents.image_folder import ImageListing
from langchain_image_variation.agents.message_image import MessageImage
from langchain_image_variation.agents.results import Results
from langchain_image_variation.agents.uploads import KeptUpload

__all__ = ["describe_choices", "take_names"]

_MAX_FILES_LENGTH = 400
"""The maximum length of all file names in a message, in characters. Users choose these names, and
can make them long."""


def describe_choices(
    conversation: Conversation,
    kept_uploads: Sequence[KeptUpload],
    results: Results,
    *,
    has_results: bool,
) -> str:
    """Return a line that names the images that a call may use, the newest of each kind.

    Args:
        conversation: The conversation that the call belongs to.
        kept_uploads: The uploads that the conversation keeps, the most recently used one last.
        results: The results of the conversation, and the folder of images.
        has_results: Whether the call may use results that no message names.
    """
    return " ".join(_sentences(conversation, kept_uploads, results, has_results)) or (
        "Ask the user for an image."
        if conversation.has_messages
        else "Ask the user to save an image in this tool's folder."
    )


def _sentences(
    conversation: Conversation,
    kept_uploads: Sequence[KeptUpload],
    results: Results,
    has_results: bool,
) -> Iterator[str]:
    if in_conversation := conversation.choices():
        yield in_conversation
    if earlier_images := _earlier_images(conversation, kept_uploads):
        yield _list_newest("Earlier images", earlier_images)
    files = results.image_folder.list_images(excluded_folder=results.all_results_folder)
    if files.names:
        yield _list_files(files)
    if has_results:
        listed_handles = {
            image.handle for image in conversation.images if isinstance(image, ResultImage)
        }
        newest_handles = results.newest_handles()
        if handles := [name for name in newest_handles if name not in listed_handles]:
            yield _list_newest("Earlier results", handles)


def _earlier_images(conversation: Conversation, kept_uploads: Sequence[KeptUpload]) -> list[str]:
    """Return the uploads that the messages no longer contain, the most recently used first."""
    in_messages = {
        image.identity and image.identity.sha256
        for image in conversation.images
        if isinstance(image, MessageImage)
    }
    uploads = [upload for upload in reversed(kept_uploads) if upload.sha256 not in in_messages]
    return [describe_name(upload.name, upload.size) for upload in uploads]


def _list_newest(title: str, names: list[str]) -> str:
    """Return a sentence with the first names. If there are more, it says how many."""
    order = ", the newest first" if len(names) > 1 else ""
    note = f" ({MAX_LISTED} of {len(names):,})" if len(names) > MAX_LISTED else ""
    return f"{title}{order}{note}: {', '.join(names[:MAX_LISTED])}."


def _list_files(files: ImageListing) -> str:
    """Return a sentence with names of files. If there are more, it says how many."""
    names = take_names(files.names, _MAX_FILES_LENGTH)
    others = files.count - len(names)
    if not files.is_complete:
        names.append("and perhaps others")
    elif others:
        names.append(f"and {others:,} more")
    return f"Files: {', '.join(names)}."


def take_names(names: Sequence[str], max_length: int) -> list[str]:
    """Return the first names: those that fit in `max_length` characters together, or else one."""
    ends = [*accumulate(len(name) for name in names)]
    return [*names[: max(1, bisect_right(ends, max_length))]]
