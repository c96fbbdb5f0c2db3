"""Saves an `ImagesResponse` as PNG files, and draws a contact sheet of it.

File names are made from the name of the source and a hash of the pixels. A response therefore never
chooses where it is written, and the same pixels get the same name on every machine. Files are
written atomically and never replace another file.
"""

import hashlib
import io
import os
import re
import struct
import tempfile
import unicodedata
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias, TypeVar

from PIL import Image

from langchain_image_variation.contract import Image as Variation
from langchain_image_variation.contract import ImagesResponse
from langchain_image_variation.exceptions import ImageVariationError, OutputError
from langchain_image_variation.files.atomic import place_file
from langchain_image_variation.images.inset import Inset
from langchain_image_variation.images.pixels import (
    as_png,
    decode,
    decode_result,
    encode,
    pixel_sha256,
)
from langchain_image_variation.images.png import SquarePNG
from langchain_image_variation.images.png.chunks import SIGNATURE
from langchain_image_variation.source import Source

__all__ = [
    "DATED_NAME",
    "RESULT_NAME",
    "THUMBNAIL_SIDE",
    "ContactSheet",
    "Place",
    "PlacedImage",
    "SavedImage",
    "cut_back",
    "make_output_dir",
    "place_images",
    "place_png",
    "safe_name",
    "save_images",
    "save_png",
]

THUMBNAIL_SIDE = 512
"""The largest width and height of a thumbnail, in pixels."""

T = TypeVar("T")

_WRITERS = 4
"""How many files are written at once. Writing four takes a disk little longer than writing one."""

RESULT_NAME = re.compile(r"\w[\w.-]{0,39}-[0-9a-f]{8,64}-[0-9]+\.png")
"""Matches the names that `place_images` makes. No file system treats them specially."""

Place: TypeAlias = Callable[[str, bytes], bytes | None]
"""Writes a file by name and atomically, unless the name is taken. Returns the content under that
name: the new bytes, the existing bytes, or None if it is not a file or may not be read. May raise
an `OutputError`."""

_HEADER = struct.Struct(">16xII")
"""The start of a PNG file, up to and including its width and height."""

_GAP, _CAPTION = 8, 20
_MIN_CELL_WIDTH = 30
_STEM_LENGTH = 40
_STEM_BYTES = 100
"""Encrypted file systems, such as eCryptfs, have names of at most 143 bytes."""
_HASH_LENGTHS = (8, 16, 64)
# Windows takes these for devices, whatever follows the dot.
_DEVICE_NAME = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)\..*", re.IGNORECASE)
_DATE = r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
# The end of the name of a result. A number that could be a date is not taken for a hash.
_HASH_AND_INDEX = re.compile(rf"-(?!{_DATE}-)[0-9a-f]{{8,64}}-(\d+|sheet)$")

DATED_NAME = re.compile(rf".*-{_DATE}-[0-9]+\.png", re.DOTALL)
"""Matches names whose hash could be a date, because they may be a user's own images."""


def make_output_dir(directory: str | os.PathLike[str]) -> Path:
    """Create a folder for results and its parents, and check that files can be written to it.

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

    The longer side of each image stays as it is. If the source has no `inset`, the response is
    returned unchanged. Otherwise the images are new PNG files, and what the response says about
    their `size` and `output_format` is left out. An image at an https URL becomes a `data:` URL,
    because the file at that URL still has its bars. An entry that is not a readable image is kept,
    and raises its error when it is read or saved.

    Args:
        response: The response of an engine.
        source: The source of its images, loaded with `fit="keep"`.
    """
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
    # More compression would take longer than the engine.
    cut_image.set_png(encode(pixels, compress_level=1))
    if cut_image.url is not None:
        cut_image.use_data_url()
    return cut_image


def save_images(
    response: ImagesResponse, directory: str | os.PathLike[str], *, name: str = "image"
) -> list[SavedImage]:
    """Write each variation as `<name>-<hash>-<index>.png` and return them in order.

    The hash is the start of `images.pixels.pixel_sha256`, so it does not depend on how the file is
    compressed. If a file of that name has the same pixels, it is kept. If it has other content, it
    is kept too, and the new file gets more digits of the hash. JPEG and WebP results are written as
    PNG. If `name` is the name of an earlier result, its hash and index are dropped.

    Args:
        response: The response of an engine.
        directory: The folder to write to. It is created if it does not exist.
        name: The start of each file name, usually `Source.name`. Characters that could confuse a
            file system, a terminal or a shell are replaced.

    Raises:
        OutputError: If an entry is not a readable image (the others are written first), or if a
            file cannot be written. Files that are already written stay.
    """
    folder = make_output_dir(directory)
    return [
        SavedImage(folder / image.name, image.sha256, image.width, image.height, image.seed)
        for image in place_images(response, partial(place_file, folder), name=name, concurrent=True)
    ]


