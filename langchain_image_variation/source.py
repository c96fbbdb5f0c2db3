"""From whatever a user passes as an image to a `SquarePNG`.

A source is a path, bytes, an open binary file, a `data:` URL or a PIL image, holding a PNG, JPEG,
WebP, GIF, BMP or TIFF picture of any shape and colour mode. Formats are recognised by their first
bytes, never by a file name; sizes are capped before anything is decoded.
"""

import base64
import binascii
import io
import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, cast, get_args
from urllib.parse import unquote_to_bytes

from PIL import Image

from langchain_image_variation.exceptions import InvalidImageError, SourceError
from langchain_image_variation.pixels import decoding, encode, plain
from langchain_image_variation.png import MAX_PNG_BYTES, MAX_PNG_SIDE, SquarePNG

__all__ = [
    "FORMATS",
    "MAX_SOURCE_BYTES",
    "MAX_SOURCE_PIXELS",
    "Fit",
    "ImageSource",
    "Source",
    "load_source",
]

ImageSource = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image
"""A path, a `data:` URL, the bytes of a picture file, an open binary file, or a PIL image."""

Fit = Literal["strict", "crop", "pad"]
"""What to do with a picture that is no square PNG under 4 MB: refuse it, crop it, or pad it."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""The formats that are opened; no other decoder of Pillow is within reach of a source."""

MAX_SOURCE_BYTES = 64 * 1024 * 1024
"""A source file may have at most this many bytes."""

MAX_SOURCE_PIXELS = 89_478_485
"""A source may have at most this many pixels: Pillow's own limit, a quarter GB of RGB samples."""


@dataclass(frozen=True, slots=True)
class Source:
    """A picture ready for a request."""

    png: SquarePNG
    """The picture as the contract wants it."""
    name: str
    """The file's name without its suffix, or "image" for a source that has none."""
    note: str
    """One line saying what was done to the picture to make it fit, or an empty string."""


def load_source(source: ImageSource, *, fit: Fit = "crop") -> Source:
    """Return the picture of a source as a square PNG under 4 MB.

    A source that is one already is passed on byte for byte. Of any other, the first frame is
    taken, EXIF orientation is applied, alpha is kept, and with `fit` it is made square; if its PNG
    has 4 MB or more, it is scaled down until it has less. `note` says what was done.

    Args:
        source: A path, bytes, an open binary file, a `data:` URL or a PIL image.
        fit: "crop" keeps the centred square; "pad" adds equal bars at two sides, transparent where
            the picture has alpha, else black; "strict" refuses whatever is not a square PNG.

    Raises:
        SourceError: If there is no such file, it cannot be read, is too large, is a URL, or holds
            no picture of a known format.
        InvalidImageError: If the picture is corrupt, or with "strict", breaks a rule of
            `SquarePNG`.
    """
    if fit not in get_args(Fit):
        raise SourceError(f"fit must be 'strict', 'crop' or 'pad', got {fit!r}.", param="fit")
    if isinstance(source, Image.Image):
        if fit == "strict":
            raise InvalidImageError("fit='strict' takes PNG files only, got a PIL image.")
        name = _stem(getattr(source, "filename", ""))
        return _squared(source, fit, name)
    data, name = _read(source)
    try:
        return Source(SquarePNG(data), name, "")
    except InvalidImageError as error:
        if fit == "strict":
            raise InvalidImageError(f"{error} fit='crop' or 'pad' would convert it.") from None
    with _opened(data) as image:
        return _squared(image, fit, name)


def _read(source: object) -> tuple[bytes, str]:
    """Return the bytes of a source and its name."""
    if isinstance(source, bytes | bytearray | memoryview):
        return _capped(bytes(source)), "image"
    if isinstance(source, str) and source[:5].lower() == "data:":
        return _from_data_url(source), "image"
    if isinstance(source, str) and source[:8].lower().startswith(("http://", "https://")):
        raise SourceError("URLs are not fetched; download the picture and pass its path.")
    if isinstance(source, str | os.PathLike):
        return _from_path(source)
    if hasattr(source, "read"):
        return _from_file(cast(IO[bytes], source))
    raise SourceError(
        "image must be a path, bytes, an open binary file, a data: URL or a PIL image, "
        f"got {type(source).__name__}."
    )


def _from_path(source: str | os.PathLike[str]) -> tuple[bytes, str]:
    if not os.fspath(source):
        raise SourceError("The path is empty; pass the path of a picture.")
    path = Path(source)
    name = path.name[:80]
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise SourceError(f"{name!r} is not a regular file; pass the path of a picture.")
            return _capped(file.read(MAX_SOURCE_BYTES + 1)), _stem(path.name)
    except FileNotFoundError:
        raise SourceError(f"There is no file {name!r}; check the path.") from None
    except IsADirectoryError:
        raise SourceError(f"{name!r} is a folder; pass the path of a picture.") from None
    except PermissionError:
        raise SourceError(f"{name!r} may not be read; check its permissions.") from None
    except (OSError, ValueError):
        raise SourceError(f"{name!r} cannot be read; check the path.") from None


