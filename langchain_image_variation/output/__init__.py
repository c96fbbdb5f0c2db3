"""Saves an `ImagesResponse` as files.

File names are made from the name of the source and a hash of the pixels. A response therefore never
chooses where it is written, and the same pixels get the same name on every machine. Files are
written atomically and never replace another file.
"""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from langchain_image_variation.contract import Image as Variation
from langchain_image_variation.contract import ImagesResponse
from langchain_image_variation.exceptions import (
    ImageVariationError,
    InvalidRequestError,
    OutputError,
    excerpt,
)
from langchain_image_variation.files.atomic import place_file
from langchain_image_variation.images.inset import Inset
from langchain_image_variation.images.pixels import decode_result, encode_png
from langchain_image_variation.output.file_format import FileFormat, FormatName
from langchain_image_variation.output.names import DEFAULT_TEMPLATE, NameTemplate
from langchain_image_variation.output.placed_images import PlacedImage, place_images
from langchain_image_variation.source import Source

__all__ = ["SavedImage", "check_response", "cut_back", "make_output_dir", "save_images"]


def make_output_dir(directory: str | os.PathLike[str]) -> Path:
    """Create a folder for results, with its parents, and check that it is writable.

    Returns:
        The path of the folder.

    Raises:
        OutputError: If it cannot be created, is not a folder, or is not writable.
    """
    path = Path(directory)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except FileExistsError:
        raise OutputError(f"{path.name!r} is a file; choose a folder for the results.") from None
    except (OSError, ValueError):
        raise OutputError(
            f"The folder {path.name!r} cannot be written to; choose another one for the results."
        ) from None


def check_response(response: object) -> None:
    """Refuse an object that is not a response.

    Raises:
        InvalidRequestError: If it is something else, such as a list of images or a coroutine.
    """
    if not isinstance(response, ImagesResponse):
        raise InvalidRequestError(
            f"response must be an ImagesResponse, got {excerpt(response)}. "
            "call_engine(engine, request) returns one.",
            param="response",
        )


@dataclass(frozen=True, slots=True)
class SavedImage:
    """A variation on disk."""

    path: Path
    sha256: str
    """The SHA-256 of the file's bytes, in hex."""
    width: int
    """In pixels."""
    height: int
    """In pixels."""
    seed: int | None
    """The seed that made it, if the engine has seeds."""


def cut_back(response: ImagesResponse, source: Source) -> ImagesResponse:
    """Return a response whose images have the shape of their source, without its bars.

    The longer side of each image does not change. If the source has no `inset`, the response is
    returned as it is. Otherwise the images are new PNG files, and the response no longer has `size`
    and `output_format`. An image at an https URL becomes a `data:` URL,
    because the file at that URL still has its bars. An entry that is not a readable image is kept,
    and raises its error when you read or save it.

    Args:
        response: The response of an engine.
        source: The source of its images, loaded with `fit="keep"`.

    Raises:
        InvalidRequestError: If `response` is not a response.
    """
    check_response(response)
    if source.inset is None:
        return response
    images = [_cut_image_back(image, source.inset) for image in response.data]
    return response.model_copy(update={"data": images, "size": None, "output_format": None})


def _cut_image_back(image: Variation, inset: Inset) -> Variation:
    try:
        pixels = inset.cut_out(decode_result(image.read()))
    except ImageVariationError:
        return image
    cut_image = image.model_copy()
    # Stronger compression would take longer than the engine.
    cut_image.set_png(encode_png(pixels, compress_level=1))
    if cut_image.url is not None:
        cut_image.use_data_url()
    return cut_image


def save_images(
    response: ImagesResponse,
    directory: str | os.PathLike[str],
    *,
    name: str = "image",
    template: str = DEFAULT_TEMPLATE,
    format: FormatName = "png",
    quality: int | None = None,
    report: Callable[[SavedImage], None] | None = None,
) -> list[SavedImage]:
    """Write each variation as `<name>-<hash>-<index>.png` and return them in order.

    The hash is the start of `images.pixels.pixel_sha256`, so it does not depend on how the file is
    compressed. If a file of that name has the same pixels, it is kept. If it has other content, it
    is kept too, and the new file gets more digits of the hash. If `name` is the name of an earlier
    result, its hash and index are dropped.

    Args:
        response: The response of an engine.
        directory: The folder to write to. It is created if it does not exist.
        name: The start of each file name, usually `Source.name`. Characters that could confuse a
            file system, a terminal or a shell are replaced.
        template: The name of each file, without its suffix: see `output.names.NameTemplate`. If it
            has no `{hash}`, and a file of that name has other content, the hash is added.
        format: The format of the files: "png", "jpeg" or "webp". The hash in a name covers the
            pixels of the file, so it depends on the format.
        quality: The quality of JPEG and WebP, 1 to 100. By default, a result that already has this
            format is kept as it is, and others get a quality of 90.
        report: Called with each image that was saved, in order, even if another one fails.

    Raises:
        InvalidRequestError: If `response` is not a response, `template`, `format` or `quality` is
            not valid, or `template` would give two images the same name. Nothing is written.
        OutputError: If an entry is not a readable image (the others are written first), or if a
            file cannot be written. Files that are already written stay.
    """
    check_response(response)
    names, file_format = NameTemplate(template), FileFormat(format, quality)
    names.check([name], len(response.data))
    folder = make_output_dir(directory)
    saved_images: list[SavedImage] = []

    def keep(image: PlacedImage) -> None:
        saved_images.append(
            SavedImage(folder / image.name, image.sha256, image.width, image.height, image.seed)
        )
        if report is not None:
            report(saved_images[-1])

    place_images(
        response,
        partial(place_file, folder),
        name=name,
        names=names,
        file_format=file_format,
        concurrent=True,
        report=keep,
    )
    return saved_images
