"""Resolves a handle, such as `img_2` or `latest`, to an image that the call may read.

`ReachableImages` holds the rules: which images a conversation can reach, and which it cannot.
"""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate
from pathlib import PurePath, PureWindowsPath
from typing import TYPE_CHECKING, BinaryIO
from unicodedata import normalize

from langchain_image_variation.agents.conversation import Conversation, MessageImage, ResultImage
from langchain_image_variation.agents.failure_log import log_hint
from langchain_image_variation.agents.results import Results
from langchain_image_variation.exceptions import (
    ImageVariationError,
    InvalidImageError,
    MissingExtraError,
    SourceError,
    ToolCallError,
    excerpt,
)
from langchain_image_variation.source import Fit, Source, load_source
from langchain_image_variation.source.read import MAX_SOURCE_BYTES

if TYPE_CHECKING:
    from langchain_image_variation.http.url_policy import URLPolicy

__all__ = ["ReachableImages"]

_MAX_FILES_LENGTH = 400
"""The maximum length of all file names in a message, in characters. Users choose these names, and
can make them long."""


class ReachableImages:
    """The images that one call may read: those of its conversation, and files under the root.

    A conversation reaches only its own results: those that its messages name together with the hash
    of the file, and, if it has an identity, those in its own folder. A call without a conversation
    may use all results.

    Args:
        results: The results of the conversation, and the folder of images.
        conversation: The conversation that the call belongs to, if any.
    """

    def __init__(self, results: Results, conversation: Conversation | None) -> None:
        self._results = results
        self._conversation = conversation or Conversation()
        self._can_search_results = conversation is None or conversation.scope is not None
        self._excluded_folder = None if conversation is None else results.all_results_folder

    def load(self, handle: str, *, fit: Fit, urls: "URLPolicy | None") -> tuple[str, Source]:
        """Read an image. Return its label for messages, and its pixels.

        Args:
            handle: What the model wrote: "latest", "img_1", the handle of a result or a relative
                path. White space and quotes around it are ignored.
            fit: See `load_source`.
            urls: The hosts from which an image in a message may be fetched by URL.

        Raises:
            ToolCallError: If there is no such image, or if it cannot be read or used. The message
                lists the images that the call may use.
            ImageVariationError: If a setting or the storage of results is at fault.
        """
        name = handle.strip().strip("\"'`")
        label, image = self._conversation.find(name) or (None, None)
        try:
            if isinstance(image, MessageImage):
                source = load_source(_image_url(image), fit=fit, urls=urls, name=label)
                # If it were named "img_2", its results would be confused with the second image.
                source = replace(source, name="image")
            else:
                with self._open_result(image) if image is not None else self._open(name) as file:
                    source = load_source(file, fit=fit, name=label)
            return label or source.name, source
        except _MissingImageError as error:
            raise ToolCallError(f"{error} {self.choices()}") from None
        except (SourceError, InvalidImageError, MissingExtraError) as error:
            label = label or _printable(PurePath(name).name)
            if error.hint is not None:
                log_hint(f"The tool cannot use an image. {error.message}")
            raise ToolCallError(
                f"{label}: {_describe(error, image, urls)} {self.choices()}"
            ) from error

    def choices(self) -> str:
        """Return a line that names the images that the call may use, the newest of each kind."""
        return " ".join(self._choices()) or "No images are available yet."

    def _choices(self) -> Iterator[str]:
        if in_conversation := self._conversation.choices():
            yield in_conversation
        if files := _first_names(self._results.image_folder.newest_names()):
            yield f"Files: {', '.join(files)}."
        if self._can_search_results:
            listed_handles = {
                image.handle
                for image in self._conversation.images
                if isinstance(image, ResultImage)
            }
            handles = [
                name for name in self._results.newest_handles() if name not in listed_handles
            ]
            if handles:
                yield f"Earlier results: {', '.join(handles)}."

    def _open_result(self, image: ResultImage) -> BinaryIO:
        """Open a result that a message names, if its file has not changed since."""
        file = None
        if image.sha256 is not None:
            file = self._results.open(image.path)
        elif self._can_search_results:
            file = self._results.open_handle(image.path)
        if file is not None:
            with file:
                data = file.read(MAX_SOURCE_BYTES + 1)
            if image.sha256 in (None, hashlib.sha256(data).hexdigest()):
                return io.BytesIO(data)
        raise _MissingImageError(f"The file of {excerpt(image.handle)} was deleted or changed.")

    def _open(self, name: str) -> BinaryIO:
        """Open a result of this conversation, or a file under the root."""
        file = None
        if self._can_search_results:
            newest = self._results.newest_handles() if name.lower() == "latest" else []
            file = self._results.open_handle(newest[0] if newest else name)
        # Models write composed accents. Some systems decompose them in file names.
        for spelling in dict.fromkeys((name, normalize("NFC", name), normalize("NFD", name))):
            file = file or self._results.image_folder.open(
                spelling, excluded_folder=self._excluded_folder
            )
        if file is None:
            raise _MissingImageError(f"There is no image {excerpt(_relative_name(name))} here.")
        return file


def _first_names(names: list[str]) -> list[str]:
    """Return the first names, up to the length that a message may have."""
    ends = accumulate(len(name) for name in names)
    return [name for name, end in zip(names, ends, strict=True) if end <= _MAX_FILES_LENGTH]


class _MissingImageError(Exception):
    """There is no such image."""


def _describe(
    error: ImageVariationError,
    image: MessageImage | ResultImage | None,
    urls: "URLPolicy | None",
) -> str:
    """Return what is wrong with an image, and what a model can do about it."""
    if isinstance(error, MissingExtraError):
        return "This kind of image cannot be read here. Ask the user for a PNG or JPEG."
    if isinstance(image, MessageImage) and (image.url or "")[:8].lower() == "https://":
        problem = (
            "This image is only a link, which this tool may not open."
            if urls is None
            else error.problem
        )
        return f"{problem} Ask the user to upload the image itself."
    return error.problem


def _image_url(image: MessageImage) -> str:
    """Return the URL of an image in a message. Anything else would be read as a path."""
    url = image.address or ""
    if url[:5].lower() == "data:" or url[:8].lower() == "https://":
        return url
    raise SourceError(
        "The message contains neither the image data nor an https URL. Ask for the image itself."
    )


def _printable(name: str) -> str:
    return name if name.isprintable() else excerpt(name)


def _relative_name(name: str) -> str:
    """Return a name without the folders of an absolute path, which no message may show."""
    is_absolute = PurePath(name).is_absolute() or PureWindowsPath(name).is_absolute()
    return PureWindowsPath(name).name if is_absolute else name