def _without_waiting(path: str, flags: int) -> int:
    # Opening a FIFO would otherwise wait for a writer that may never come.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _from_file(file: IO[bytes]) -> tuple[bytes, str]:
    """Read an open file from where it stands."""
    try:
        data = file.read(MAX_SOURCE_BYTES + 1)
    except (OSError, ValueError):
        raise SourceError("The open file cannot be read; is it closed?") from None
    if not isinstance(data, bytes):
        raise SourceError("The open file gives text; open it in binary mode ('rb').")
    return _capped(data), _stem(getattr(file, "name", ""))


def _from_data_url(url: str) -> bytes:
    """Decode a `data:` URL (RFC 2397), in base64 or percent-encoded."""
    head, comma, body = url.partition(",")
    if not comma:
        raise SourceError("The data: URL has no comma before its data.")
    # Base64 has a third more characters than bytes, percent-encoding up to three times as many.
    if len(body) > 3 * MAX_SOURCE_BYTES:
        raise SourceError(f"The data: URL holds more than {MAX_SOURCE_BYTES:,} bytes.")
    data = unquote_to_bytes(body)
    if head.lower().endswith(";base64"):
        try:
            data = base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError):
            raise SourceError("The data: URL holds no valid base64.") from None
    return _capped(data)


def _capped(data: bytes) -> bytes:
    if not data:
        raise SourceError("The source is empty; pass a picture file.")
    if len(data) > MAX_SOURCE_BYTES:
        raise SourceError(f"The source has more than {MAX_SOURCE_BYTES:,} bytes (64 MB).")
    return data


def _stem(name: object) -> str:
    # An open file's name may be a descriptor number, and a PIL image's may be bytes.
    return (Path(name).stem if isinstance(name, str) else "") or "image"


def _opened(data: bytes) -> Image.Image:
    """Open a picture of a known format without decoding it."""
    unknown = SourceError(
        f"The source is no picture of a known format, or a broken one; known are "
        f"{', '.join(FORMATS)}."
    )
    with decoding(unknown):
        # The cap comes first: Pillow's own warns or raises at a limit that a program may move.
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    return image


def _squared(image: Image.Image, fit: Fit, name: str) -> Source:
    """Make a picture square, encode it, and say what was done."""
    width, height = image.size
    if not width or not height:
        raise InvalidImageError("image has no pixels.")
    if width * height > MAX_SOURCE_PIXELS:
        raise InvalidImageError(
            f"image is {width}x{height}, {width * height:,} pixels; the limit is "
            f"{MAX_SOURCE_PIXELS:,}. Scale it down first."
        )
    steps = [] if image.format == "PNG" else [f"converted {image.format or 'PIL image'} to PNG"]
    if getattr(image, "is_animated", False):
        steps.append("took the first frame")
    with decoding(InvalidImageError(f"image is a corrupt {image.format or 'PIL'} picture.")):
        if getattr(image, "is_animated", False):
            image.seek(0)
        pixels = plain(image)
    if pixels.width != pixels.height:
        pixels, step = (_cropped if fit == "crop" else _padded)(pixels)
        steps.append(step)
    png, scaled = _under_limit(pixels)
    if scaled:
        steps.append(scaled)
    note = f"{name}: {', '.join(steps)}." if steps else f"{name}: written anew as a valid PNG."
    return Source(png, name, note)


def _cropped(image: Image.Image) -> tuple[Image.Image, str]:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    step = f"cropped {image.width}x{image.height} to the centred {side}x{side}"
    return image.crop((left, top, left + side, top + side)), step


def _padded(image: Image.Image) -> tuple[Image.Image, str]:
    side = max(image.size)
    square = Image.new(image.mode, (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square, f"padded {image.width}x{image.height} to {side}x{side}"


def _under_limit(image: Image.Image) -> tuple[SquarePNG, str]:
    """Encode a square picture, scaled down as little as puts it under the limits."""
    full = image.width
    side = min(full, MAX_PNG_SIDE)
    if side > _QUICK_SIDE:
        side = min(side, _predicted_side(image))
    while True:
        resized = image if side == full else image.resize((side, side), Image.Resampling.LANCZOS)
        data = encode(resized)
        if len(data) < MAX_PNG_BYTES:
            step = f"scaled {full}x{full} to {side}x{side} to stay under 4 MB"
            return SquarePNG(data), step if side < full else ""
        side = int(side * min(0.97, math.sqrt(MAX_PNG_BYTES / len(data))))


_QUICK_SIDE = 1024
"""Up to this side, in pixels, encoding at full size and looking costs less than predicting."""


def _predicted_side(image: Image.Image) -> int:
    """Return the side, in pixels, at which the PNG should come out just under the limit.

    A picture scaled down has more bytes a pixel than the original, so a sample at a low side
    predicts a side that is rather too small for smooth pictures and right for busy ones.
    """
    sample = image.resize((_QUICK_SIDE, _QUICK_SIDE), Image.Resampling.LANCZOS)
    bytes_per_pixel = len(encode(sample)) / _QUICK_SIDE**2
    return max(_QUICK_SIDE, int(math.sqrt(MAX_PNG_BYTES / bytes_per_pixel)))
