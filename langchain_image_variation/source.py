"""Loads an image as a `SquarePNG`, in whatever form a user passes it.

A source is a path, bytes, an open binary file, a `data:` URL, a PIL image or, if its host is
allowed, an https URL. It holds a PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF or HEIC image of any shape
and color mode. The format is recognized by the first bytes, never by a file name or a declared
type. File size, pixels and decoding work are limited before anything is decoded.
"""

import base64
import binascii
import os
import re
import stat
import string
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
    excerpt,
)
from langchain_image_variation.files.file_system import FileSystem, has_password
from langchain_image_variation.files.storage_policy import DEFAULT_POLICY, StoragePolicy
from langchain_image_variation.images.formats import (
    FORMATS,
    recognize_supported,
    recognize_unsupported,
)
from langchain_image_variation.images.inset import Inset
from langchain_image_variation.images.pixels import (
    is_normalized,
    open_image,
    open_png,
    translate_decoder_errors,
)
from langchain_image_variation.images.png import MAX_PNG_BYTES, MAX_PNG_SIDE, SquarePNG, chunks
from langchain_image_variation.images.png.repair import repair
from langchain_image_variation.images.png.scanlines import check_scanlines, complete_pixels
from langchain_image_variation.images.square import make_square
from langchain_image_variation.images.work_limits import MAX_PIXELS, check_size

if TYPE_CHECKING:
    from langchain_image_variation.http.url_policy import URLPolicy

__all__ = [
    "MAX_SOURCE_BYTES",
    "MAX_SOURCE_PIXELS",
    "Fit",
    "ImageSource",
    "Source",
    "check_fit",
    "check_url_policy",
    "load_source",
    "open_source",
    "read_file",
    "read_stored_file",
]

ImageSource = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image
"""A path, a `data:` or https URL, the bytes of an image file, an open binary file, or a PIL image.
"""

Fit = Literal["strict", "crop", "pad", "keep"]
"""What to do with an image that is not a square PNG under 4 MB: refuse it, crop it, pad it, or keep
its shape, which pads it for the engine only."""

MAX_SOURCE_BYTES = 64 * 1024 * 1024
"""The largest source file, in bytes."""

MAX_SOURCE_PIXELS = MAX_PIXELS
"""The maximum number of pixels of a source."""

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_NAME_LENGTH = 80


@dataclass(frozen=True, slots=True)
class Source:
    """An image that is ready for a request."""

    png: SquarePNG
    """The image in the form that the contract requires."""
    name: str
    """The file's name without its suffix, or "image" if the source has no name."""
    note: str
    """One line about how the image was changed to fit, or an empty string."""
    inset: Inset | None = None
    """Where the image is in `png`, if its variations are to be cut back to its shape. `cut_back`
    cuts them. Only sources with `fit="keep"` have an inset, unless they are square anyway."""


def check_fit(fit: object) -> None:
    """Check that a value is one of `Fit`.

    Raises:
        SourceError: If it is not.
    """
    if fit not in get_args(Fit):
        *others, last = map(repr, get_args(Fit))
        raise SourceError(
            f"fit must be {', '.join(others)} or {last}, got {excerpt(fit)}.", param="fit"
        )


def check_url_policy(urls: object) -> None:
    """Check that a policy for sources lists the hosts that it allows. None allows no URL.

    Raises:
        InvalidRequestError: If it does not.
    """
    # Importing URLPolicy here would make httpx part of every program.
    if urls is not None and getattr(urls, "hosts", None) is None:
        raise InvalidRequestError("urls must be a URLPolicy that lists hosts.", param="urls")


