"""The artifact of a call: reads the images that it names, and opens their files."""

import hashlib
import io
import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from langchain_image_variation.agents.conversation import ResultImage
from langchain_image_variation.agents.conversation_storage import open_results
from langchain_image_variation.agents.settings import ToolSettings
from langchain_image_variation.exceptions import (
    InvalidRequestError,
    OutputError,
    SourceError,
    excerpt,
)
from langchain_image_variation.numbers import check_whole_number
from langchain_image_variation.source.read import MAX_SOURCE_BYTES

__all__ = ["open_result", "read_image"]

_SHA256 = re.compile(r"[0-9a-f]{64}")
_HANDLE = re.compile(r"\w[\w.-]{0,107}")


def read_image(image: object) -> ResultImage | None:
    """Return a result from an artifact's list `images`, or None if it is something else.

    A forged artifact may contain anything, such as the handle of one result and the path of another
    one.
    """
    if not isinstance(image, Mapping):
        return None
    handle, path, sha256 = (image.get(key) for key in ("handle", "path", "sha256"))
    if not (isinstance(handle, str) and isinstance(path, str) and isinstance(sha256, str)):
        return None
    # The handle is shown to the model.
    is_own_path = PurePosixPath(path).name == f"{handle}.png"
    if _HANDLE.fullmatch(handle) and _SHA256.fullmatch(sha256) and is_own_path:
        return ResultImage(handle, path, sha256)
    return None


def open_result(settings: ToolSettings, artifact: object, index: int) -> io.BytesIO:
    """Open the file of an image that an artifact names, if its content is the one that was saved.

    Args:
        settings: The settings of the tool.
        artifact: The artifact, perhaps from a client that forged it.
        index: The position of the image in the artifact's list `images`.

    Returns:
        The PNG file, in memory.

    Raises:
        InvalidRequestError: If it is not an artifact of the tool, or has no image at this position.
        OutputError: If the file was deleted or changed, or cannot be read.
    """
    images = artifact.get("images") if isinstance(artifact, Mapping) else None
    if not isinstance(images, list) or not images:
        raise InvalidRequestError(
            "artifact must be the artifact of a call that made images, such as message.artifact, "
            f"got {excerpt(artifact)}. A call that failed has none.",
            param="artifact",
        )
    check_whole_number("index", index, 0, len(images) - 1)
    image = read_image(images[index])
    if image is None:
        raise InvalidRequestError(
            f"Image {index} of the artifact does not have the handle, path and sha256 of a result. "
            "Pass the artifact as the tool returned it.",
            param="artifact",
        )
    data = None
    try:
        file = open_results(settings, None).open(image.path)
        if file is not None:
            with file:
                data = file.read(MAX_SOURCE_BYTES + 1)
    except SourceError as error:
        raise OutputError(error.problem, hint=error.hint) from None
    except OSError:
        raise OutputError(
            f"The result {excerpt(image.handle)} cannot be read.",
            hint="Check the permissions of output_dir.",
        ) from None
    if data is None or hashlib.sha256(data).hexdigest() != image.sha256:
        raise OutputError(
            f"The result {excerpt(image.handle)} was deleted or changed.",
            hint="If another tool made it, open it with the root_dir and output_dir of that tool.",
        )
    return io.BytesIO(data)
