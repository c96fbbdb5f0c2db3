"""From whatever a user passes as an image to a `SquarePNG`.

A source is a path, bytes, an open binary file, a `data:` URL, a PIL image or, from a host that is
allowed, an https URL, holding a PNG, JPEG, WebP, GIF, BMP or TIFF picture of any shape and colour
mode. Formats are recognised by their first bytes, never by a file name or a declared type; sizes
and the work of decoding are capped before anything is decoded.
"""

import base64
import binascii
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, cast, get_args
from urllib.parse import unquote_to_bytes

from PIL import Image

from langchain_image_variation.exceptions import (
    DownloadError,
    InvalidImageError,
    InvalidRequestError,
    OutputError,
    SourceError,
    shown,
)
from langchain_image_variation.files.file_system import FileSystem, has_password
from langchain_image_variation.images.fitting import squared
from langchain_image_variation.images.pixels import decoding, is_plain, open_image, open_png
from langchain_image_variation.images.png import MAX_PNG_BYTES, MAX_PNG_SIDE, SquarePNG, chunks
from langchain_image_variation.images.png.scanlines import check_scanlines

if TYPE_CHECKING:
    from langchain_image_variation.http.url_policy import URLPolicy

__all__ = [
    "FORMATS",
    "MAX_SOURCE_BYTES",
    "MAX_SOURCE_PIXELS",
    "Fit",
    "ImageSource",
    "Source",
    "load_source",
    "read_file",
    "read_stored",
]

ImageSource = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image
"""A path, a `data:` or https URL, the bytes of a picture, an open binary file, or a PIL image."""

Fit = Literal["strict", "crop", "pad"]
"""What to do with a picture that is no square PNG under 4 MB: refuse it, crop it, or pad it."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""The formats that are opened; no other decoder of Pillow is within reach of a source, but that of
MPO, a JPEG with further pictures behind it."""

MAX_SOURCE_BYTES = 64 * 1024 * 1024
"""A source file may have at most this many bytes."""

MAX_SOURCE_PIXELS = 89_478_485
"""A source may have at most this many pixels: Pillow's own limit, a quarter GB of RGB samples."""

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_NAME_LENGTH = 80


@dataclass(frozen=True, slots=True)
class Source:
    """A picture ready for a request."""

    png: SquarePNG
    """The picture as the contract wants it."""
    name: str
    """The file's name without its suffix, or "image" for a source that has none."""
    note: str
    """One line saying what was done to the picture to make it fit, or an empty string."""


def load_source(
    source: ImageSource,
    *,
    fit: Fit = "crop",
    urls: "URLPolicy | None" = None,
    name: str | None = None,
) -> Source:
    """Return the picture of a source as a square PNG under 4 MB.

    Only the picture itself is passed on. Of a square PNG under 4 MB, every chunk is left out that
    no pixel depends on (text, EXIF, profiles, further frames, chunks of unknown meaning, what
    follows the end), and its pixels stay as they are, unless EXIF or what the file says of its
    colours has to be applied, or colours under an alpha of almost 0, which no person sees, have to
    be made white. Of any other picture, the first frame is taken, the same is applied, alpha is
    kept, and with `fit` it is made square; if its PNG has 4 MB or more, it is scaled down until it
    has less. `note` says what was done.

    A PNG file that breaks a rule of its specification is refused, down to the checksum of its
    pixels: decoders differ in what they show of it. Left out unlooked at is only what breaks a rule
    of place or length in a chunk that no pixel depends on.

    Args:
        source: A path, bytes, an open binary file, a `data:` URL, an https URL or a PIL image. Of
            an open file, what follows its position is read. A PIL image is taken at the frame it
            stands at.
        fit: "crop" keeps the centred square; "pad" adds equal bars at two sides, transparent where
            the picture has alpha, else black; "strict" refuses whatever is not a `SquarePNG` as it
            stands, or would have to be scaled down.
        urls: The hosts from which https URLs are fetched, and the limits. By default none is.
        name: What to call the picture; by default the name of its file.

    Raises:
        SourceError: If there is no such file, it cannot be read, is too large, is a URL that is
            not allowed or cannot be fetched, or holds no picture of a known format.
        InvalidImageError: If the picture is corrupt or would take too much work to decode, or with
            "strict", breaks a rule of `SquarePNG`.
        InvalidRequestError: If `urls` lists no hosts, or has an async transport.
    """
    if fit not in get_args(Fit):
        raise SourceError(f"fit must be 'strict', 'crop' or 'pad', got {shown(fit)}.", param="fit")
    if urls is not None and getattr(urls, "hosts", None) is None:
        raise InvalidRequestError("urls must be a URLPolicy that lists hosts.", param="urls")
    if isinstance(source, Image.Image):
        if fit == "strict":
            raise InvalidImageError("fit='strict' takes PNG files only, got a PIL image.")
        return _squared(source, fit, name or _stem(getattr(source, "filename", "")))
    data, own = _read(source, urls)
    name = name or own
    if data.startswith(chunks.SIGNATURE):
        return _from_png(data, fit, name)
    if fit == "strict":
        _check_strictly(data)
    with _opened(data) as image:
        return _squared(image, fit, name)