def load_source(
    source: ImageSource,
    *,
    fit: Fit = "crop",
    urls: "URLPolicy | None" = None,
    name: str | None = None,
) -> Source:
    """Load a source as a square PNG under 4 MB.

    A PNG that is already square and under 4 MB keeps its pixels as they are. Chunks that no pixel
    depends on are left out: text, EXIF, profiles, later frames, unknown chunks and anything after
    the end. The pixels change only if EXIF or color information has to be applied, or if colors
    that nobody can see, because their alpha is almost 0, have to be made white.

    Any other image is converted: the first frame is taken, EXIF and color information are applied,
    alpha is kept, and `fit` makes it square. If its PNG has 4 MB or more, it is scaled down. `note`
    says what was done.

    A PNG file that breaks a rule of its specification is refused, even if only the checksum of its
    pixels is wrong, because decoders show different pixels for such files. Only what every viewer
    accepts is repaired, unless `fit` is "strict": bad ancillary chunks are left out, and the end
    may be missing after the last row of pixels. `note` says so.

    Args:
        source: A path, bytes, an open binary file, a `data:` URL, an https URL or a PIL image. An
            open file is read from its current position. A PIL image is taken at its current frame.
        fit: "crop" keeps the centered square. "pad" adds equal bars at two sides that continue the
            image, mirrored and more and more blurred. "keep" adds sharp mirrored bars for the
            engine; `cut_back` then cuts them off the variations, which get the shape of the image.
            With both, the bars are transparent if an edge next to them is. "strict" refuses an
            image that is not a valid `SquarePNG` already, or that would have to be scaled down.
        urls: The hosts that https URLs may be fetched from, and the limits. By default, URLs are
            not fetched.
        name: The name of the image. By default, the name of its file.

    Raises:
        SourceError: If the source does not exist, cannot be read, is too large, is a URL that is
            not allowed or cannot be fetched, or is not an image in a supported format. The message
            names the format if it is recognized.
        MissingExtraError: If the image is HEIC, and the extra `heif` is not installed.
        InvalidImageError: If the image is corrupt or takes too much work to decode, or if `fit` is
            "strict" and the image breaks a rule of `SquarePNG`.
        InvalidRequestError: If `urls` lists no hosts or has an async transport.
    """
    check_fit(fit)
    check_url_policy(urls)
    if isinstance(source, Image.Image):
        if fit == "strict":
            raise InvalidImageError("fit='strict' accepts PNG files only, got a PIL image.")
        return _convert(source, fit, name or _stem(getattr(source, "filename", "")))
    data, default_name = _read(source, urls)
    name = name or default_name
    if data.startswith(chunks.SIGNATURE):
        return _from_png(data, fit, name)
    if fit == "strict":
        _check_strictly(data)
    with _open_supported(data) as image:
        return _convert(image, fit, name)


def open_source(data: bytes) -> Image.Image:
    """Open the image in a file of any supported format, of any shape. It may be decoded already.

    Raises:
        SourceError: If the file is not an image in a supported format.
        InvalidImageError: If the image is corrupt, has too many pixels or takes too much work to
            decode. Pillow's own exceptions propagate: call this inside `translate_decoder_errors`.
        MissingExtraError: If the image is HEIC, and the extra `heif` is not installed.
    """
    if data.startswith(chunks.SIGNATURE):
        return open_png(_VisibleChunks(data).read())
    return _open_supported(data)


class _VisibleChunks:
    """The chunks of a PNG file that affect how it looks, repaired where viewers do not mind.

    Args:
        data: The bytes of a file that begins with the signature.

    Raises:
        InvalidImageError: If the structure of the file cannot be repaired, or if the image has too
            many pixels.
    """

    def __init__(self, data: bytes) -> None:
        self._repair = repair(data)
        self._data = chunks.filter_chunks(self._repair.data, keep=chunks.PIXELS | chunks.APPEARANCE)
        self.header, self.names = chunks.check_order(chunks.read_chunks(self._data))
        check_size(self.header.width, self.header.height)
        self.is_changed = self._repair.data is not data

    def read(self) -> bytes:
        """Return a file that has these chunks, and all pixels if it was cut off after them.

        Raises:
            InvalidImageError: If it was cut off before the last pixel.
        """
        return complete_pixels(self._data) if self._repair.is_cut_off else self._data

    def describe(self) -> list[str]:
        """Describe what was repaired and dropped, as parts of a sentence."""
        return [*self._repair.steps, *_dropped_parts(self._repair.data)]


