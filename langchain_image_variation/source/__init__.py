"""Loads an image as a `SquarePNG`, in any form in which a user may pass it.

A source is a path, bytes, an open binary file, a `data:` URL, a PIL image or, if its host is
allowed, an https URL. It holds a PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF or HEIC image of any shape
and color mode. The format is recognized by the first bytes, never by a file name or a declared
type. File size, pixels and decoding work are limited before anything is decoded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from PIL import Image

from langchain_image_variation.exceptions import (
    InvalidImageError,
    InvalidRequestError,
    SourceError,
    excerpt,
)
from langchain_image_variation.images.decoder_errors import translate_decoder_errors
from langchain_image_variation.images.formats import (
    FORMATS,
    recognize_supported,
    recognize_unsupported,
)
from langchain_image_variation.images.inset import Inset
from langchain_image_variation.images.normalize import is_normalized
from langchain_image_variation.images.pixels import open_image, open_png
from langchain_image_variation.images.png import MAX_PNG_BYTES, MAX_PNG_SIDE, SquarePNG, chunks
from langchain_image_variation.images.png.scanlines import check_scanlines
from langchain_image_variation.images.png.visible_chunks import VisibleChunks
from langchain_image_variation.images.square import make_square
from langchain_image_variation.images.work_limits import MAX_PIXELS, check_size
from langchain_image_variation.source.read import ImageSource, printable_stem, read_source

if TYPE_CHECKING:
    from langchain_image_variation.http.url_policy import URLPolicy

__all__ = [
    "MAX_SOURCE_PIXELS",
    "Fit",
    "Source",
    "check_fit",
    "check_url_policy",
    "load_source",
    "open_source",
]

Fit = Literal["strict", "crop", "pad", "keep"]
"""What to do with an image that is not a square PNG under 4 MB: refuse it, crop it, pad it, or keep
its shape, which pads it only for the engine."""

MAX_SOURCE_PIXELS = MAX_PIXELS
"""The maximum number of pixels of a source."""


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
    """Where the image is in `png`, so that `cut_back` can cut variations back to its shape. Only
    sources with `fit="keep"` have an inset, unless they are square anyway."""


def check_fit(fit: object) -> None:
    """Check that a value is one of `Fit`.

    Raises:
        SourceError: If it is something else.
    """
    if fit not in get_args(Fit):
        *others, last = map(repr, get_args(Fit))
        raise SourceError(
            f"fit must be {', '.join(others)} or {last}, got {excerpt(fit)}.", param="fit"
        )


def check_url_policy(urls: object) -> None:
    """Check that a policy for sources lists the hosts that it allows. None allows no URL.

    Raises:
        InvalidRequestError: If it is something else, or lists no hosts.
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

    If a PNG is already square and under 4 MB, its pixels usually stay as they are. Chunks that do
    not affect pixels are left out: text, EXIF, profiles, later frames, unknown chunks and anything
    after the end. The pixels change only if EXIF or color information has to be applied, or if
    invisible colors, whose alpha is almost 0, have to be made white.

    Any other image is converted: the first frame is taken, EXIF and color information are applied,
    alpha is kept, and `fit` makes it square. If its PNG has 4 MB or more, it is scaled down. `note`
    says what was done.

    A PNG file that breaks a rule of its specification is refused, even if only the checksum of its
    pixels is wrong, because decoders show different pixels for such files. Unless `fit` is
    "strict", faults that every viewer accepts are repaired: bad ancillary chunks are left out, and
    a file that ends after its last row of pixels is completed. `note` says so.

    Args:
        source: A path, bytes, an open binary file, a `data:` URL, an https URL or a PIL image. An
            open file is read from its current position. A PIL image is taken at its current frame.
        fit: "crop" keeps the centered square. "pad" adds equal bars on two sides, which mirror the
            image and get more blurred with distance. "keep" adds sharp mirrored bars for the
            engine; `cut_back` then cuts them off the variations, which get the shape of the image.
            The bars are transparent if an edge next to them is. "strict" refuses an image that is
            not already a valid `SquarePNG`, or that would have to be scaled down.
        urls: The hosts that https URLs may be fetched from, and the limits. By default, URLs are
            not fetched.
        name: The name of the image. By default, the name of its file.

    Returns:
        The image as a `SquarePNG`, with its name and a note about what was changed.

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
            raise InvalidImageError(
                "image is a PIL image, not a PNG file.", hint="fit='strict' accepts PNG files only."
            )
        return _convert(source, fit, name or printable_stem(getattr(source, "filename", "")))
    data, default_name = read_source(source, urls)
    name = name or default_name
    if data.startswith(chunks.SIGNATURE):
        return _load_png(data, fit, name)
    if fit == "strict":
        _check_strictly(data)
    with _open_supported(data) as image:
        return _convert(image, fit, name)


def open_source(data: bytes) -> Image.Image:
    """Return the image in a file of any supported format and shape. It may be decoded already.

    Raises:
        SourceError: If the file is not an image in a supported format.
        InvalidImageError: If the image is corrupt, has too many pixels or takes too much work to
            decode. Pillow's own exceptions propagate: call this inside `translate_decoder_errors`.
        MissingExtraError: If the image is HEIC, and the extra `heif` is not installed.
    """
    if data.startswith(chunks.SIGNATURE):
        return open_png(VisibleChunks(data).read())
    return _open_supported(data)


def _load_png(data: bytes, fit: Fit, name: str) -> Source:
    visible_chunks = VisibleChunks(data)
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
            error.message, hint="fit='crop', fit='pad' or fit='keep' would convert it."
        ) from None


def _note(name: str, steps: list[str], *, is_rewritten: bool) -> str:
    if steps:
        return f"{name}: {', '.join(steps)}."
    return f"{name}: rewrote it as a valid PNG." if is_rewritten else ""


def _open_supported(data: bytes) -> Image.Image:
    """Open an image in a supported format without decoding it, unless that takes too much work."""
    format = recognize_supported(data)
    if format is None:
        raise _unsupported_error(data)
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


def _unsupported_error(data: bytes) -> SourceError:
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
            f"image is a corrupt {kind}, perhaps cut off, or too large for the available memory. "
            "Download or export it again, or scale it down."
        )
    ):
        # Pillow reads the second frame to answer this, and the frame may be corrupt.
        if image.format is not None and getattr(image, "is_animated", False):
            steps.append(f"took the {'primary image' if kind == 'HEIC' else 'first frame'}")
        square = make_square(image, "crop" if fit == "strict" else fit)
    if square.scale_step and fit == "strict":
        raise InvalidImageError(
            "image must be scaled down after its EXIF and colors are applied.",
            hint="fit='strict' does not do that; pass fit='crop', fit='pad' or fit='keep'.",
        )
    steps += filter(None, (square.fit_step, square.scale_step))
    return Source(square.png, name, _note(name, steps, is_rewritten=False), square.inset)
