"""Between files and pixels: the one place where pictures are decoded, normalised and encoded.

Pixels are Pillow images in one of four plain modes, 8 bits a sample: "L", "LA", "RGB" or "RGBA".
"""

import hashlib
import io
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import ExifTags, Image, ImageChops

from langchain_image_variation.exceptions import (
    ImageVariationError,
    InvalidImageError,
    OutputError,
)
from langchain_image_variation.images.color import profile, to_srgb
from langchain_image_variation.images.png import SquarePNG
from langchain_image_variation.images.png.chunks import (
    INDEXED,
    LOOK,
    PIXELS,
    SIGNATURE,
    Header,
    check_order,
    corrupt,
    read,
    replaced,
    without,
    without_metadata,
)
from langchain_image_variation.images.png.scanlines import check_scanlines
from langchain_image_variation.images.work_limits import check_work

__all__ = [
    "PLAIN_MODES",
    "as_png",
    "decode",
    "decode_result",
    "decoding",
    "encode",
    "is_plain",
    "on_white",
    "open_image",
    "open_png",
    "pixel_sha256",
    "plain",
    "whiten_hidden",
]

PLAIN_MODES = ("L", "LA", "RGB", "RGBA")
"""The modes that `plain` returns: grey or RGB, without or with alpha, 8 bits a sample."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture of each EXIF orientation upright (EXIF 3.0, tag 0x0112)."""


def decode(png: SquarePNG) -> Image.Image:
    """Return the pixels of a picture in a plain mode, `png.side` pixels wide and high.

    Raises:
        InvalidImageError: If the compressed pixels are not exactly those that the header announces,
            or a pixel has no colour in the palette.
    """
    with decoding(corrupt("its pixels cannot be decoded")), open_png(png.data) as image:
        return plain(image)


def open_image(data: bytes, formats: tuple[str, ...] | None = None) -> Image.Image:
    """Open a file without decoding its pixels yet: the only way in which a file reaches Pillow.

    Args:
        data: The bytes of a file.
        formats: The formats that may be opened, by Pillow's names; by default, all that it knows.

    Raises:
        InvalidImageError: If the file would take too much work to decode. Pillow's own exceptions
            propagate: call this inside `decoding`.
    """
    check_work(data)
    return Image.open(io.BytesIO(data), formats=formats)


