"""Decodes files to pixels in a plain mode (see `normalize`), and encodes pixels as PNG files."""

import hashlib
import io
import struct
import zlib

from PIL import Image, UnidentifiedImageError

from langchain_image_variation.cancellation import check_cancellation
from langchain_image_variation.exceptions import (
    EngineError,
    InvalidImageError,
    OutputError,
    excerpt,
)
from langchain_image_variation.images.bounded_file import BoundedFile
from langchain_image_variation.images.decoder_errors import translate_decoder_errors
from langchain_image_variation.images.deep_samples import load_deep_samples
from langchain_image_variation.images.formats import recognize_supported
from langchain_image_variation.images.heic import open_heic
from langchain_image_variation.images.normalize import PLAIN_MODES, normalize
from langchain_image_variation.images.png import SquarePNG
from langchain_image_variation.images.png.chunks import (
    APPEARANCE,
    INDEXED,
    PIXELS,
    SIGNATURE,
    Header,
    check_order,
    corrupt_png_error,
    filter_chunks,
    read_chunks,
    replace_chunks,
    strip_metadata,
)
from langchain_image_variation.images.png.scanlines import check_scanlines
from langchain_image_variation.images.strips import strips
from langchain_image_variation.images.work_limits import (
    MAX_PIXELS,
    check_size,
    check_work,
    max_reads,
)

__all__ = [
    "as_png",
    "as_small_file",
    "decode_png",
    "decode_result",
    "encode_png",
    "flatten",
    "flatten_on_white",
    "open_image",
    "open_png",
    "pixel_sha256",
]


def decode_png(png: SquarePNG) -> Image.Image:
    """Return the pixels of an image as a Pillow image, `png.side` pixels wide and high.

    Its mode is "L", "LA", "RGB" or "RGBA". Color information and orientation are applied.

    Args:
        png: The image of a request: `request.image`.

    Raises:
        InvalidImageError: If the compressed pixels do not match the header exactly, or if a pixel
            has no color in the palette.
        EngineError: If `png` is not a `SquarePNG`.
    """
    if not isinstance(png, SquarePNG):
        raise EngineError(
            f"decode_png needs a SquarePNG, such as request.image, got {excerpt(png)}."
        )
    with (
        translate_decoder_errors(lambda: corrupt_png_error("its pixels cannot be decoded")),
        open_png(png.data) as image,
    ):
        return normalize(image)


def open_image(data: bytes, formats: tuple[str, ...] | None = None) -> Image.Image:
    """Open a file without decoding its pixels. No other function passes Pillow a file.

    Args:
        data: The bytes of a file.
        formats: The allowed formats, from `FORMATS`. By default, every format that Pillow knows is
            allowed too.

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
            "image is AVIF, which cannot be read here. Export it as PNG or JPEG.",
            hint="Or install Pillow from PyPI: this build of Pillow has no AVIF.",
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
            raise corrupt_png_error("a pixel has no color in the palette")
    return image


def _adapt_transparency(data: bytes, header: Header) -> bytes:
    """Convert the transparent color in tRNS to the scale of the samples that it is compared with.

    Pillow compares it with 8-bit samples, after scaling up samples of 2 and 4 bits.
    `reduce_to_8_bits` compares 16-bit samples in full.
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
        return SquarePNG(encode_png(flatten(decode_png(png))))
    bare = strip_metadata(png.data)
    return png if len(bare) == len(png.data) else SquarePNG(bare)


def flatten(image: Image.Image) -> Image.Image:
    """Return an image in a plain mode as a person sees it on a white page, without alpha."""
    if image.mode not in ("LA", "RGBA"):
        return image
    page = Image.new(image.mode[:-1], image.size, "white")
    for top, part in strips(image):
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
    return encode_png(image), image


def encode_png(image: Image.Image, *, compress_level: int = 6, only_runs: bool = False) -> bytes:
    """Return an image as the bytes of a PNG file: sRGB, upright, 8 bits a sample, no metadata.

    Args:
        image: A Pillow image in any mode. Its color profile and its EXIF orientation are applied.
        compress_level: 0 (none) to 9 (smallest).
        only_runs: Whether to look for runs of equal bytes only. At level 1, that takes a tenth less
            time, and makes files of color photos a tenth smaller. Gray that is stored in color
            channels becomes larger.

    Raises:
        EngineError: If `image` is not a Pillow image, or if the call was cancelled.
    """
    if not isinstance(image, Image.Image):
        raise EngineError(
            f"encode_png needs a Pillow image, got {excerpt(image)}. PIL.Image.fromarray makes one "
            "from an array, and PIL.Image.open from a file."
        )
    check_cancellation()
    if image.mode not in PLAIN_MODES or image.info:
        image = normalize(image)
    buffer = io.BytesIO()
    options = {"compress_type": zlib.Z_RLE} if only_runs else {}
    image.save(buffer, "PNG", compress_level=compress_level, **options)
    return buffer.getvalue()


def as_small_file(png: SquarePNG, *, max_side: int, max_bytes: int) -> tuple[bytes, str]:
    """Return an opaque image as a small file, and its media type.

    A PNG within the limits is returned byte for byte. Another one becomes a JPEG.

    Args:
        png: The image. Alpha is ignored.
        max_side: The maximum width and height, in pixels.
        max_bytes: The length to stay below, in bytes. A file that would need a JPEG of less than
            medium quality may be longer.

    Raises:
        InvalidImageError: If the pixels are corrupt.
    """
    if png.side <= max_side and len(png.data) <= max_bytes:
        return png.data, "image/png"
    image = decode_png(png).convert("RGB")
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    data = b""
    for quality in (95, 85, 70):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        data = buffer.getvalue()
        if len(data) <= max_bytes:
            break
    return data, "image/jpeg"


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
        image: An image in a plain mode, from `decode_png` or `decode_result`. These apply color
            information and orientation, resolve palettes, and reduce 16-bit samples to 8 bits.
    """
    digest = hashlib.sha256(f"{image.mode} {image.width}x{image.height}\n".encode())
    for _, part in strips(image):
        digest.update(part.tobytes())
    return digest.hexdigest()
