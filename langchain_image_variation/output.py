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
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TypeAlias, TypeVar

from PIL import Image

from langchain_image_variation.contract import Image as Variation
from langchain_image_variation.contract import ImagesResponse
from langchain_image_variation.exceptions import ImageVariationError, OutputError
from langchain_image_variation.files.atomic import place_file
from langchain_image_variation.images.pixels import (
    as_png,
    decode,
    decode_result,
    encode,
    pixel_sha256,
)
from langchain_image_variation.images.png import SquarePNG
from langchain_image_variation.images.png.chunks import SIGNATURE

__all__ = [
    "DATED_NAME",
    "RESULT_NAME",
    "THUMBNAIL_SIDE",
    "ContactSheet",
    "Place",
    "PlacedImage",
    "SavedImage",
    "make_output_dir",
    "place_images",
    "place_png",
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
name: the new bytes, the existing bytes, or None if it is not a file. May raise an `OutputError`."""

_HEADER = struct.Struct(">16xII")
"""The start of a PNG file, up to and including its width and height."""

_GAP, _CAPTION = 8, 20
_STEM_LENGTH = 40
_HASH_LENGTHS = (8, 16, 64)
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
        file = f"{_safe_name(name)}-{digest[:length]}-{suffix}.png"
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
        source: The source image.
        response: The response of an engine.
        tile: The width and height of each image on the sheet, in pixels.
        columns: The images per row. By default 4, or 5 if there are exactly 5 images.

    Raises:
        OutputError: If an entry of the response is not a readable image.
    """

    def __init__(
        self,
        source: SquarePNG,
        response: ImagesResponse,
        *,
        tile: int = 256,
        columns: int | None = None,
    ) -> None:
        labels = ["source", *(str(index + 1) for index in range(len(response.data)))]
        # Results may be much larger than a tile, so no two of them are in memory at once.
        variations = (decode_result(image.read()) for image in response.data)
        self.image: Image.Image = _draw_sheet(
            chain([decode(source)], variations),
            labels,
            tile,
            columns or _default_columns(len(labels)),
        )

    @classmethod
    def thumbnail(cls, source: SquarePNG, response: ImagesResponse) -> bytes:
        """Return a sheet as a JPEG file, at most `THUMBNAIL_SIDE` pixels wide and high.

        Raises:
            OutputError: If an entry of the response is not a readable image.
        """
        count = len(response.data) + 1
        sides = {columns: _thumbnail_tile(count, columns) for columns in range(1, count + 1)}
        columns = max(sides, key=lambda columns: sides[columns])
        sheet = cls(source, response, tile=sides[columns], columns=columns)
        buffer = io.BytesIO()
        sheet.image.save(buffer, "JPEG", quality=80)
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


def _safe_name(name: str) -> str:
    """Replace unsafe characters in a name, which then never begins with a dot or a dash."""
    return (
        re.sub(r"[^\w.-]+", "-", _HASH_AND_INDEX.sub("", name))
        .strip("-.")[:_STEM_LENGTH]
        .strip("-.")
        or "image"
    )


def _default_columns(count: int) -> int:
    return min(count, 5 if count == 5 else 4)


def _thumbnail_tile(count: int, columns: int) -> int:
    """Return the side of each image on a thumbnail with this many columns, in pixels."""
    rows = -(-count // columns)
    width = (THUMBNAIL_SIDE - _GAP) // columns - _GAP
    height = (THUMBNAIL_SIDE - _GAP) // rows - _GAP - _CAPTION
    return min(width, height)


def _draw_sheet(
    images: Iterable[Image.Image], labels: Sequence[str], tile: int, columns: int
) -> Image.Image:
    # Imported here because few programs draw a sheet, and every import delays the tool.
    from PIL import ImageDraw, ImageFont

    rows = -(-len(labels) // columns)
    gap, caption = _GAP, _CAPTION
    width = columns * (tile + gap) + gap
    height = rows * (tile + gap + caption) + gap
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        row, column = divmod(index, columns)
        x, y = gap + column * (tile + gap), gap + row * (tile + gap + caption)
        draw.text((x + tile / 2, y + caption / 2), label, fill="black", font=font, anchor="mm")
        thumbnail = image.convert("RGBA").resize((tile, tile), Image.Resampling.LANCZOS)
        sheet.paste(thumbnail, (x, y + caption), thumbnail)
    return sheet