def _from_png(data: bytes, fit: Fit, name: str) -> Source:
    visible_chunks = _VisibleChunks(data)
    if fit == "strict":
        _check_strictly(data)
    header, steps = visible_chunks.header, visible_chunks.describe()
    visible_data = visible_chunks.read()
    bare_data = chunks.strip_metadata(visible_data)
    fits_contract = header.width == header.height <= MAX_PNG_SIDE and len(bare_data) < MAX_PNG_BYTES
    unchanged_note = _note(name, steps, is_rewritten=visible_chunks.is_changed)
    if fits_contract and not _may_need_normalizing(header, visible_chunks.names):
        check_scanlines(bare_data)
        return Source(SquarePNG(bare_data), name, unchanged_note)
    with translate_decoder_errors(
        lambda: InvalidImageError("image is a corrupt PNG, or too large for the available memory.")
    ):
        image = open_png(visible_data)
        if fits_contract and is_normalized(image):
            return Source(SquarePNG(bare_data), name, unchanged_note)
    return _convert(image, fit, name, steps)


def _may_need_normalizing(header: chunks.Header, names: set[bytes]) -> bool:
    """Return whether only the decoded pixels can tell if a PNG shows its samples unchanged."""
    appearance = {b"eXIf", b"iCCP", b"tRNS"}
    if b"sRGB" not in names:
        appearance |= {b"gAMA", b"cHRM"}
    return header.color_type in (chunks.INDEXED, 4, 6) or bool(names & appearance)


def _check_strictly(data: bytes) -> None:
    try:
        SquarePNG(data)
    except InvalidImageError as error:
        raise InvalidImageError(
            f"{error} fit='crop', fit='pad' or fit='keep' would convert it."
        ) from None


def _dropped_parts(data: bytes) -> list[str]:
    """Describe the parts of a PNG file that a viewer may show but that are dropped."""
    steps, names = [], []
    for name, body in chunks.read_chunks(data):
        names.append(name)
        if name == b"cICP" and bytes(body) != _SRGB_CICP:
            steps.append("treated its colors as sRGB")
    if b"fdAT" in names:
        is_first = b"fcTL" in names[: names.index(b"IDAT")]
        still_image = "took the still image, which is not part of the animation"
        steps.append("took the first frame" if is_first else still_image)
    return steps


_SRGB_CICP = bytes([1, 13, 0, 1])
"""The primaries, transfer function, matrix and range of sRGB (ITU-T H.273)."""


def _note(name: str, steps: list[str], *, is_rewritten: bool) -> str:
    if steps:
        return f"{name}: {', '.join(steps)}."
    return f"{name}: rewrote it as a valid PNG." if is_rewritten else ""


def _read(source: object, urls: "URLPolicy | None") -> tuple[bytes, str]:
    """Return the bytes of a source and its name."""
    if isinstance(source, bytes | bytearray | memoryview):
        return _check_length(bytes(source)), "image"
    if isinstance(source, str) and source[:5].lower() == "data:":
        return _from_data_url(source), "image"
    if isinstance(source, str) and _URL.match(source):
        return _from_url(source, urls)
    if isinstance(source, str | os.PathLike):
        return read_file(source)
    if hasattr(source, "read"):
        return _from_open_file(cast(IO[bytes], source))
    raise SourceError(
        "image must be a path, bytes, an open binary file, a data: URL or a PIL image, "
        f"got {type(source).__name__}."
    )


def read_file(source: str | os.PathLike[str]) -> tuple[bytes, str]:
    """Read a source from a file, and return its bytes and its name without the suffix.

    Raises:
        SourceError: If there is no such file, if it is not a regular file, is empty, is larger than
            `MAX_SOURCE_BYTES` or cannot be read.
    """
    path = Path(os.fsdecode(source))
    if not os.fspath(source):
        raise SourceError("The path is empty; pass the path of an image.")
    name = path.name[:_NAME_LENGTH]
    try:
        with open(path, "rb", opener=_open_without_blocking) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise SourceError(f"{name!r} is not a regular file; pass the path of an image.")
            return _check_length(file.read(MAX_SOURCE_BYTES + 1)), _stem(path.name)
    except FileNotFoundError:
        raise SourceError(f"There is no file {name!r}; check the path.") from None
    except IsADirectoryError:
        raise SourceError(f"{name!r} is a folder; pass the path of an image.") from None
    except PermissionError:
        raise SourceError(f"{name!r} may not be read; check its permissions.") from None
    except (OSError, ValueError):
        raise SourceError(f"{name!r} cannot be read; check the path.") from None


