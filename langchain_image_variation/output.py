"""From an `ImagesResponse` to PNG files, a contact sheet and a notebook's display.

File names are made here, from the source's name and the image's pixels, so no answer can choose
where it is written, and the same pixels get the same name on every machine. A file appears under
its name whole or not at all, and never replaces another file.
"""

import hashlib
import io
import os
import re
import struct
import tempfile
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
"""A thumbnail has at most this many pixels a side."""

T = TypeVar("T")

_WRITERS = 4
"""So many files are written at once: a disk takes four in little more time than one."""

RESULT_NAME = re.compile(r"\w[\w.-]{0,39}-[0-9a-f]{8,64}-[0-9]+\.png")
"""The names that `place_images` makes: nothing in them means anything to a file system."""

Place: TypeAlias = Callable[[str, bytes], bytes | None]
"""Puts a file in place whole, by name, unless the name is taken. Returns the content of that name:
the new bytes, or those that were there before, or None if it is not a file. May raise an
`OutputError`."""

_HEADER = struct.Struct(">16xII")
"""The beginning of a PNG file, up to its width and height in pixels."""

_GAP, _CAPTION = 8, 20
_STEM_LENGTH = 40
_HASH_LENGTHS = (8, 16, 64)
_DATE = r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
# The end of a result's name. What could be a date is left alone.
_RESULT = re.compile(rf"-(?!{_DATE}-)[0-9a-f]{{8,64}}-(\d+|sheet)$")

DATED_NAME = re.compile(rf".*-{_DATE}-[0-9]+\.png", re.DOTALL)
"""Names whose hash could be a date: they may be those of somebody's own pictures."""


def make_output_dir(directory: str | os.PathLike[str]) -> Path:
    """Make a folder for results, with its parents, and check that files can be written there.

    Raises:
        OutputError: If it cannot be made, is no folder, or is not writable.
    """
    path = Path(directory)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except FileExistsError:
        raise OutputError(f"{path.name!r} is a file; name a folder for the results.") from None
    except (OSError, ValueError):
        raise OutputError(
            f"The folder {path.name!r} cannot be written to; name another for the results."
        ) from None


@dataclass(frozen=True, slots=True)
class PlacedImage:
    """A variation that was put somewhere."""

    name: str
    """The name of its file."""
    sha256: str
    """The SHA-256 of the file's bytes, in hex."""
    width: int
    """In pixels."""
    height: int
    """In pixels."""
    seed: int | None
    """The seed that made it, where the engine has one."""


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
    """The seed that made it, where the engine has one."""


def save_images(
    response: ImagesResponse, directory: str | os.PathLike[str], *, name: str = "image"
) -> list[SavedImage]:
    """Write each variation as `<name>-<hash>-<index>.png` and return them in order.

    The hash is the beginning of `images.pixels.pixel_sha256`, so it does not depend on how the file
    is compressed. If a file of that name holds the same pixels, it is kept.
    If it holds anything else, it is kept too, and the new file gets more digits of the hash. A
    result that came as JPEG or WebP is written as PNG. If the name is that of an earlier result,
    its own hash and index are dropped.

    Args:
        response: The answer of an engine.
        directory: The folder to write to; made if it is missing.
        name: What to begin the names with, usually `Source.name`. Characters that could trouble a
            file system, a terminal or a shell are replaced.

    Raises:
        OutputError: If an entry holds no readable picture, after all others were written, or if a
            file cannot be written. Pictures written before that stay.
    """
    folder = make_output_dir(directory)
    return [
        SavedImage(folder / image.name, image.sha256, image.width, image.height, image.seed)
        for image in place_images(response, partial(place_file, folder), name=name, at_once=True)
    ]


def place_images(
    response: ImagesResponse, place: Place, *, name: str = "image", at_once: bool = False
) -> list[PlacedImage]:
    """Do what `save_images` does, wherever `place` puts the files.

    Args:
        response: As in `save_images`.
        place: Puts one file in place.
        name: As in `save_images`.
        at_once: Whether `place` may be called by several threads at once.

    Raises:
        OutputError: As `save_images`.
    """
    placed: list[PlacedImage] = []
    failure: ImageVariationError | None = None
    jobs = [
        partial(_placed_image, image, place, name, str(index))
        for index, image in enumerate(response.data, start=1)
    ]
    others = _begun(jobs[1:]) if at_once else jobs[1:]
    broken: OutputError | None = None
    for outcome in [*jobs[:1], *others]:
        try:
            placed.append(outcome())
        except _UnreadableError as unreadable:
            failure = failure or unreadable.error
        except OutputError as error:
            broken = broken or error
    if broken is not None:
        raise broken
    if failure is not None:
        names = ", ".join(image.name for image in placed) or "none"
        raise OutputError(f"{failure.message} Saved of this answer: {names}.") from failure
    return placed


def _begun(jobs: Sequence[Callable[[], T]]) -> list[Callable[[], T]]:
    """Have jobs done by other threads, and return what waits for the result of each."""
    try:
        return [_writers.submit(job).result for job in jobs]
    except RuntimeError:
        # The interpreter is shutting down: what was begun is done once more, which changes nothing.
        return list(jobs)


def _new_writers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_WRITERS - 1, thread_name_prefix="image-variation-writer")


# Kept, since starting a thread takes as long as writing a picture. It starts them when needed.
_writers = _new_writers()


def _replace_writers() -> None:
    """Make new writers in a forked child, which has none of its parent's threads."""
    global _writers
    _writers = _new_writers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_replace_writers)


