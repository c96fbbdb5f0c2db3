"""`ReachableImages`: which images a call can read, and the image that a handle means."""

import hashlib
import io
from dataclasses import replace
from pathlib import PurePath, PureWindowsPath
from typing import TYPE_CHECKING, BinaryIO
from unicodedata import normalize

from langchain_image_variation.agents.conversation import Conversation, ResultImage
from langchain_image_variation.agents.failure_log import log_hint
from langchain_image_variation.agents.image_choices import describe_choices
from langchain_image_variation.agents.image_folder import MAX_PATH_LENGTH
from langchain_image_variation.agents.message_image import MessageImage, normalize_name
from langchain_image_variation.agents.results import Results
from langchain_image_variation.agents.uploads import KeptUpload, Uploads
from langchain_image_variation.exceptions import (
    InvalidImageError,
    InvalidRequestError,
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


class ReachableImages:
    """The images that one call may read: those of its conversation, and files under the root.

    A conversation reaches only its own results: those that its messages name together with the hash
    of the file, and, if it has an identity, those in its own folder. A call without a conversation
    may use all results. The name of an uploaded image is a hash of the image. It finds an image in
    the messages, or one that an earlier call of the conversation kept, and never a file.

    Args:
        results: The results of the conversation, and the folder of images.
        conversation: The conversation that the call belongs to, if any.
        uploads: The uploads of the conversation, if it has its own folder.
    """

    def __init__(
        self,
        results: Results,
        conversation: Conversation | None,
        uploads: Uploads | None = None,
    ) -> None:
        self._results = results
        self._uploads = uploads
        self._kept_uploads: list[KeptUpload] = []
        self._conversation = conversation or Conversation(has_messages=False)
        self._can_search_results = conversation is None or conversation.scope is not None
        self._excluded_folder = None if conversation is None else results.all_results_folder

    def load(self, handle: str, *, fit: Fit, urls: "URLPolicy | None") -> tuple[str, Source]:
        """Read an image. Return its label for messages, and its pixels.

        The images in the messages are kept, whether or not this call succeeds.

        Args:
            handle: What the model wrote: "latest", the name of an upload such as "img_7c1e09ab",
                the handle of a result or a relative path. White space and quotes around it are
                ignored.
            fit: See `load_source`.
            urls: The hosts from which an image in a message may be fetched by URL.

        Raises:
            ToolCallError: If there is no such image, or if it cannot be read or used. The message
                lists the images that the call may use.
            ImageVariationError: If a setting or the storage of results is at fault.
        """
        handle = handle.strip().strip("\"'`").strip()
        name = normalize_name(handle)
        if self._uploads is not None:
            images = self._conversation.images
            uploads = [image for image in images if isinstance(image, MessageImage)]
            self._kept_uploads = self._uploads.keep(uploads, used_name=name)
        label: str | None = None
        try:
            image = self._find(handle, name)
            if image is None:
                with self._open(handle) as file:
                    source = load_source(file, fit=fit)
                if normalize_name(source.name) is None:
                    return source.name, source
                # The file is not the upload of that name.
                return _printable(PurePath(handle).name), replace(source, name="image")
            label = _label(image)
            if isinstance(image, ResultImage):
                with self._open_result(image) as file:
                    return label, load_source(file, fit=fit, name=label)
            source = load_source(self._read_upload(image, urls), fit=fit, name=label)
            # If it were named after the upload, its results would be confused with the upload.
            return label, replace(source, name="image")
        except _MissingImageError as error:
            raise ToolCallError(f"{error} {self.choices()}") from None
        except (SourceError, InvalidImageError, MissingExtraError) as error:
            label = label or _printable(PurePath(handle).name)
            if error.hint is not None:
                log_hint(f"The tool cannot use an image. {error.message}")
            is_link = isinstance(image, MessageImage) and image.is_link
            problem = _describe(error, is_link=is_link, urls=urls)
            raise ToolCallError(f"{label}: {problem} {self.choices()}") from error

    def choices(self) -> str:
        """Return a line that names the images that the call may use, the newest of each kind."""
        return describe_choices(
            self._conversation,
            self._kept_uploads,
            self._results,
            has_results=self._can_search_results,
        )

    def _find(
        self, handle: str, name: str | None
    ) -> MessageImage | ResultImage | KeptUpload | None:
        """Return the image that a handle means, or None if it can only be a result or a file.

        Args:
            handle: What the model wrote.
            name: The name of an upload, if the handle is one.
        """
        if name is not None:
            images: dict[str, MessageImage | KeptUpload] = {
                upload.sha256: upload for upload in self._kept_uploads if upload.name == name
            }
            images |= self._conversation.find_uploads(name)
            if not images:
                raise _MissingImageError(f"There is no image {name} here.")
            if len(images) > 1:
                raise _MissingImageError(
                    f"Several images have the name {name}. Ask the user to save the image in "
                    "another format and to send it again."
                )
            return next(iter(images.values()))
        if handle.lower() == "latest":
            if self._conversation.images:
                return self._conversation.images[-1]
            if self._conversation.has_messages:
                raise _MissingImageError("There is no image in the messages of this conversation.")
        return self._conversation.find_result(handle)

    def _read_upload(self, image: MessageImage | KeptUpload, urls: "URLPolicy | None") -> bytes:
        """Return the file of an upload."""
        upload = self._kept_upload(image)
        data = None
        if isinstance(image, MessageImage) and (upload is None or not image.is_link):
            data = image.read(urls)
        elif self._uploads is not None and upload is not None:
            # The URL may return something else by now.
            data = self._uploads.read(upload)
        if data is None:
            # The error lists the other images only.
            self._kept_uploads = [kept for kept in self._kept_uploads if kept is not upload]
            raise _MissingImageError(f"The file of {_label(image)} was deleted or changed.")
        if self._uploads is not None and upload is not None:
            self._uploads.renew(upload, data)
        elif self._uploads is not None and isinstance(image, MessageImage) and image.is_link:
            self._uploads.add(image, data)
        return data

    def _kept_upload(self, image: MessageImage | KeptUpload) -> KeptUpload | None:
        if isinstance(image, KeptUpload):
            return image
        sha256 = image.identity and image.identity.sha256
        return next((upload for upload in self._kept_uploads if upload.sha256 == sha256), None)

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
        file, is_path = None, len(name) <= MAX_PATH_LENGTH
        if self._can_search_results:
            newest = self._results.newest_handles() if name.lower() == "latest" else []
            file = self._results.open_handle(newest[0] if newest else name)
        # Models write composed accents. Some systems decompose them in file names.
        forms = (name, normalize("NFC", name), normalize("NFD", name)) if is_path else ()
        for spelling in dict.fromkeys(forms):
            file = file or self._results.image_folder.open(
                spelling, excluded_folder=self._excluded_folder
            )
        if file is None:
            advice = ""
            if "://" in name:
                # Without messages, a user has no way to upload an image.
                if self._conversation.has_messages:
                    way = "upload the image itself"
                else:
                    way = "save the image in this tool's folder"
                advice = f" This tool cannot open a URL; ask the user to {way}."
            raise _MissingImageError(
                f"There is no image {excerpt(_relative_name(name))} here.{advice}"
            )
        return file


class _MissingImageError(Exception):
    """There is no such image."""


def _describe(
    error: InvalidRequestError | MissingExtraError, *, is_link: bool, urls: "URLPolicy | None"
) -> str:
    """Return what is wrong with an image, and what a model can do about it."""
    if isinstance(error, MissingExtraError):
        return "This kind of image cannot be read here. Ask the user for a PNG or JPEG."
    if not is_link:
        return error.problem
    problem = "This image is only a link, which this tool may not open." if urls is None else ""
    return f"{problem or error.problem} Ask the user to upload the image itself."


def _label(image: MessageImage | ResultImage | KeptUpload) -> str:
    """Return what an image is called in messages."""
    if isinstance(image, ResultImage):
        return image.handle
    # An image without a name can only be found as the latest one.
    return image.name or "The newest image"


def _printable(name: str) -> str:
    return name if name.isprintable() else excerpt(name)


def _relative_name(name: str) -> str:
    """Return a name without the folders of an absolute path, which no message may show."""
    is_absolute = PurePath(name).is_absolute() or PureWindowsPath(name).is_absolute()
    return PureWindowsPath(name).name if is_absolute else name
