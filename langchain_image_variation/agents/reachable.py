"""`Gallery`: the pictures that one call of the tool may use, found by the name a model gives."""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate
from pathlib import PurePath, PureWindowsPath
from typing import TYPE_CHECKING, BinaryIO
from unicodedata import normalize

from langchain_image_variation.agents.conversation import Conversation, MadePicture, SharedPicture
from langchain_image_variation.agents.results import Results
from langchain_image_variation.exceptions import ImageVariationError, SourceError, shown
from langchain_image_variation.source import MAX_SOURCE_BYTES, Fit, Source, load_source

if TYPE_CHECKING:
    from langchain_image_variation.http.url_policy import URLPolicy

__all__ = ["Gallery"]

_FILES_LENGTH = 400
"""So many characters of names of files are listed: they are anybody's, and may be long."""


class Gallery:
    """The pictures of a conversation, and those of the folder that are nobody's results.

    A conversation reaches its own results only: those that its messages name, each with the hash
    of its file, and, if it has an identity, those in its own folder. Without a conversation, all
    results may be used.

    Args:
        results: The results of the conversation, and the folder of pictures.
        conversation: The conversation that the call belongs to, if any.
    """

    def __init__(self, results: Results, conversation: Conversation | None) -> None:
        self.results = results
        self.conversation = conversation or Conversation()
        self._sees_folder = conversation is None or conversation.scope is not None
        self._without = None if conversation is None else results.hidden

    def load(self, image: str, *, fit: Fit, urls: "URLPolicy | None") -> tuple[str, Source]:
        """Read a picture, and say what it is called here.

        Args:
            image: What the model gave: "latest", "img_1", a handle or a relative path. White space
                and quotes around it are left out.
            fit: As in `load_source`.
            urls: From where a picture is fetched that a message brought as a URL.

        Raises:
            SourceError: If there is no such picture, or it cannot be read or used. The message
                lists what may be used.
        """
        name = image.strip().strip("\"'`")
        known = self.conversation.find(name)
        label, picture = known or (None, None)
        try:
            if isinstance(picture, SharedPicture):
                source = load_source(_url(picture), fit=fit, urls=urls, name=label)
                # Its number would say something else among the names of results.
                source = replace(source, name="image")
            else:
                with self._made(picture) if picture is not None else self._file(name) as file:
                    source = load_source(file, fit=fit, name=label)
            return label or source.name, source
        except _MissingPictureError as error:
            raise SourceError(f"{error} {self.choices()}") from None
        except ImageVariationError as error:
            label = label or _printable(PurePath(name).name)
            raise SourceError(f"{label}: {error.message} {self.choices()}") from None

    def choices(self) -> str:
        """Return one line that names the pictures that may be used, of each kind the newest."""
        return " ".join(self._choices()) or "There are no pictures here yet."

    def _choices(self) -> Iterator[str]:
        if shared := self.conversation.choices():
            yield shared
        if files := _short(self.results.pictures.newest()):
            yield f"Files: {', '.join(files)}."
        named = {getattr(picture, "handle", None) for picture in self.conversation.pictures}
        handles = self.results.newest() if self._sees_folder else []
        if handles := [handle for handle in handles if handle not in named]:
            yield f"Earlier results: {', '.join(handles)}."

    def _made(self, picture: MadePicture) -> BinaryIO:
        """Open a result that a message names, if its file is still the one that was made."""
        known = picture.sha256 is not None
        file = None
        if known:
            file = self.results.open(picture.path)
        elif self._sees_folder:
            file = self.results.find(picture.path)
        if file is not None:
            with file:
                data = file.read(MAX_SOURCE_BYTES + 1)
            if not known or hashlib.sha256(data).hexdigest() == picture.sha256:
                return io.BytesIO(data)
        raise _MissingPictureError(f"The file of {shown(picture.handle)} is gone or was changed.")

    def _file(self, name: str) -> BinaryIO:
        """Open a result of this conversation, or a file under the root."""
        file = None
        if self._sees_folder:
            newest = self.results.newest() if name.lower() == "latest" else []
            file = self.results.find(newest[0] if newest else name)
        # Models compose accents; the names of files from some systems have them apart.
        for spelt in dict.fromkeys((name, normalize("NFC", name), normalize("NFD", name))):
            file = file or self.results.pictures.open(spelt, without=self._without)
        if file is None:
            raise _MissingPictureError(f"There is no picture {shown(_without_folders(name))} here.")
        return file


def _short(names: list[str]) -> list[str]:
    """Return the first names that are no longer together than a message may be."""
    ends = accumulate(len(name) for name in names)
    return [name for name, end in zip(names, ends, strict=True) if end <= _FILES_LENGTH]


class _MissingPictureError(Exception):
    """There is no such picture to read."""


def _url(picture: SharedPicture) -> str:
    """Return the URL of a picture that a message brought; all else would be taken for a path."""
    url = picture.address or ""
    if url[:5].lower() == "data:" or url[:8].lower() == "https://":
        return url
    raise SourceError(
        "The message holds neither its bytes nor an https URL; ask for the picture itself."
    )


def _printable(name: str) -> str:
    """Return the name of a file as a message may show it."""
    return name if name.isprintable() else shown(name)


def _without_folders(name: str) -> str:
    # A model may have seen an absolute path elsewhere; it is not repeated.
    absolute = PurePath(name).is_absolute() or PureWindowsPath(name).is_absolute()
    return PureWindowsPath(name).name if absolute else name