def save_png(image: Image.Image, directory: Path, *, name: str, suffix: str) -> Path:
    """Write one image as `<name>-<hash>-<suffix>.png`, atomically, and return its path.

    Args:
        image: An image in a plain mode.
        directory: An existing folder.
        name: What to begin the file's name with; made safe first.
        suffix: What to end it with, such as an index.

    Raises:
        OutputError: If the file cannot be written.
    """
    place = partial(place_file, directory)
    file, _ = place_png(encode(image), image, place, name=name, suffix=suffix)
    return directory / file


def place_png(
    data: bytes, image: Image.Image, place: Place, *, name: str, suffix: str
) -> tuple[str, bytes]:
    """Do what `save_png` does, wherever `place` puts the file.

    Args:
        data: The bytes of a PNG file.
        image: Its pixels in a plain mode.
        place: Puts the file in place.
        name: As in `save_png`.
        suffix: As in `save_png`.

    Returns:
        The file's name and its content: `data`, or that of an earlier file of the same pixels.

    Raises:
        OutputError: As `save_png`.
    """
    digest = pixel_sha256(image)
    for length in _HASH_LENGTHS:
        file = f"{_safe(name)}-{digest[:length]}-{suffix}.png"
        content = place(file, data)
        if content is not None and (content == data or _has_pixels(content, image.size, digest)):
            return file, content
    raise OutputError(f"{file!r} exists with other content; remove it or name another folder.")


def _has_pixels(content: bytes, size: tuple[int, int], digest: str) -> bool:
    """Say whether a file is a PNG of this size, in pixels, whose `pixel_sha256` is the digest."""
    # Other sizes are not decoded, so that a file costs no more memory than the new image. EXIF may
    # turn an image on its side.
    if not content.startswith(SIGNATURE) or len(content) < _HEADER.size:
        return False
    if sorted(_HEADER.unpack_from(content)) != sorted(size):
        return False
    try:
        return pixel_sha256(decode_result(content)) == digest
    except OutputError:
        return False


class ContactSheet:
    """One picture that shows the source and its variations side by side, numbered.

    In a notebook, the object as the last line of a cell shows the sheet.

    Args:
        source: The picture that was varied.
        response: The answer of an engine.
        tile: The width and height of each picture on the sheet, in pixels.
        columns: How many pictures are side by side; by default up to 4, and 5 of 5.

    Raises:
        OutputError: If an entry of the answer holds no readable picture.
    """

    def __init__(
        self,
        source: SquarePNG,
        response: ImagesResponse,
        *,
        tile: int = 256,
        columns: int | None = None,
    ) -> None:
        variations = [decode_result(image.read()) for image in response.data]
        labels = ["source", *(str(index + 1) for index in range(len(variations)))]
        self.image: Image.Image = _sheet(
            [decode(source), *variations], labels, tile, columns or _columns(len(labels))
        )

    @classmethod
    def thumbnail(cls, source: SquarePNG, response: ImagesResponse) -> bytes:
        """Return a sheet as a JPEG file of at most `THUMBNAIL_SIDE` pixels a side.

        Raises:
            OutputError: If an entry of the answer holds no readable picture.
        """
        pictures = len(response.data) + 1
        sides = {columns: _tile(pictures, columns) for columns in range(1, pictures + 1)}
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
    """An entry holds no readable picture, which costs no other."""

    def __init__(self, error: ImageVariationError) -> None:
        self.error = error


def _placed_image(image: Variation, place: Place, name: str, suffix: str) -> PlacedImage:
    try:
        data, pixels = as_png(image.read())
    except ImageVariationError as error:
        raise _UnreadableError(error) from None
    file, content = place_png(data, pixels, place, name=name, suffix=suffix)
    sha256 = hashlib.sha256(content).hexdigest()
    return PlacedImage(file, sha256, *pixels.size, image.seed)


def _safe(name: str) -> str:
    """Keep letters, digits, dot, dash and underscore; a name never begins with a dot or dash."""
    return (
        re.sub(r"[^\w.-]+", "-", _RESULT.sub("", name)).strip("-.")[:_STEM_LENGTH].strip("-.")
        or "image"
    )


def _columns(pictures: int) -> int:
    return min(pictures, 5 if pictures == 5 else 4)


def _tile(pictures: int, columns: int) -> int:
    """Return the side of the pictures on a thumbnail, in pixels, with so many columns."""
    rows = -(-pictures // columns)
    across = (THUMBNAIL_SIDE - _GAP) // columns - _GAP
    return min(across, (THUMBNAIL_SIDE - _GAP) // rows - _GAP - _CAPTION)


def _sheet(
    pictures: Sequence[Image.Image], labels: Sequence[str], tile: int, columns: int
) -> Image.Image:
    # Here, since whoever imports the tool seldom draws, and waits for every import.
    from PIL import ImageDraw, ImageFont

    rows = -(-len(pictures) // columns)
    gap, caption = _GAP, _CAPTION
    width = columns * (tile + gap) + gap
    height = rows * (tile + gap + caption) + gap
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for index, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        row, column = divmod(index, columns)
        x, y = gap + column * (tile + gap), gap + row * (tile + gap + caption)
        draw.text((x + tile / 2, y + caption / 2), label, fill="black", font=font, anchor="mm")
        small = picture.convert("RGBA").resize((tile, tile), Image.Resampling.LANCZOS)
        sheet.paste(small, (x, y + caption), small)
    return sheet
