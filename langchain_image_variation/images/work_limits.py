"""Limits on decoding work, checked from the structure of a file before it is decoded.

Limits on bytes and pixels are not enough: a file of a few hundred kilobytes can keep a decoder busy
for hours. Every file that we did not write passes `check_work` before Pillow sees it, and Pillow
reads it through a `BoundedFile`, which limits what can't be seen in the structure.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import islice, takewhile

from langchain_image_variation.exceptions import InvalidImageError
from langchain_image_variation.images import bmp, jpeg, tiff, webp
from langchain_image_variation.images.formats import recognize_supported

__all__ = [
    "MAX_EXIF_NUMBERS",
    "MAX_EXIF_OVERLAP",
    "MAX_HEIF_PIXELS",
    "MAX_JPEG_EXIF_SEGMENTS",
    "MAX_JPEG_SAMPLES",
    "MAX_JPEG_SCANS",
    "MAX_JPEG_SEGMENTS",
    "MAX_JPEG_STRAY_BYTES",
    "MAX_JPEG_TABLE_BYTES",
    "MAX_PIXELS",
    "MAX_READS",
    "MAX_RLE_PIXELS",
    "MAX_RLE_READS",
    "MAX_TIFF_PARTS",
    "MAX_TILE_PIXELS",
    "MAX_WEBP_CHUNKS",
    "MIN_SIDE",
    "check_size",
    "check_work",
    "max_reads",
]

MAX_PIXELS = 89_478_485
"""The maximum number of pixels to decode: Pillow's own limit, a quarter of a GB as RGB samples.
Pillow only warns about an image with up to twice as many."""

MIN_SIDE = 64
"""A side of fewer pixels counts as this many in the limit on pixels, because each row also costs
time and memory. A PNG of 1 x 89,478,485 pixels took 4 seconds and 770 MB."""

MAX_READS = 262_144
"""Pillow may call `read` this many times for a file, or once per 32 bytes if that is more. Its
readers are written in Python, and take up to 2 microseconds per call. The smallest parts that
encoders write, the blocks of GIF files, have 255 bytes and take 2 calls."""

MAX_RLE_PIXELS = 2**24
"""The maximum number of pixels of a run-length encoded BMP image, 4096 x 4096, because Pillow
decodes this format in Python. It dates from the time of screens with 256 colors."""

MAX_RLE_READS = 2**22
"""Pillow may call `read` this many times for a run-length encoded BMP image, but only about twice
per pixel. It calls `read` twice per run, and simple encoders write a run for each pixel of noise.
"""

MAX_WEBP_CHUNKS = 16_384
"""A WebP file may have this many chunks, or one per 256 bytes if that is more, because libwebp
keeps a record of each. Animations have one chunk per frame."""

MAX_TIFF_PARTS = 16_384
"""A TIFF image may have this many strips or tiles, or one per 1,024 pixels of each plane if that is
more: rows of 1,024 pixels, or tiles of 32 x 32. Pillow keeps a record of each, and sets up a
decoder for it. Encoders write strips of 8 KB or more, and tiles of at least 64 x 64."""

MAX_TILE_PIXELS = 2**24
"""The tiles of a TIFF image may have this many pixels in total, or four times as many as the image
if that is more. A tile is decoded in full, even if the image fills only a corner of it."""

MAX_EXIF_NUMBERS = 262_144
"""The directories of Exif, of an MPO file's index or of a TIFF file may hold at most this many
numbers, because Pillow turns each into a Python object. The longest list that TIFF 6.0 defines is
the palette of a 16-bit image, with 196,608 numbers."""

MAX_JPEG_TABLE_BYTES = 65_536
"""The quantization tables before the first scan of a JPEG file may have at most this many bytes in
total, because Pillow parses them in Python. A decoder can use four tables, which take 516."""

MAX_JPEG_SCANS = 100
"""A JPEG file may have at most this many scans, because each costs a pass over the whole image,
even if it has no data. libjpeg's own progressive script writes 6 scans for a gray image, 10 for
YCbCr and 18 for CMYK, and other encoders about 14. libtiff has the same limit for JPEG in TIFF."""

MAX_JPEG_SAMPLES = 25 * MAX_PIXELS
"""The scans of a JPEG file may read at most this many samples in total. libjpeg's own script reads
each of a CMYK image's four samples 6 times, or 24 samples per pixel, the most of any mode. The
limit allows this for the largest image that is decoded, one of `MAX_PIXELS`."""

MAX_JPEG_SEGMENTS = 16_384
"""A JPEG file may have at most this many segments, because Pillow keeps each unknown one. Metadata
of 64 MB fills about a thousand."""

MAX_JPEG_EXIF_SEGMENTS = 64
"""Exif and Photoshop's blocks may each have at most this many segments (4 MB). Pillow copies all
previous segments of Exif each time it appends one, and parses the blocks in Python. Cameras write
one of each, rarely more."""

MAX_EXIF_OVERLAP = 4
"""The values in the directories of Exif, of an MPO file's index or of a TIFF file may be at most
this many times as long as the block that holds them. Pillow before 13.0 copies each value, even if
they overlap. Cameras write values that do not overlap and are therefore shorter than the block."""

MAX_JPEG_STRAY_BYTES = 65_536
"""Before its first scan, a JPEG file may have at most this many bytes outside its segments, because
Pillow skips them one at a time. Encoders write none, or a few to align a segment."""


MAX_HEIF_PIXELS = 4 * MAX_PIXELS
"""The parts of an AVIF or HEIC file that are decoded for its image may have at most this many
pixels, counting each use of a part. The tiles of a photo are decoded and then copied into place, so
they count twice. Transparency is a second image. So a source of the maximum size fits."""


def check_size(width: int, height: int) -> None:
    """Refuse an image that has too many pixels, or is too long and narrow.

    Raises:
        InvalidImageError: If the pixels, with short sides counted as `MIN_SIDE`, exceed
            `MAX_PIXELS`.
    """
    if width * height > MAX_PIXELS:
        raise InvalidImageError(
            f"image is {width}x{height}, {width * height:,} pixels; the limit is {MAX_PIXELS:,}. "
            "Scale it down first."
        )
    if max(width, MIN_SIDE) * max(height, MIN_SIDE) > MAX_PIXELS:
        raise InvalidImageError(
            f"image is {width}x{height}, which is too long and narrow. A side of fewer than "
            f"{MIN_SIDE} pixels counts as {MIN_SIDE}, and the limit is {MAX_PIXELS:,} pixels. "
            "Crop it first."
        )


def max_reads(data: bytes) -> int:
    """Return how many times Pillow may call `read` for a file."""
    size = bmp.read_run_lengths(data)
    if size is not None:
        # Each pixel may be a run, and each row has an end mark.
        return min(MAX_RLE_READS, 2 * size.width * size.height + 8 * size.height + 1024)
    return max(MAX_READS, len(data) // 32)


def check_work(data: bytes) -> None:
    """Refuse a file that takes far longer to decode than an image of its size should.

    Nothing is decoded, and the time is linear in the length of the file. The format is recognized
    by the first bytes. Files in formats without a check pass.

    Args:
        data: The bytes of a file of any kind.

    Raises:
        InvalidImageError: If the structure of the file exceeds a limit of this module or of
            `isobmff`, or if it is a JPEG of a kind that libjpeg does not decode.
    """
    if data.startswith(jpeg.SIGNATURE):
        _check_jpeg(data)
    elif data.startswith(tiff.SIGNATURES):
        _check_tiff(data)
    elif webp.is_webp(data):
        _check_webp(data)
    elif recognize_supported(data) in ("AVIF", "HEIC"):
        _check_heif(data)
    else:
        _check_bmp(data)


def _check_bmp(data: bytes) -> None:
    size = bmp.read_run_lengths(data)
    if size is not None and size.width * size.height > MAX_RLE_PIXELS:
        raise InvalidImageError(
            f"image is a run-length encoded BMP file of {size.width}x{size.height} pixels; the "
            f"limit is {MAX_RLE_PIXELS:,} pixels. Save it as a PNG file."
        )


def _check_webp(data: bytes) -> None:
    limit = max(MAX_WEBP_CHUNKS, len(data) // 256)
    if webp.count_chunks(data, limit + 1) > limit:
        raise InvalidImageError(
            f"image is a WebP file that exceeds the limit of {limit:,} chunks. Save it again with "
            "fewer frames."
        )


def _check_heif(data: bytes) -> None:
    # Imported here because few images need it, and every import delays the tool.
    from langchain_image_variation.images import isobmff

    structure = isobmff.read_structure(data)
    if structure.largest_image_pixels > MAX_PIXELS:
        raise InvalidImageError(
            f"image is an AVIF or HEIC file with a part of {structure.largest_image_pixels:,} "
            f"pixels; the limit is {MAX_PIXELS:,}. Scale it down first."
        )
    if structure.decoded_pixels > MAX_HEIF_PIXELS:
        raise InvalidImageError(
            "image is an AVIF or HEIC file whose parts have a total of "
            f"{structure.decoded_pixels:,} pixels; the limit is {MAX_HEIF_PIXELS:,}. Export it as "
            "PNG or JPEG."
        )
    for block in structure.exif:
        _check_directories(block, "an AVIF or HEIC file whose metadata")


def _check_tiff(data: bytes) -> None:
    directories = _check_directories(data, "a TIFF file whose")
    if not directories:
        return
    layout = tiff.read_layout(directories[0])
    if layout.has_duplicates:
        raise InvalidImageError(
            "image is a TIFF file that states its size or the location of its pixels twice. "
            "Save it again."
        )
    for grid in layout.grids:
        _check_grid(grid, layout.width * layout.height)
    _check_jpeg_parts(data, tiff.read_jpeg_parts(directories[0]))


def _check_grid(grid: tiff.Grid, pixels: int) -> None:
    limit = max(MAX_TIFF_PARTS, grid.planes * pixels // 1024)
    if grid.parts > limit:
        raise InvalidImageError(
            f"image is a TIFF file with {grid.parts:,} strips or tiles; the limit is {limit:,}. "
            "Save it again with larger ones."
        )
    if grid.claimed_parts > grid.parts:
        raise InvalidImageError(
            f"image is a TIFF file with {grid.claimed_parts:,} strips or tiles, but its pixels "
            f"fill only {grid.parts:,}. Save it again."
        )
    limit = max(MAX_TILE_PIXELS, 4 * pixels)
    if grid.decoded_pixels > limit:
        raise InvalidImageError(
            f"image is a TIFF file whose tiles have {grid.decoded_pixels:,} pixels; the limit is "
            f"{limit:,} for an image of {pixels:,}. Save it again with smaller tiles."
        )


def _check_jpeg_parts(data: bytes, jpeg_parts: Sequence[tuple[int, int]]) -> None:
    """Refuse JPEG parts whose scans read too many samples. Several parts may share bytes."""
    parts = Counter(jpeg_parts)
    # If a part has no length, libtiff reads up to the end of the file.
    files = {(start, size): data[start : start + size if size else None] for start, size in parts}
    if sum(len(file) for file in files.values()) > MAX_EXIF_OVERLAP * len(data):
        raise InvalidImageError(
            "image is a TIFF file whose strips or tiles overlap more than "
            f"{MAX_EXIF_OVERLAP} times. Save it again."
        )
    samples = sum(
        count * sum(jpeg.count_scanned_samples(jpeg.read_segments(files[part])))
        for part, count in parts.items()
        if len(files[part]) > 2
    )
    if samples > MAX_JPEG_SAMPLES:
        raise InvalidImageError(
            f"image is a TIFF file whose JPEG scans read {samples:,} samples; the limit is "
            f"{MAX_JPEG_SAMPLES:,}. Save it again with another compression."
        )


def _check_directories(block: bytes, subject: str) -> list[tiff.Directory]:
    """Return the directories of a block, unless Pillow would copy or convert too much of them.

    Args:
        block: A TIFF file, or a block of the same form.
        subject: The part of the message that comes before the exceeded limit.
    """
    directories = list(tiff.read_directories(block))
    if any(len(directory.entries) > tiff.MAX_ENTRIES for directory in directories):
        raise InvalidImageError(
            f"image is {subject} directory exceeds the limit of {tiff.MAX_ENTRIES:,} entries. "
            "Save it again without its metadata."
        )
    if sum(directory.value_bytes for directory in directories) > MAX_EXIF_OVERLAP * len(block):
        raise InvalidImageError(
            f"image is {subject} values overlap more than {MAX_EXIF_OVERLAP} times. "
            "Save it again without its metadata."
        )
    numbers = sum(directory.numbers for directory in directories)
    if numbers > MAX_EXIF_NUMBERS:
        raise InvalidImageError(
            f"image is {subject} values include {numbers:,} numbers; the limit is "
            f"{MAX_EXIF_NUMBERS:,}. Save it again without its metadata."
        )
    return directories


def _check_jpeg(data: bytes) -> None:
    segments = list(islice(jpeg.read_segments(data), MAX_JPEG_SEGMENTS + 1))
    header = list(takewhile(lambda segment: not segment.is_scan, segments))
    if any(segment.is_reserved for segment in header):
        raise InvalidImageError(
            "image is a JPEG file of a kind that is not supported. "
            "Save it again as a baseline JPEG or a PNG file."
        )
    if len(segments) > MAX_JPEG_SEGMENTS:
        raise InvalidImageError(
            f"image is a JPEG file with too many segments; the limit is {MAX_JPEG_SEGMENTS:,}. "
            "Save it again without its metadata."
        )
    header_end = segments[len(header)].start if len(header) < len(segments) else len(data)
    stray_bytes = header_end - 2 - sum(segment.end - segment.start for segment in header)
    if stray_bytes > MAX_JPEG_STRAY_BYTES:
        raise InvalidImageError(
            f"image is a JPEG file with {stray_bytes:,} bytes between its segments; the limit is "
            f"{MAX_JPEG_STRAY_BYTES:,}. Save it again."
        )
    _check_frame(header)
    _check_metadata(header)
    _check_scans(segments)


def _check_frame(header: Sequence[jpeg.Segment]) -> None:
    frames = [segment for segment in header if segment.is_frame]
    if len(frames) > 1:
        raise InvalidImageError(
            f"image is a JPEG file with {len(frames):,} frame headers; the limit is 1. "
            "Save it again as a baseline JPEG or a PNG file."
        )
    if frames and len(frames[0].body) > jpeg.MAX_FRAME_BYTES:
        raise InvalidImageError(
            f"image is a JPEG file with a frame header of {len(frames[0].body):,} bytes; the limit "
            f"is {jpeg.MAX_FRAME_BYTES}. Save it again as a baseline JPEG or a PNG file."
        )


def _check_metadata(header: Sequence[jpeg.Segment]) -> None:
    exif = [segment.body[6:] for segment in header if segment.is_exif]
    photoshop_blocks = sum(segment.is_photoshop for segment in header)
    for count, name in ((len(exif), "Exif"), (photoshop_blocks, "Photoshop's blocks")):
        if count > MAX_JPEG_EXIF_SEGMENTS:
            raise InvalidImageError(
                f"image is a JPEG file with {count:,} segments of {name}; the limit is "
                f"{MAX_JPEG_EXIF_SEGMENTS}. Save it again without its metadata."
            )
    table_bytes = sum(len(segment.body) for segment in header if segment.is_quantization)
    if table_bytes > MAX_JPEG_TABLE_BYTES:
        raise InvalidImageError(
            f"image is a JPEG file with {table_bytes:,} bytes of quantization tables; the limit is "
            f"{MAX_JPEG_TABLE_BYTES:,}. Save it again."
        )
    # Pillow reads the last of several indexes, and skips a second identifier in Exif.
    index = [segment.body[4:] for segment in header if segment.is_index][-1:]
    for block in (b"".join(exif).removeprefix(b"Exif\0\0"), b"".join(index)):
        _check_directories(block, "a JPEG file whose metadata")


def _check_scans(segments: Sequence[jpeg.Segment]) -> None:
    samples = list(jpeg.count_scanned_samples(segments))
    if len(samples) > MAX_JPEG_SCANS:
        raise InvalidImageError(
            f"image is a JPEG file with {len(samples):,} scans; the limit is {MAX_JPEG_SCANS}. "
            "Save it again as a baseline JPEG or a PNG file."
        )
    if sum(samples) > MAX_JPEG_SAMPLES:
        raise InvalidImageError(
            f"image is a JPEG file whose {len(samples)} scans read {sum(samples):,} samples; "
            f"the limit is {MAX_JPEG_SAMPLES:,}. Save it again as a baseline JPEG or a PNG file."
        )
