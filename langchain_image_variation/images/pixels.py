"""Decodes, normalizes and encodes images. No other module uses Pillow for this.

Pixels are Pillow images in one of four plain modes with 8 bits per sample: "L", "LA", "RGB" or
"RGBA".
"""

import hashlib
import io
import math
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from types import TracebackType

from PIL import ExifTags, Image, ImageChops, UnidentifiedImageError

from langchain_image_variation.cancellation import check_cancellation
from langchain_image_variation.error_translation import ErrorTranslation
from langchain_image_variation.exceptions import (
    ImageVariationError,
    InvalidImageError,
    OutputError,
)
from langchain_image_variation.images.bounded_file import BoundedFile
from langchain_image_variation.images.color import (
    convert_to_srgb,
    gamma_table,
    read_gamma,
    read_profile,
)
from langchain_image_variation.images.deep_samples import (
    has_deep_samples,
    load_deep_samples,
    reduce_to_8_bits,
)
from langchain_image_variation.images.formats import recognize_supported
from langchain_image_variation.images.heic import open_heic
from langchain_image_variation.images.png import SquarePNG
from langchain_image_variation.images.png.chunks import (
    APPEARANCE,
    INDEXED,
    PIXELS,
    SIGNATURE,
    Header,
    check_order,
    corrupt_png,
    filter_chunks,
    read_chunks,
    replace_chunks,
    strip_metadata,
)
from langchain_image_variation.images.png.scanlines import check_scanlines
from langchain_image_variation.images.work_limits import (
    MAX_PIXELS,
    check_size,
    check_work,
    max_reads,
)

__all__ = [
    "PLAIN_MODES",
    "as_png",
    "decode",
    "decode_result",
    "encode",
    "flatten",
    "flatten_on_white",
    "is_normalized",
    "normalize",
    "open_image",
    "open_png",
    "pixel_sha256",
    "translate_decoder_errors",
    "whiten_hidden_colors",
]

PLAIN_MODES = ("L", "LA", "RGB", "RGBA")
"""The modes that `normalize` returns: gray or RGB, with or without alpha, 8 bits per sample."""

_PREMULTIPLIED_MODES = {"La": "LA", "RGBa": "RGBA"}
"""The modes whose colors are multiplied by alpha, and the same modes without that."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that turns each EXIF orientation upright (EXIF 3.0, tag 0x0112)."""


def decode(png: SquarePNG) -> Image.Image:
    """Return the pixels of an image in a plain mode, `png.side` pixels wide and high.

    Raises:
        InvalidImageError: If the compressed pixels do not match the header exactly, or if a pixel
            has no color in the palette.
    """
    with (
        translate_decoder_errors(lambda: corrupt_png("its pixels cannot be decoded")),
        open_png(png.data) as image,
    ):
        return normalize(image)


def open_image(data: bytes, formats: tuple[str, ...] | None = None) -> Image.Image:
    """Open a file without decoding its pixels. No other function passes Pillow a file.

    Args:
        data: The bytes of a file.
        formats: The allowed formats, from `FORMATS`. By default, these and every other format that
            Pillow knows.

    Raises:
        InvalidImageError: If the file takes too much work to decode, now or when its pixels are
            loaded, or if it is AVIF and Pillow was built without it. Pillow's own exceptions
            propagate: call this inside `translate_decoder_errors`.
        MissingExtraError: If the file is HEIC and pillow-heif is not installed.
    """
    check_work(data)
    format = recognize_supported(data)
    if formats is not None and format not in formats:
        raise UnidentifiedImageError
    if format == "AVIF":
        _check_avif_support()
    file = BoundedFile(data, max_reads(data))
    image = open_heic(file) if format == "HEIC" else Image.open(file, formats=formats)
    check_size(*image.size)
    return image


def _check_avif_support() -> None:
    # Imported here because few images are AVIF, and every import delays the tool.
    from PIL import features

    if not features.check("avif"):
        raise InvalidImageError(
            "image is AVIF, which this build of Pillow cannot read. Install Pillow from PyPI, or "
            "export the image as PNG or JPEG."
        )