def place_images(
    response: ImagesResponse, place: Place, *, name: str = "image", concurrent: bool = False
) -> list[PlacedImage]:
    """Do the same as `save_images`, but write the files with `place`.

    Args:
        response: See `save_images`.
        place: Writes one file.
        name: See `save_images`.
        concurrent: Whether several threads may call `place` at the same time.

    Raises:
        OutputError: See `save_images`.
    """
    placed_images: list[PlacedImage] = []
    unreadable_error: ImageVariationError | None = None
    jobs = [
        partial(_place_image, image, place, name, str(index))
        for index, image in enumerate(response.data, start=1)
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
    if unwritable_error is not None:
        raise unwritable_error
    if unreadable_error is not None:
        names = ", ".join(image.name for image in placed_images) or "none"
        raise OutputError(
            f"{unreadable_error.message} Saved images: {names}."
        ) from unreadable_error
    return placed_images


def _start(jobs: Sequence[Callable[[], T]]) -> list[Callable[[], T]]:
    """Start jobs in other threads, and return a function for each that waits for its result."""
    try:
        return [_writers.submit(job).result for job in jobs]
    except RuntimeError:
        # The interpreter is shutting down. A job that has already started runs twice, without harm.
        return list(jobs)


def _new_writers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_WRITERS - 1, thread_name_prefix="image-variation-writer")


# Kept, because starting a thread takes as long as writing an image. Threads start when needed.
_writers = _new_writers()


def _replace_writers() -> None:
    """Make new writers in a forked child, which does not have the threads of its parent."""
    global _writers
    _writers = _new_writers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_replace_writers)


def save_png(image: Image.Image, directory: Path, *, name: str, suffix: str) -> Path:
    """Write one image as `<name>-<hash>-<suffix>.png`, and return its path.

    Args:
        image: An image in a plain mode.
        directory: An existing folder.
        name: The start of the file name. Unsafe characters are replaced.
        suffix: The end of the file name, such as an index.

    Raises:
        OutputError: If the file cannot be written.
    """
    place = partial(place_file, directory)
    file, _ = place_png(encode(image), image, place, name=name, suffix=suffix)
    return directory / file


def place_png(
    data: bytes, image: Image.Image, place: Place, *, name: str, suffix: str
) -> tuple[str, bytes]:
    """Do the same as `save_png`, but write the file with `place`.

    Args:
        data: The bytes of a PNG file.
        image: Its pixels in a plain mode.
        place: Writes the file.
        name: See `save_png`.
        suffix: See `save_png`.

    Returns:
        The file's name and its content: `data`, or the bytes of an existing file with these pixels.

    Raises:
        OutputError: See `save_png`.
    """
    digest = pixel_sha256(image)
    for length in _HASH_LENGTHS:
        file = f"{safe_name(name)}-{digest[:length]}-{suffix}.png"
        content = place(file, data)
        if content is not None and (content == data or _has_pixels(content, image.size, digest)):
            return file, content
    raise OutputError(f"{file!r} exists with other content; remove it or choose another folder.")


def _has_pixels(content: bytes, size: tuple[int, int], digest: str) -> bool:
    """Return whether a file is a PNG of this size, in pixels, with this `pixel_sha256`."""
    # A file of another size is not decoded, so it takes no more memory than the new image. EXIF may
    # swap width and height.
    if not content.startswith(SIGNATURE) or len(content) < _HEADER.size:
        return False
    if sorted(_HEADER.unpack_from(content)) != sorted(size):
        return False
    try:
        return pixel_sha256(decode_result(content)) == digest
    except OutputError:
        return False


class ContactSheet:
    """An image of the source and its numbered variations, side by side.

    In a notebook, a cell that ends with a `ContactSheet` shows it.

    Args:
        source: The source image. A `Source` is shown without the bars of `fit="keep"`.
        response: The response of an engine, or of `cut_back`.
        tile: The longer side of each image on the sheet, in pixels.
        columns: The images per row. By default 4, or 5 if there are exactly 5 images.

    Raises:
        OutputError: If an entry of the response is not a readable image.
    """

    def __init__(
        self,
        source: Source | SquarePNG,
        response: ImagesResponse,
        *,
        tile: int = 256,
        columns: int | None = None,
    ) -> None:
        images = _decode_scaled(source, response, tile)
        self.image: Image.Image = _draw_sheet(images, columns or _default_columns(len(images)))

    @staticmethod
    def thumbnail(source: Source | SquarePNG, response: ImagesResponse) -> bytes:
        """Return a sheet as a JPEG file, at most `THUMBNAIL_SIDE` pixels wide and high.

        Raises:
            OutputError: If an entry of the response is not a readable image.
        """
        images = _decode_scaled(source, response, THUMBNAIL_SIDE)
        tiles = {columns: _thumbnail_tile(images, columns) for columns in range(1, len(images) + 1)}
        columns = max(tiles, key=lambda columns: tiles[columns])
        images = [_scale(image, tiles[columns]) for image in images]
        buffer = io.BytesIO()
        _draw_sheet(images, columns).save(buffer, "JPEG", quality=80)
        return buffer.getvalue()

    def save(self, directory: str | os.PathLike[str], *, name: str = "image") -> Path:
        """Write the sheet as `<name>-<hash>-sheet.png` and return its path.

        Raises:
            OutputError: If the file cannot be written.
        """
        folder = make_output_dir(directory)
        return save_png(self.image, folder, name=name, suffix="sheet")

    def _repr_png_(self) -> bytes:
        return encode(self.image)