def open_png(data: bytes) -> Image.Image:
    """Return the decoded picture of a PNG file of any shape, for `plain`.

    Chunks that say nothing of pixels are not read, so a text that would inflate to gigabytes costs
    nothing.

    Args:
        data: The bytes of a file.

    Raises:
        InvalidImageError: If the file breaks a rule of the specification, or a pixel has no colour
            in the palette. A decoder's own exceptions propagate: call this inside `decoding`.
    """
    data = without(data, keep=PIXELS | LOOK)
    head, _ = check_order(read(data))
    check_scanlines(data)
    image = open_image(_as_pillow_reads_it(data, head), ("PNG",))
    image.load()
    if head.color_type == INDEXED:
        colors = next(len(body) // 3 for name, body in read(data) if name == b"PLTE")
        if int(image.getextrema()[1]) >= colors:  # type: ignore[arg-type]  # a pair, as for any single band
            raise corrupt("a pixel has no colour in the palette")
    return image


def _as_pillow_reads_it(data: bytes, head: Header) -> bytes:
    """Return a file in which the transparent colour of tRNS is as Pillow compares it.

    It compares what the file says with samples that it has made 8 bits wide before: those of 2 and
    4 bits it scaled up, and of 16-bit colour it kept the high byte.
    """
    if head.color_type == INDEXED:
        return data
    top = 2**head.bit_depth - 1

    def scaled(body: memoryview) -> bytes:
        samples = [value & top for (value,) in struct.iter_unpack(">H", body)]
        if head.bit_depth in (2, 4):
            samples = [value * 255 // top for value in samples]
        elif head.bit_depth == 16 and len(samples) == 3:
            samples = [value >> 8 for value in samples]
        return struct.pack(f">{len(samples)}H", *samples)

    return replaced(data, b"tRNS", scaled)


def on_white(png: SquarePNG) -> SquarePNG:
    """Return a picture as a person sees it on a white page, without alpha and without metadata.

    This is what may be sent to a model that is not ours: whatever it does with alpha, a profile or
    EXIF, it sees what the person sees. A picture that has none of these is returned as it is.

    Raises:
        InvalidImageError: If the pixels are corrupt, or the PNG would have 4 MB or more.
    """
    names = {name.encode() for name in png.chunk_names}
    if png.color_type in (4, 6) or names & {b"cHRM", b"eXIf", b"gAMA", b"iCCP", b"tRNS"}:
        return SquarePNG(encode(_on_white(decode(png))))
    bare = without_metadata(png.data)
    return png if len(bare) == len(png.data) else SquarePNG(bare)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode not in ("LA", "RGBA"):
        return image
    page = Image.new(image.mode[:-1], image.size, "white")
    for top, part in _strips(image):
        strip = Image.new("RGBA", part.size, "white")
        strip.alpha_composite(part.convert("RGBA"))
        page.paste(strip.convert(page.mode), (0, top))
    return page


def decode_result(data: bytes) -> Image.Image:
    """Return the pixels of what an engine answered; some servers send JPEG or WebP.

    Raises:
        OutputError: If it is not a readable picture of one of these formats, or would take too much
            work to decode.
    """
    failure = OutputError("A result holds no readable PNG, JPEG or WebP picture.")
    try:
        with decoding(failure), open_image(data, ("PNG", "JPEG", "WEBP")) as image:
            return plain(image)
    except InvalidImageError as error:
        raise OutputError(f"A result cannot be decoded: {error.message}") from None


def as_png(data: bytes, side: int | None = None) -> tuple[bytes, Image.Image]:
    """Return an engine's result as a PNG file, and its pixels in a plain mode.

    A PNG that need not be scaled is returned byte for byte.

    Args:
        data: The bytes of a PNG, JPEG or WebP file.
        side: The width and height to scale it to, in pixels; by default it keeps its own.

    Raises:
        OutputError: If it is not a readable picture of one of these formats, or would take too much
            work to decode.
    """
    image = decode_result(data)
    if side is not None and image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.LANCZOS)
    elif data.startswith(SIGNATURE):
        return data, image
    return encode(image), image


@contextmanager
def decoding(failure: ImageVariationError) -> Iterator[None]:
    """Turn anything that Pillow raises inside the block into `failure`, and silence its warnings.

    Pillow's own texts are dropped: they may show addresses and paths.

    Args:
        failure: The error to raise.
    """
    try:
        with _silence:
            yield
    except ImageVariationError:
        raise
    # For a broken file Pillow's decoders raise almost anything, struct.error and zlib.error too.
    except Exception:
        raise failure from None


class _Silence:
    """Ignores Pillow's warnings, such as those of broken EXIF, while any thread is inside.

    `warnings.catch_warnings` puts back all filters as they were, also those that other threads have
    changed meanwhile; this adds one filter and takes it out.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filter: object = None

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                warnings.filterwarnings("ignore", module=r"PIL\.")
                self._filter = warnings.filters[0]

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._filter in warnings.filters:
                warnings.filters.remove(self._filter)  # type: ignore[attr-defined]  # it is a list


_silence = _Silence()


def plain(
    image: Image.Image,
    box: tuple[int, int, int, int] | None = None,
    enough: int | None = None,
) -> Image.Image:
    """Return the picture in a plain mode: sRGB, upright, alpha kept, 16-bit samples scaled down.

    EXIF orientation and what the file says of its colours are applied, colours under an alpha that
    shows nothing are made white, and everything that is not pixels is dropped. A frame of an
    animation is taken as it stands. Broken EXIF and a broken profile are as good as none. Grey of
    16 bits is rounded to 8; of 16-bit colour and alpha Pillow keeps the high byte.

    Args:
        image: A picture in any of Pillow's modes. It is not changed.
        box: The part to return, as left, top, right and bottom in pixels before the picture is
            turned upright; by default all of it.
        enough: A side in pixels. If the shorter side has several times as many, whole blocks of
            pixels are averaged first, which saves memory; it stays at least so long.
    """
    # A PNG file's EXIF may come after its pixels.
    image.load()
    turn = _UPRIGHT.get(_orientation(image))
    icc = profile(image)
    original, image = image, _part(image, box or (0, 0, *image.size), enough)
    alpha = image.has_transparency_data
    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    grey = image.mode in ("1", "L", "LA", "La")
    if icc is not None:
        image = to_srgb(image, icc)
    mode = ("LA" if alpha else "L") if grey else ("RGBA" if alpha else "RGB")
    if image.mode != mode or image is original:
        image = image.convert(mode)
    image.info = {}
    whiten_hidden(image)
    return image if turn is None else image.transpose(turn)


def is_plain(image: Image.Image) -> bool:
    """Say whether the samples of a decoded PNG file show, by themselves, what `plain` returns."""
    if _orientation(image) in _UPRIGHT or profile(image) is not None:
        return False
    if not image.has_transparency_data:
        return True
    if image.mode not in ("P", "LA", "RGBA"):
        # A colour that stands for transparency is hidden where it occurs.
        return False
    return not any(whiten_hidden(part.convert("RGBA")) for _, part in _strips(image))


_SEEN = 8
"""An alpha below this shows at most a thirtieth of a colour: nothing."""


def whiten_hidden(image: Image.Image) -> bool:
    """Make white what alpha shows nothing of, and say whether there was anything else.

    Colours there can hold a picture that no person sees, but a model whose programs drop alpha.

    Args:
        image: A picture in a plain mode. It is changed, but not its alpha.
    """
    if image.mode not in ("LA", "RGBA"):
        return False
    changed = False
    for top, part in _strips(image):
        *colors, alpha = part.split()
        unseen = alpha.point([255] * _SEEN + [0] * (256 - _SEEN))
        if unseen.getbbox() is not None:
            whitened = [ImageChops.lighter(color, unseen) for color in colors]
            white = Image.merge(part.mode, [*whitened, alpha])
            if white.tobytes() != part.tobytes():
                image.paste(white, (0, top))
                changed = True
    return changed


_STRIP = 256
"""So many rows are worked on at a time: a large picture needs no second one beside it."""


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield copies of parts of full width, each with the row it begins at."""
    for top in range(0, image.height, _STRIP):
        yield top, image.crop((0, top, image.width, min(top + _STRIP, image.height)))


def encode(image: Image.Image, *, compress_level: int = 6) -> bytes:
    """Return the picture as the bytes of a PNG file without metadata.

    Args:
        image: A picture in a plain mode.
        compress_level: 0 (none) to 9 (smallest).
    """
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=compress_level)
    return buffer.getvalue()