def open_png(data: bytes) -> Image.Image:
    """Decode a PNG file of any shape, for `normalize`.

    Chunks that do not affect pixels are not read, so a text that decompresses to gigabytes costs
    nothing.

    Args:
        data: The bytes of a file.

    Raises:
        InvalidImageError: If the file breaks a rule of the specification, or if a pixel has no
            color in the palette. Pillow's own exceptions propagate: call this inside
            `translate_decoder_errors`.
    """
    data = filter_chunks(data, keep=PIXELS | APPEARANCE)
    header, _ = check_order(read_chunks(data))
    check_scanlines(data)
    adapted_data = _adapt_transparency(data, header)
    image = load_deep_samples(lambda: open_image(adapted_data, ("PNG",)))
    if header.color_type == INDEXED:
        colors = next(len(body) // 3 for name, body in read_chunks(data) if name == b"PLTE")
        if int(image.getextrema()[1]) >= colors:  # type: ignore[arg-type]  # a pair, as for any single band
            raise corrupt_png("a pixel has no color in the palette")
    return image


def _adapt_transparency(data: bytes, header: Header) -> bytes:
    """Convert the transparent color in tRNS to the samples that Pillow compares it with.

    Pillow compares it with samples that it has already converted to 8 bits: it scales up 2-bit and
    4-bit samples. `reduce_to_8_bits` compares 16-bit samples in full.
    """
    if header.color_type == INDEXED:
        return data
    max_value = 2**header.bit_depth - 1

    def convert(body: memoryview) -> bytes:
        samples = [value & max_value for (value,) in struct.iter_unpack(">H", body)]
        if header.bit_depth in (2, 4):
            samples = [value * 255 // max_value for value in samples]
        return struct.pack(f">{len(samples)}H", *samples)

    return replace_chunks(data, b"tRNS", convert)


def flatten_on_white(png: SquarePNG) -> SquarePNG:
    """Return an image as a person sees it on a white page, without alpha and without metadata.

    Send this to third-party models: it looks the same no matter how they treat alpha, profiles or
    EXIF. An image without any of these is returned unchanged.

    Raises:
        InvalidImageError: If the pixels are corrupt, or if the new PNG has 4 MB or more.
    """
    names = {name.encode() for name in png.chunk_names}
    if png.color_type in (4, 6) or names & {b"cHRM", b"eXIf", b"gAMA", b"iCCP", b"tRNS"}:
        return SquarePNG(encode(flatten(decode(png))))
    bare = strip_metadata(png.data)
    return png if len(bare) == len(png.data) else SquarePNG(bare)


def flatten(image: Image.Image) -> Image.Image:
    """Return an image in a plain mode as a person sees it on a white page, without alpha."""
    if image.mode not in ("LA", "RGBA"):
        return image
    page = Image.new(image.mode[:-1], image.size, "white")
    for top, part in _strips(image):
        strip = Image.new("RGBA", part.size, "white")
        strip.alpha_composite(part.convert("RGBA"))
        page.paste(strip.convert(page.mode), (0, top))
    return page


def decode_result(data: bytes) -> Image.Image:
    """Return the pixels of an engine's result. Some servers send JPEG or WebP instead of PNG.

    Raises:
        OutputError: If the result is not a readable image in one of these formats, has more than
            `MAX_PIXELS` pixels, or takes too much work to decode.
    """

    def open_result() -> Image.Image:
        try:
            return open_image(data, ("PNG", "JPEG", "WEBP"))
        except Image.DecompressionBombError:
            raise OutputError(f"A result exceeds the limit of {MAX_PIXELS:,} pixels.") from None

    try:
        with translate_decoder_errors(
            lambda: OutputError("A result is not a readable PNG, JPEG or WebP image.")
        ):
            return normalize(load_deep_samples(open_result))
    except InvalidImageError as error:
        raise OutputError(f"A result cannot be decoded: {error.message}") from None


def as_png(data: bytes, size: tuple[int, int] | None = None) -> tuple[bytes, Image.Image]:
    """Return an engine's result as a PNG file, and its pixels in a plain mode.

    A PNG that is not scaled is returned byte for byte.

    Args:
        data: The bytes of a PNG, JPEG or WebP file.
        size: The width and height to scale it to, in pixels. By default, it is not scaled.

    Raises:
        OutputError: If it is not a readable image in one of these formats, or takes too much work
            to decode.
    """
    image = decode_result(data)
    if size is not None and image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    elif data.startswith(SIGNATURE):
        return data, image
    return encode(image), image


class _PillowWarningsIgnored:
    """Ignores Pillow's warnings, for example about corrupt EXIF, while any thread is inside.

    `warnings.catch_warnings` restores all filters, including those that other threads have changed
    in the meantime. This class adds and removes only its own filter.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._filter: object = None

    def __enter__(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                warnings.filterwarnings("ignore", module=r"PIL\.")
                self._filter = warnings.filters[0]

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._filter in warnings.filters:
                warnings.filters.remove(self._filter)  # type: ignore[attr-defined]  # it is a list


_pillow_warnings_ignored = _PillowWarningsIgnored()


def translate_decoder_errors(make_error: Callable[[], ImageVariationError]) -> ErrorTranslation:
    """Replace anything that Pillow raises in the block by an error of ours; hide its warnings.

    For a corrupt file, Pillow raises almost anything, including struct.error and zlib.error. Its
    messages are dropped, because they may contain memory addresses and paths.

    Args:
        make_error: Returns the error to raise.
    """
    return _DecoderErrorTranslation(lambda _: make_error())


class _DecoderErrorTranslation(ErrorTranslation):
    """Also ignores Pillow's warnings in the block."""

    def __enter__(self) -> None:
        _pillow_warnings_ignored.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _pillow_warnings_ignored.__exit__()
        super().__exit__(kind, error, traceback)


def normalize(
    image: Image.Image,
    box: tuple[int, int, int, int] | None = None,
    min_side: int | None = None,
) -> Image.Image:
    """Return an image in a plain mode: sRGB, upright, with its alpha, and 8 bits per sample.

    EXIF orientation and color information are applied, colors that alpha hides are made white, and
    all metadata is dropped. An animation keeps its current frame. Corrupt EXIF and corrupt profiles
    are ignored. 16-bit samples are rounded to 8 bits, after their gamma has been applied.

    Args:
        image: An image in any of Pillow's modes. It is not changed.
        box: The part to return, as left, top, right and bottom in pixels, before the image is
            turned upright. By default, the whole image.
        min_side: If the shorter side is several times this many pixels, blocks of pixels are
            averaged first to save memory. The side stays at least this long.
    """
    # In a PNG file, EXIF may come after the pixels.
    image.load()
    check_cancellation()
    transposition = _UPRIGHT.get(_orientation(image))
    icc, gamma = read_profile(image), read_gamma(image)
    original, box = image, box or (0, 0, *image.size)
    if has_deep_samples(image):
        image = reduce_to_8_bits(image, box, gamma)
        gamma, box = None, (0, 0, *image.size)
    image = _cut_out(image, box, min_side)
    if image.mode in _PREMULTIPLIED_MODES:
        image = image.convert(_PREMULTIPLIED_MODES[image.mode])
    has_alpha = image.has_transparency_data
    if image.mode.startswith(("I", "F")):
        image = _scale_to_8_bits(image)
    is_gray = image.mode in ("1", "L", "LA")
    mode = ("LA" if has_alpha else "L") if is_gray else ("RGBA" if has_alpha else "RGB")
    if gamma is not None:
        tables = gamma_table(gamma, 255) * (1 if is_gray else 3) + [*range(256)] * has_alpha
        image = (image if image.mode == mode else image.convert(mode)).point(tables)
    if icc is not None:
        image = convert_to_srgb(image, icc)
    if image.mode != mode or image is original:
        image = image.convert(mode)
    image.info = {}
    whiten_hidden_colors(image)
    return image if transposition is None else image.transpose(transposition)


def is_normalized(image: Image.Image) -> bool:
    """Return whether `normalize` would leave the samples of a decoded PNG file unchanged."""
    if _orientation(image) in _UPRIGHT:
        return False
    if read_profile(image) is not None or read_gamma(image) is not None:
        return False
    if not image.has_transparency_data:
        return True
    if image.mode not in ("P", "LA", "RGBA"):
        # A single transparent color is hidden wherever it occurs.
        return False
    if has_deep_samples(image):
        image = reduce_to_8_bits(image, (0, 0, *image.size), None)
    return not any(whiten_hidden_colors(part.convert("RGBA")) for _, part in _strips(image))


_VISIBLE_ALPHA = 8
"""A lower alpha shows less than a thirtieth of a color, which nobody sees."""


def whiten_hidden_colors(image: Image.Image) -> bool:
    """Make the colors that alpha hides white, and return whether any color changed.

    Such colors can hold an image that no person sees, but that a model sees if its software drops
    alpha.

    Args:
        image: An image in a plain mode. It is changed in place; its alpha stays.
    """
    if image.mode not in ("LA", "RGBA"):
        return False
    has_changed = False
    for top, part in _strips(image):
        *colors, alpha = part.split()
        hidden_mask = alpha.point([255] * _VISIBLE_ALPHA + [0] * (256 - _VISIBLE_ALPHA))
        if hidden_mask.getbbox() is not None:
            white_colors = [ImageChops.lighter(color, hidden_mask) for color in colors]
            white_part = Image.merge(part.mode, [*white_colors, alpha])
            if white_part.tobytes() != part.tobytes():
                image.paste(white_part, (0, top))
                has_changed = True
    return has_changed


_STRIP = 256
"""How many rows are processed at a time, so that a large image is not held in memory twice."""


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield copies of strips of full width, each with the row where it begins."""
    for top in range(0, image.height, _STRIP):
        check_cancellation()
        yield top, image.crop((0, top, image.width, min(top + _STRIP, image.height)))


def encode(image: Image.Image, *, compress_level: int = 6) -> bytes:
    """Return an image as the bytes of a PNG file without metadata.

    Args:
        image: An image in a plain mode.
        compress_level: 0 (none) to 9 (smallest).
    """
    check_cancellation()
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=compress_level)
    return buffer.getvalue()


def pixel_sha256(image: Image.Image) -> str:
    r"""Return the SHA-256 of an image's mode, size and samples, in hex.

    The hash is the same for every file with these pixels. Compression, filters, interlacing and
    metadata do not count: they differ between versions of Pillow and zlib.

    The hash covers one ASCII line, such as ``RGB 1024x768\n`` (mode, width, height), and then the
    8-bit samples, row by row and pixel by pixel. For a PNG file with 8-bit samples and without
    palette and metadata, such as the `local` engine writes, this code returns the same hash::

        image = PIL.Image.open(path)
        head = f"{image.mode} {image.width}x{image.height}\n".encode()
        hashlib.sha256(head + numpy.asarray(image).tobytes()).hexdigest()

    Args:
        image: An image in a plain mode, from `decode` or `decode_result`. These apply color
            information and orientation, resolve palettes, and reduce 16-bit samples to 8 bits.
    """
    digest = hashlib.sha256(f"{image.mode} {image.width}x{image.height}\n".encode())
    for _, part in _strips(image):
        digest.update(part.tobytes())
    return digest.hexdigest()


def _cut_out(
    image: Image.Image, box: tuple[int, int, int, int], min_side: int | None
) -> Image.Image:
    left, top, right, bottom = box
    factor = min(right - left, bottom - top) // min_side if min_side else 1
    # Averaging would mix a single transparent color with others.
    if factor > 1 and image.mode in (*PLAIN_MODES, "CMYK") and "transparency" not in image.info:
        return image.reduce(factor, box)
    return image if box == (0, 0, *image.size) else image.crop(box)


def _orientation(image: Image.Image) -> int:
    """Return the orientation in an image's EXIF, or 1, which changes nothing.

    Pillow's own reader also uses XMP, which browsers ignore, and warns about corrupt EXIF.
    """
    # libheif has already turned the image, as its container says.
    if image.format == "HEIF":
        return 1
    exif = image.info.get("exif")
    exif = exif.removeprefix(b"Exif\0\0") if isinstance(exif, bytes) else b""
    byte_order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if byte_order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{byte_order}I", exif, 4)
        (count,) = struct.unpack_from(f"{byte_order}H", exif, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, values, value = struct.unpack_from(f"{byte_order}HHIH", exif, entry)
            if (tag, kind, values) == (ExifTags.Base.Orientation, _SHORT, 1):
                return int(value)
    except struct.error:
        pass
    return 1


_SHORT = 3
"""The EXIF type of a 16-bit number."""


def _scale_to_8_bits(image: Image.Image) -> Image.Image:
    """Scale 32-bit and float samples to 8 bits. Pillow's own conversion clips them."""
    # Few images need this, and the import takes longer than converting most images.
    import numpy as np

    low, high = math.inf, -math.inf
    for _, part in _strips(image):
        samples = np.asarray(part)
        finite_samples = samples[np.isfinite(samples)]
        if finite_samples.size:
            low = min(low, float(finite_samples.min()))
            high = max(high, float(finite_samples.max()))
    if image.mode != "F" and 0 <= low and high <= 65535:
        low, high = 0.0, 65535.0
    scale = 255 / (high - low) if high > low else 0.0
    transparent_value = image.info.get("transparency")
    has_alpha = isinstance(transparent_value, int)
    gray = Image.new("LA" if has_alpha else "L", image.size)
    for top, part in _strips(image):
        samples = np.asarray(part)
        # In 32 bits, the difference of extreme samples would overflow.
        finite_samples = np.nan_to_num(samples.astype(np.float64), posinf=high, neginf=low)
        scaled_samples = (finite_samples - low) * scale if scale else np.zeros(samples.shape)
        strip = Image.fromarray(scaled_samples.round().clip(0, 255).astype(np.uint8))
        if has_alpha:
            alpha = np.where(samples == transparent_value, 0, 255).astype(np.uint8)
            strip.putalpha(Image.fromarray(alpha))
        gray.paste(strip, (0, top))
    return gray
