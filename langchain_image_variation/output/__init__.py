"""Saves an `ImagesResponse` as files.

File names are made from the name of the source and a hash of the pixels. A response therefore never
chooses where it is written, and the same pixels get the same name on every machine. Files are
written atomically and never replace another file.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias, TypeVar

from PIL import Image

from langchain_image_variation.contract import Image as Variation
from langchain_image_variation.contract import ImagesResponse
from langchain_image_variation.exceptions import (
    ImageVariationError,
    InvalidImageError,
    InvalidRequestError,
    OutputError,
    excerpt,
)
from langchain_image_variation.files.atomic import place_file
from langchain_image_variation.images.decoder_errors import translate_decoder_errors
from langchain_image_variation.images.inset import Inset
from langchain_image_variation.images.pixels import (
    decode_result,
    encode_png,
    open_image,
    pixel_sha256,
)
from langchain_image_variation.output.file_format import FileFormat, FormatName
from langchain_image_variation.output.names import DEFAULT_TEMPLATE, NameTemplate
from langchain_image_variation.source import Source

__all__ = [
    "Place",
    "PlacedImage",
    "SavedImage",
    "check_response",
    "cut_back",
    "make_output_dir",
    "place_images",
    "place_pixels",
    "save_images",
]

T = TypeVar("T")

_WRITERS = 4
"""The number of files to write at once. Writing four takes a disk little longer than one."""

Place: TypeAlias = Callable[[str, bytes], bytes | None]
"""Writes a file atomically under a name, unless the name is taken. Returns the content under that
name: the new bytes, the existing bytes, or None if it is not a readable file. May raise
an `OutputError`."""


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


_DEFAULT_NAMES, _PNG = NameTemplate(DEFAULT_TEMPLATE), FileFormat()


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
    other_jobs = _start(jobs[1:]) if concurrent else jobs[1:]
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


def _start(jobs: Sequence[Callable[[], T]]) -> list[Callable[[], T]]:
    """Start jobs in other threads. Return a function for each, which waits for its result."""
    try:
        return [_writers.submit(job).result for job in jobs]
    except RuntimeError:
        # The interpreter is shutting down. A job that has already started runs twice, without harm.
        return list(jobs)


def _new_writers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_WRITERS - 1, thread_name_prefix="image-variation-writer")


# Kept, because starting a thread takes as long as writing an image.
_writers = _new_writers()


def _replace_writers() -> None:
    """Create new writers in a forked child, which does not have its parent's threads."""
    global _writers
    _writers = _new_writers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_replace_writers)


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
