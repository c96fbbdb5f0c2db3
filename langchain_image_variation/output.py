"""From an `ImagesResponse` to PNG files, a contact sheet and a notebook's display.

File names are made here, from the source's name and the picture's content, so no answer can choose
where it is written. A file appears under its name whole or not at all, and never replaces a
different picture.
"""

import contextlib
import hashlib
import io
import os
import re
import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from langchain_image_variation.contract import ImagesResponse
from langchain_image_variation.exceptions import ImageVariationError, OutputError
from langchain_image_variation.pixels import as_png, decode, decode_result, encode
from langchain_image_variation.png import SquarePNG

__all__ = [
    "THUMBNAIL_SIDE",
    "ContactSheet",
    "SavedImage",
    "make_output_dir",
    "save_images",
    "save_png",
]

THUMBNAIL_SIDE = 512
"""A thumbnail has at most this many pixels a side."""

_GAP, _CAPTION = 8, 20
_STEM_LENGTH = 40
_HASH_LENGTHS = (8, 16, 64)
# The name of a result. A hash without a letter could be a date, and is left alone.
_RESULT = re.compile(r"-(?=\d*[a-f])[0-9a-f]{8,64}-(\d+|sheet)$")


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

    The hash is the beginning of the file's SHA-256. A file that is already there with the same
    content is kept. A picture that came as JPEG or WebP is written as PNG. If the name is that of
    an earlier result, its own hash and index are dropped.

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
    saved: list[SavedImage] = []
    failure: ImageVariationError | None = None
    for index, image in enumerate(response.data, start=1):
        try:
            data, (width, height) = as_png(image.read())
        except ImageVariationError as error:
            failure = failure or error
            continue
        path = save_png(data, folder, name=name, suffix=str(index))
        digest = hashlib.sha256(data).hexdigest()
        saved.append(SavedImage(path, digest, width, height, image.seed))
    if failure is not None:
        names = ", ".join(image.path.name for image in saved) or "none"
        raise OutputError(f"{failure.message} Saved of this answer: {names}.") from failure
    return saved


def save_png(data: bytes, directory: Path, *, name: str, suffix: str) -> Path:
    """Write one file as `<name>-<hash>-<suffix>.png`, atomically, and return its path.

    Args:
        data: The bytes of a PNG file.
        directory: An existing folder.
        name: What to begin the file's name with; made safe first.
        suffix: What to end it with, such as an index.

    Raises:
        OutputError: If the file cannot be written.
    """
    digest = hashlib.sha256(data).hexdigest()
    try:
        for length in _HASH_LENGTHS:
            path = directory / f"{_safe(name)}-{digest[:length]}-{suffix}.png"
            if _placed(data, path):
                return path
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OutputError(
            f"{path.name!r} cannot be written: {reason}. Make room, or name another folder."
        ) from None
    raise OutputError(f"{path.name!r} exists with other content; remove it or name another folder.")


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
        return save_png(encode(self.image), folder, name=name, suffix="sheet")

    def _repr_png_(self) -> bytes:
        return encode(self.image)


def _placed(data: bytes, path: Path) -> bool:
    """Put a file in place whole; say False if other content has that name."""
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            # Unlike a rename, a link never replaces a file that appeared meanwhile.
            os.link(temporary, path)
        except OSError:
            if path.exists():
                return path.is_file() and path.read_bytes() == data
            # The file system has no hard links.
            os.replace(temporary, path)
        return True
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


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