def _from_png(data: bytes, fit: Fit, name: str) -> Source:
    end = chunks.end(data)
    whole, anew = data[:end], end < len(data)
    seen = chunks.without(whole, keep=chunks.PIXELS | chunks.LOOK)
    head, names = chunks.check_order(chunks.read(seen))
    if head.width * head.height > MAX_SOURCE_PIXELS:
        raise _too_large(head.width, head.height)
    if fit == "strict":
        _check_strictly(data)
    steps = _left_out(whole)
    bare = chunks.without_metadata(seen)
    fits = head.width == head.height <= MAX_PNG_SIDE and len(bare) < MAX_PNG_BYTES
    if fits and not _looks_otherwise(head, names):
        check_scanlines(bare)
        return Source(SquarePNG(bare), name, _note(name, steps, anew))
    with decoding(InvalidImageError("image is a corrupt PNG, or too large for the memory.")):
        image = open_png(seen)
        if fits and is_plain(image):
            return Source(SquarePNG(bare), name, _note(name, steps, anew))
    return _squared(image, fit, name, steps)


def _looks_otherwise(head: chunks.Header, names: set[bytes]) -> bool:
    """Say whether a PNG file may look otherwise than its samples; only its pixels tell."""
    speaking = {b"eXIf", b"iCCP", b"tRNS"}
    if b"sRGB" not in names:
        speaking |= {b"gAMA", b"cHRM"}
    return head.color_type in (chunks.INDEXED, 4, 6) or bool(names & speaking)


def _check_strictly(data: bytes) -> None:
    try:
        SquarePNG(data)
    except InvalidImageError as error:
        raise InvalidImageError(f"{error} fit='crop' or 'pad' would convert it.") from None


def _left_out(data: bytes) -> list[str]:
    """Say what a person may see of a PNG file that is not passed on."""
    steps, names = [], []
    for name, body in chunks.read(data):
        names.append(name)
        if name == b"cICP" and bytes(body) != _SRGB_CICP:
            steps.append("took its colours as sRGB")
    if b"fdAT" in names:
        first = b"fcTL" in names[: names.index(b"IDAT")]
        still = "took the still picture, which is not part of the animation"
        steps.append("took the first frame" if first else still)
    return steps


_SRGB_CICP = bytes([1, 13, 0, 1])
"""The primaries, transfer function, matrix and range of sRGB (ITU-T H.273)."""


def _note(name: str, steps: list[str], anew: bool) -> str:
    if steps:
        return f"{name}: {', '.join(steps)}."
    return f"{name}: written anew as a valid PNG." if anew else ""


def _too_large(width: int, height: int) -> InvalidImageError:
    return InvalidImageError(
        f"image is {width}x{height}, {width * height:,} pixels; the limit is "
        f"{MAX_SOURCE_PIXELS:,}. Scale it down first."
    )


def _read(source: object, urls: "URLPolicy | None") -> tuple[bytes, str]:
    """Return the bytes of a source and its name."""
    if isinstance(source, bytes | bytearray | memoryview):
        return _capped(bytes(source)), "image"
    if isinstance(source, str) and source[:5].lower() == "data:":
        return _from_data_url(source), "image"
    if isinstance(source, str) and _URL.match(source):
        return _from_url(source, urls)
    if isinstance(source, str | os.PathLike):
        return read_file(source)
    if hasattr(source, "read"):
        return _from_file(cast(IO[bytes], source))
    raise SourceError(
        "image must be a path, bytes, an open binary file, a data: URL or a PIL image, "
        f"got {type(source).__name__}."
    )


def read_file(source: str | os.PathLike[str]) -> tuple[bytes, str]:
    """Return the bytes of a source that is a file, and its name without suffix.

    Raises:
        SourceError: If there is no such file, or it is none, empty, larger than `MAX_SOURCE_BYTES`
            or cannot be read.
    """
    path = Path(os.fsdecode(source))
    if not os.fspath(source):
        raise SourceError("The path is empty; pass the path of a picture.")
    name = path.name[:_NAME_LENGTH]
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