def read_stored_file(
    url: str, options: Mapping[str, Any], policy: StoragePolicy = DEFAULT_POLICY
) -> tuple[bytes, str]:
    """Read a source from a file system that fsspec knows; return its bytes and its name.

    Args:
        url: The URL of the file, such as "s3://bucket/photo.jpg".
        options: Passed to the file system, as fsspec's `storage_options`.
        policy: Which stores the URL may name.

    Raises:
        SourceError: If there is no such file, if it is empty, is larger than `MAX_SOURCE_BYTES` or
            cannot be read, or if the URL contains a password, or names several file systems or one
            that is not allowed.
        MissingExtraError: If fsspec, or the package for this kind of URL, is not installed.
    """
    if has_password(url):
        raise SourceError(
            "The URL of the source contains a password; move it to fsspec's configuration."
        )
    name = url.rpartition("/")[2][:_NAME_LENGTH]
    try:
        policy.check_row(url)
        file_system = FileSystem(url, options, param="path", policy=policy)
        if file_system.folder is not None:
            return read_file(file_system.folder)
        with file_system.translate_errors(
            f"could not read {name!r}; try again, or check its permissions"
        ):
            data = file_system.read("", MAX_SOURCE_BYTES + 1)
    except (InvalidRequestError, OutputError) as error:
        raise SourceError(error.message) from None
    if data is None:
        raise SourceError(f"There is no file {name!r}; check the URL.")
    return _check_length(data), _stem(name)


def _open_without_blocking(path: str, flags: int) -> int:
    # Opening a FIFO would otherwise wait for a writer that may never come.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _from_open_file(file: IO[bytes]) -> tuple[bytes, str]:
    parts: list[bytes] = []
    remaining = MAX_SOURCE_BYTES + 1
    # An unbuffered file may return fewer bytes than requested.
    while remaining > 0:
        try:
            part = file.read(remaining)
        except (OSError, TypeError, ValueError):
            raise SourceError("The open file cannot be read; is it closed?") from None
        if not isinstance(part, bytes | bytearray | memoryview):
            raise SourceError("The open file returns text; open it in binary mode ('rb').")
        if not part:
            break
        parts.append(bytes(part))
        remaining -= len(part)
    return _check_length(b"".join(parts)), _stem(getattr(file, "name", ""))


def _from_data_url(url: str) -> bytes:
    """Decode a `data:` URL (RFC 2397), in base64 or percent-encoded."""
    start = url.find(",") + 1
    if start == 0:
        raise SourceError("The data: URL has no comma before its data.")
    # Percent-encoding takes up to three characters a byte, more than base64.
    if len(url) - start > 3 * MAX_SOURCE_BYTES:
        raise SourceError(f"The data: URL exceeds the limit of {MAX_SOURCE_BYTES:,} bytes.")
    try:
        data = _percent_decode(url, start)
    except UnicodeEncodeError:
        raise SourceError(
            "The data: URL contains characters that URLs cannot contain; encode it again."
        ) from None
    if url[:start].lower().endswith(";base64,"):
        # Line breaks and missing padding are common and harmless.
        data = data.translate(None, _WHITE_SPACE)
        data += b"=" * (-len(data) % 4)
        try:
            return _check_length(base64.b64decode(data, validate=True))
        except (binascii.Error, ValueError):
            raise SourceError("The data: URL does not contain valid base64.") from None
    return _check_length(bytes(data))


def _percent_decode(text: str, start: int) -> bytearray:
    """Decode the rest of a text in pieces. `unquote_to_bytes` takes 70 times the length of one."""
    data = bytearray()
    while start < len(text):
        end = start + _PIECE
        # An escape, such as "%89", must not be cut.
        percent = text.rfind("%", end - 2, end)
        if percent >= 0 and end < len(text):
            end = percent
        data += unquote_to_bytes(text[start:end])
        start = end
    return data


