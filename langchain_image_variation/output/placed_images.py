"""`PlacedImage`: a variation in a file that a caller's function writes.

`save_images` writes to a folder on this machine. The tool also keeps results in stores.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from PIL import Image

from langchain_image_variation.contract import Image as Variation
from langchain_image_variation.contract import ImagesResponse
from langchain_image_variation.exceptions import (
    ImageVariationError,
    InvalidImageError,
    OutputError,
)
from langchain_image_variation.images.decoder_errors import translate_decoder_errors
from langchain_image_variation.images.pixels import decode_result, open_image, pixel_sha256
from langchain_image_variation.output.file_format import FileFormat
from langchain_image_variation.output.names import DEFAULT_TEMPLATE, NameTemplate
from langchain_image_variation.output.writer_threads import start_jobs

__all__ = ["Place", "PlacedImage", "place_images", "place_pixels"]

Place: TypeAlias = Callable[[str, bytes], bytes | None]
"""Writes a file atomically under a name, unless the name is taken. Returns the content under that
name: the new bytes, the existing bytes, or None if it is not a readable file. May raise
an `OutputError`."""

_DEFAULT_NAMES, _PNG = NameTemplate(DEFAULT_TEMPLATE), FileFormat()


@dataclass(frozen=True, slots=True)
class PlacedImage:
    """A variation that a `Place` has written."""

    name: str
    """The name of its file."""
    sha256: str
    """The SHA-256 of the file's bytes, in hex."""
    width: int
    """In pixels."""
    height: int
    """In pixels."""
    seed: int | None
    """The seed that made it, if the engine has seeds."""


def place_images(
    response: ImagesResponse,
    place: Place,
    *,
    name: str = "image",
    names: NameTemplate = _DEFAULT_NAMES,
    file_format: FileFormat = _PNG,
    concurrent: bool = False,
    report: Callable[[PlacedImage], None] | None = None,
) -> list[PlacedImage]:
    """Save images as `save_images` does, but write the files with `place`.

    Args:
        response: See `save_images`.
        place: Writes one file.
        name: See `save_images`.
        names: The template of the names.
        file_format: The format of the files.
        concurrent: Whether several threads may call `place` at the same time.
        report: See `save_images`.

    Raises:
        OutputError: See `save_images`.
    """
    placed_images: list[PlacedImage] = []
    unreadable_error: ImageVariationError | None = None

    def place_image(index: int, image: Variation) -> PlacedImage:
        try:
            data, pixels = file_format.convert(image.read())
        except ImageVariationError as error:
            raise _UnreadableError(error) from None
        digest = pixel_sha256(pixels)
        candidates = names.names(name, digest, index, image.seed)
        file, content = place_pixels(data, pixels, digest, candidates, place, file_format)
        return PlacedImage(file, hashlib.sha256(content).hexdigest(), *pixels.size, image.seed)

    jobs = [
        partial(place_image, index, image) for index, image in enumerate(response.data, start=1)
    ]
    other_jobs = start_jobs(jobs[1:]) if concurrent else jobs[1:]
    unwritable_error: OutputError | None = None
    for job in [*jobs[:1], *other_jobs]:
        try:
            placed_images.append(job())
        except _UnreadableError as error:
            unreadable_error = unreadable_error or error.cause
        except OutputError as error:
            unwritable_error = unwritable_error or error
        else:
            if report is not None:
                report(placed_images[-1])
    if unwritable_error is not None:
        raise unwritable_error
    if unreadable_error is not None:
        file_names = ", ".join(image.name for image in placed_images) or "none"
        raise OutputError(
            f"{unreadable_error.message} Saved images: {file_names}."
        ) from unreadable_error
    return placed_images


class _UnreadableError(Exception):
    """Raised if an entry is not a readable image. The other entries are still written."""

    def __init__(self, cause: ImageVariationError) -> None:
        self.cause = cause


def place_pixels(
    data: bytes,
    pixels: Image.Image,
    digest: str,
    names: Iterable[str],
    place: Place,
    file_format: FileFormat,
) -> tuple[str, bytes]:
    """Write a file under the first name that is not taken by other content.

    Args:
        data: The bytes of the file.
        pixels: Its pixels in a plain mode.
        digest: Their `pixel_sha256`.
        names: The names to try, without suffix.
        place: Writes the file.
        file_format: The format of the file.

    Returns:
        The file's name and its content: `data`, or the bytes of an existing file with these pixels.

    Raises:
        OutputError: If the file cannot be written, or if all names are taken by other content.
    """
    file = ""
    for name in names:
        file = f"{name}{file_format.suffix}"
        content = place(file, data)
        if content is not None and (
            content == data or _has_pixels(content, pixels.size, digest, file_format)
        ):
            return file, content
    raise OutputError(f"{file!r} exists with other content; remove it or choose another folder.")


def _has_pixels(
    content: bytes, size: tuple[int, int], digest: str, file_format: FileFormat
) -> bool:
    """Return whether a file has this format, this size in pixels and this `pixel_sha256`."""
    try:
        # A file of another size is not decoded, so it takes no more memory than the new image. EXIF
        # may swap width and height.
        with (
            translate_decoder_errors(lambda: OutputError("The file is not readable.")),
            open_image(content, (file_format.name.upper(),)) as image,
        ):
            if sorted(image.size) != sorted(size):
                return False
        return pixel_sha256(decode_result(content)) == digest
    except (InvalidImageError, OutputError):
        return False