def pixel_sha256(image: Image.Image) -> str:
    r"""Return the SHA-256 of an image's mode, size and samples, in hex.

    It is the same for every file that holds these pixels. Compression, filters, interlacing and
    metadata differ between versions of Pillow and zlib, and do not count.

    The hash covers one ASCII line, such as ``RGB 1024x768\n`` (mode, width, height), and then the
    8-bit samples, row by row, those of each pixel together. For a PNG file of 8-bit samples without
    palette and metadata, as the `local` engine writes, this is the same::

        image = PIL.Image.open(path)
        head = f"{image.mode} {image.width}x{image.height}\n".encode()
        hashlib.sha256(head + numpy.asarray(image).tobytes()).hexdigest()

    Args:
        image: An image in a plain mode, from `decode` or `decode_result`: these apply what the file
            says about colors and orientation, resolve palettes, and reduce 16-bit samples to 8.
    """
    digest = hashlib.sha256(f"{image.mode} {image.width}x{image.height}\n".encode())
    for _, part in _strips(image):
        digest.update(part.tobytes())
    return digest.hexdigest()


def _part(image: Image.Image, box: tuple[int, int, int, int], enough: int | None) -> Image.Image:
    left, top, right, bottom = box
    factor = min(right - left, bottom - top) // enough if enough else 1
    # Of a colour that stands for transparency, averages would be other colours.
    if factor > 1 and image.mode in (*PLAIN_MODES, "CMYK") and "transparency" not in image.info:
        return image.reduce(factor, box)
    return image if box == (0, 0, *image.size) else image.crop(box)


def _orientation(image: Image.Image) -> int:
    """Return the orientation that the picture's EXIF names, or 1, which changes nothing.

    Pillow's own reader takes that of XMP too, which no browser heeds, and warns of broken EXIF.
    """
    exif = image.info.get("exif")
    exif = exif.removeprefix(b"Exif\0\0") if isinstance(exif, bytes) else b""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, at)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind, values, value = struct.unpack_from(f"{order}HHIH", exif, entry)
            if (tag, kind, values) == (ExifTags.Base.Orientation, _SHORT, 1):
                return int(value)
    except struct.error:
        pass
    return 1


_SHORT = 3
"""The type of a 16-bit number in EXIF."""


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit, 32-bit and float samples to 8 bits; Pillow's own conversion clips them."""
    # Few pictures need this, and the import takes longer than converting most of them.
    import numpy as np

    samples = np.asarray(image)
    finite = samples[np.isfinite(samples)]
    low, high = (finite.min(), finite.max()) if finite.size else (0, 0)
    if image.mode != "F" and low >= 0 and high <= 65535:
        low, high = 0, 65535
    scale = 255 / (float(high) - float(low)) if high > low else 0.0
    scaled = (np.nan_to_num(samples, posinf=high, neginf=low) - float(low)) * scale
    grey = Image.fromarray(scaled.round().clip(0, 255).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey.putalpha(Image.fromarray(np.where(samples == transparent, 0, 255).astype(np.uint8)))
    return grey