def read_stored(url: str, options: Mapping[str, Any]) -> tuple[bytes, str]:
    """Return the bytes of a source in a file system that fsspec knows, and its name without suffix.

    Args:
        url: Its URL, such as "s3://bucket/photo.jpg".
        options: Passed to the file system, as fsspec's `storage_options`.

    Raises:
        SourceError: If there is no such file, it is empty or larger than `MAX_SOURCE_BYTES`, it
            cannot be read, or the URL holds a password, names several file systems or one that is
            not known.
        MissingExtraError: If fsspec is not installed, or the package for this kind of URL.
    """
    if has_password(url):
        raise SourceError(
            "The URL of the source holds a password; put it into fsspec's configuration."
        )
    name = url.rpartition("/")[2][:_NAME_LENGTH]
    try:
        at = FileSystem(url, options, param="path")
        if at.folder is not None:
            return read_file(at.folder)
        with at.failures(f"cannot give {name!r} now; try again, or check its rights"):
            data = at.read("", MAX_SOURCE_BYTES + 1)
    except (InvalidRequestError, OutputError) as error:
        raise SourceError(error.message) from None
    if data is None:
        raise SourceError(f"There is no file {name!r}; check the URL.")
    return _capped(data), _stem(name)


def _without_waiting(path: str, flags: int) -> int:
    # Opening a FIFO would otherwise wait for a writer that may never come.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _from_file(file: IO[bytes]) -> tuple[bytes, str]:
    """Read an open file from where it stands; an unbuffered one may give a little at a time."""
    parts: list[bytes] = []
    left = MAX_SOURCE_BYTES + 1
    while left > 0:
        try:
            part = file.read(left)
        except (OSError, TypeError, ValueError):
            raise SourceError("The open file cannot be read; is it closed?") from None
        if not isinstance(part, bytes | bytearray | memoryview):
            raise SourceError("The open file gives no bytes; open it in binary mode ('rb').")
        if not part:
            break
        parts.append(bytes(part))
        left -= len(part)
    return _capped(b"".join(parts)), _stem(getattr(file, "name", ""))


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
        # Line breaks and missing padding are common, and harmless.
        data = b"".join(data.split())
        try:
            data = base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
        except (binascii.Error, ValueError):
            raise SourceError("The data: URL holds no valid base64.") from None
    return _capped(data)


def _from_url(url: str, urls: "URLPolicy | None") -> tuple[bytes, str]:
    if urls is None:
        raise SourceError(
            "URLs are not fetched; download the picture and pass its path, or allow its host: "
            "urls=URLPolicy(hosts=[...]), or --allow-host."
        )
    # Only here, since httpx takes longer to import than the rest, and few sources need it.
    from langchain_image_variation.http.address import parse_url
    from langchain_image_variation.http.flow import Driver
    from langchain_image_variation.http.url_policy import fetch

    if urls.transport is not None and not hasattr(urls.transport, "handle_request"):
        raise InvalidRequestError("urls must have a sync transport here.", param="urls")
    try:
        data = Driver(None).run(fetch(url, urls))
        return _capped(data), _stem(parse_url(url).file_name)
    except DownloadError as error:
        raise SourceError(error.message) from None


def _capped(data: bytes) -> bytes:
    if not data:
        raise SourceError("The source is empty; pass a picture file.")
    if len(data) > MAX_SOURCE_BYTES:
        raise SourceError(f"The source has more than {MAX_SOURCE_BYTES:,} bytes (64 MB).")
    return data


def _stem(name: object) -> str:
    """Return a file's name without suffix, as one line that is safe to show."""
    # An open file's name may be a descriptor number, and a PIL image's may be bytes.
    stem = Path(name).stem if isinstance(name, str) else ""
    return "".join(c if c.isprintable() else "-" for c in stem)[:_NAME_LENGTH] or "image"


def _opened(data: bytes) -> Image.Image:
    """Open a picture of a known format without decoding it, unless it would take too much work."""
    unknown = SourceError(
        f"The source is no picture of a known format, or a broken one; known are "
        f"{', '.join(FORMATS)}."
    )
    with decoding(unknown):
        try:
            return open_image(data, FORMATS)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise InvalidImageError(
                f"image has more than {MAX_SOURCE_PIXELS:,} pixels, the limit; scale it down first."
            ) from None


def _squared(image: Image.Image, fit: Fit, name: str, done: Sequence[str] = ()) -> Source:
    """Make a picture square, encode it, and say what was done, also before."""
    width, height = image.size
    if not width or not height:
        raise InvalidImageError("image has no pixels.")
    if width * height > MAX_SOURCE_PIXELS:
        raise _too_large(width, height)
    kind = {"MPO": "JPEG", None: "PIL image"}.get(image.format, image.format)
    steps = [*done] if kind == "PNG" else [f"converted {kind} to PNG"]
    with decoding(InvalidImageError(f"image is a corrupt {kind}, or too large for the memory.")):
        # Saying so takes a look at the second frame, which may be broken.
        if image.format is not None and getattr(image, "is_animated", False):
            steps.append("took the first frame")
        png, step, scaled = squared(image, pad=fit == "pad")
    if scaled and fit == "strict":
        raise InvalidImageError(
            "image would have to be scaled down once its EXIF and colours are applied; fit='crop' "
            "or 'pad' would do so."
        )
    steps += filter(None, (step, scaled))
    return Source(png, name, _note(name, steps, anew=False))