def _decode_scaled(
    source: Source | SquarePNG, response: ImagesResponse, tile: int
) -> list[Image.Image]:
    """Return the source and its variations, in order, each with a longer side of `tile` pixels."""
    if isinstance(source, SquarePNG):
        original = decode(source)
    else:
        original = decode(source.png)
        if source.inset is not None:
            original = source.inset.cut_out(original)
    # Results may be much larger than a tile, so no two of them are in memory at once.
    variations = (_scale(decode_result(image.read()), tile) for image in response.data)
    return [_scale(original, tile), *variations]


def _scale(image: Image.Image, tile: int) -> Image.Image:
    """Scale an image until its longer side has `tile` pixels. No side becomes 0."""
    longer = max(image.size)
    size = (-(-tile * image.width // longer), -(-tile * image.height // longer))
    return image.convert("RGBA").resize(size, Image.Resampling.LANCZOS)


class _UnreadableError(Exception):
    """Raised if an entry is not a readable image. The other entries are still written."""

    def __init__(self, cause: ImageVariationError) -> None:
        self.cause = cause


def _place_image(image: Variation, place: Place, name: str, suffix: str) -> PlacedImage:
    try:
        data, pixels = as_png(image.read())
    except ImageVariationError as error:
        raise _UnreadableError(error) from None
    file, content = place_png(data, pixels, place, name=name, suffix=suffix)
    sha256 = hashlib.sha256(content).hexdigest()
    return PlacedImage(file, sha256, *pixels.size, image.seed)


def safe_name(name: str) -> str:
    """Return the stem of the file names of results, from the name of their source.

    The hash and index of an earlier result are dropped. What could confuse a file system, a
    terminal or a shell is replaced, so the stem never begins with a dot or a dash. Long names are
    cut. The same name gives the same stem on every machine.
    """
    # macOS decomposes accented letters in file names.
    name = unicodedata.normalize("NFC", _HASH_AND_INDEX.sub("", name))
    stem = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:_STEM_LENGTH]
    stem = stem.encode()[:_STEM_BYTES].decode(errors="ignore").strip("-.")
    if _DEVICE_NAME.fullmatch(stem):
        stem = f"_{stem}"[:_STEM_LENGTH].strip("-.")
    return stem or "image"


def _default_columns(count: int) -> int:
    return min(count, 5 if count == 5 else 4)


def _thumbnail_tile(images: Sequence[Image.Image], columns: int) -> int:
    """Return the longer side of each image on a thumbnail with this many columns, in pixels.

    Args:
        images: The images, each with a longer side of `THUMBNAIL_SIDE` pixels.
        columns: The images per row.
    """
    rows = -(-len(images) // columns)
    width = (THUMBNAIL_SIDE - _GAP) // columns - _GAP
    height = (THUMBNAIL_SIDE - _GAP) // rows - _GAP - _CAPTION
    cell_width, cell_height = _cell_size(images)
    return min(width * THUMBNAIL_SIDE // cell_width, height * THUMBNAIL_SIDE // cell_height)


def _cell_size(images: Sequence[Image.Image]) -> tuple[int, int]:
    """Return the width and height that each image has on a sheet, in pixels."""
    # Captions must not overlap.
    width = max(_MIN_CELL_WIDTH, *(image.width for image in images))
    return width, max(image.height for image in images)


def _draw_sheet(images: Sequence[Image.Image], columns: int) -> Image.Image:
    """Draw images, which are already as large as on the sheet, and number them."""
    # Imported here because few programs draw a sheet, and every import delays the tool.
    from PIL import ImageDraw, ImageFont

    rows = -(-len(images) // columns)
    gap, caption = _GAP, _CAPTION
    cell_width, cell_height = _cell_size(images)
    width = columns * (cell_width + gap) + gap
    height = rows * (cell_height + gap + caption) + gap
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        x, y = gap + column * (cell_width + gap), gap + row * (cell_height + gap + caption)
        middle = (x + cell_width / 2, y + caption / 2)
        draw.text(middle, str(index or "source"), fill="black", font=font, anchor="mm")
        left = x + (cell_width - image.width) // 2
        top = y + caption + (cell_height - image.height) // 2
        sheet.paste(image, (left, top), image)
    return sheet