_PIECE = 65_536
_WHITE_SPACE = string.whitespace.encode("ascii")


def _from_url(url: str, urls: "URLPolicy | None") -> tuple[bytes, str]:
    if urls is None:
        raise SourceError(
            "URLs are not fetched by default. Download the image and pass its path, or allow its "
            "host with urls=URLPolicy(hosts=[...])."
        )
    # Imported here because few sources are URLs, and httpx is slow to import.
    from langchain_image_variation.http.address import parse_url
    from langchain_image_variation.http.fetch import fetch
    from langchain_image_variation.http.flow import Driver

    if urls.transport is not None and not hasattr(urls.transport, "handle_request"):
        raise InvalidRequestError(
            "urls has an async transport; pass a URLPolicy with a sync one.", param="urls"
        )
    try:
        data = Driver(None).run(fetch(url, urls))
        return _check_length(data), _stem(parse_url(url).file_name)
    except DownloadError as error:
        raise SourceError(error.message) from None


def _check_length(data: bytes) -> bytes:
    if not data:
        raise SourceError("The source is empty; pass an image file.")
    if len(data) > MAX_SOURCE_BYTES:
        raise SourceError(
            f"The source exceeds the limit of {MAX_SOURCE_BYTES:,} bytes (64 MB). Scale it down "
            "first."
        )
    return data


def _stem(name: object) -> str:
    """Return a file's name without its suffix, as one printable line."""
    # An open file's name may be a descriptor number, and a PIL image's may be bytes.
    stem = Path(name).stem if isinstance(name, str) else ""
    return "".join(c if c.isprintable() else "-" for c in stem)[:_NAME_LENGTH] or "image"


def _open_supported(data: bytes) -> Image.Image:
    """Open an image in a supported format without decoding it, unless that takes too much work."""
    format = recognize_supported(data)
    if format is None:
        raise _unsupported(data)
    with translate_decoder_errors(
        lambda: SourceError(
            f"This {format} file is corrupt, or of an unsupported kind. Export the image as PNG or "
            "JPEG."
        )
    ):
        try:
            return open_image(data, (format,))
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise InvalidImageError(
                f"image exceeds the limit of {MAX_SOURCE_PIXELS:,} pixels. Scale it down first."
            ) from None


def _unsupported(data: bytes) -> SourceError:
    """Return the error for a file in a format that is unknown or not supported."""
    format = recognize_unsupported(data)
    if format is None:
        return SourceError(
            f"Unsupported or corrupt image. Supported formats: {', '.join(FORMATS)}."
        )
    return SourceError(f"The source is {format.name}, which is not supported. {format.way_out}")


def _convert(image: Image.Image, fit: Fit, name: str, earlier_steps: Sequence[str] = ()) -> Source:
    """Make an image square, encode it, and describe each step in the note."""
    width, height = image.size
    if not width or not height:
        raise InvalidImageError("image has no pixels.")
    check_size(width, height)
    kind = {"MPO": "JPEG", "HEIF": "HEIC", None: "PIL image"}.get(image.format, image.format)
    steps = [*earlier_steps] if kind == "PNG" else [f"converted {kind} to PNG"]
    with translate_decoder_errors(
        lambda: InvalidImageError(
            f"image is a corrupt {kind}, or too large for the available memory."
        )
    ):
        # Pillow reads the second frame to answer this, and the frame may be corrupt.
        if image.format is not None and getattr(image, "is_animated", False):
            steps.append(f"took the {'primary image' if kind == 'HEIC' else 'first frame'}")
        square = make_square(image, "crop" if fit == "strict" else fit)
    if square.scale_step and fit == "strict":
        raise InvalidImageError(
            "image must be scaled down after its EXIF and colors are applied, which fit='strict' "
            "does not do. Pass fit='crop', fit='pad' or fit='keep'."
        )
    steps += filter(None, (square.fit_step, square.scale_step))
    return Source(square.png, name, _note(name, steps, is_rewritten=False), square.inset)
