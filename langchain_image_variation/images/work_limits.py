"""Limits on decoding work, checked from the structure of a file before it is decoded.

Limits on bytes and pixels are not enough: a file of a few hundred kilobytes can keep a decoder busy
for hours. Every file that we did not write passes `check_work` before Pillow sees it.
"""

from collections.abc import Sequence
from itertools import islice, takewhile

from langchain_image_variation.exceptions import InvalidImageError
from langchain_image_variation.images import jpeg, tiff
from langchain_image_variation.images.formats import recognize_supported

__all__ = [
    "MAX_EXIF_OVERLAP",
    "MAX_HEIF_PIXELS",
    "MAX_JPEG_EXIF_SEGMENTS",
    "MAX_JPEG_FRAME_BYTES",
    "MAX_JPEG_SAMPLES",
    "MAX_JPEG_SCANS",
    "MAX_JPEG_SEGMENTS",
    "MAX_JPEG_STRAY_BYTES",
    "MAX_PIXELS",
    "check_work",
]

MAX_PIXELS = 89_478_485
"""An image that is decoded may have at most this many pixels: Pillow's own limit, a quarter of a GB
as RGB samples. Pillow only warns about an image of up to twice as many."""

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
"""Exif may have at most this many segments (4 MB), because Pillow copies all previous segments each
time it appends one. Cameras write one, rarely more."""

MAX_EXIF_OVERLAP = 4
"""The values in the directories of Exif, of an MPO file's index or of a TIFF file may be at most
this many times as long as the block that holds them. Pillow before 13.0 copies each value, even if
they overlap. Cameras write values that do not overlap and are therefore shorter than the block."""

MAX_JPEG_FRAME_BYTES = 6 + 3 * 255
"""The body of a frame header (SOF) may have at most this many bytes, the limit of T.81, B.2.2. A
JPEG file may have one frame header. Pillow keeps all components of each frame."""

MAX_JPEG_STRAY_BYTES = 65_536
"""Before its first scan, a JPEG file may have at most this many bytes outside its segments, because
Pillow skips them one at a time. Encoders write none, or a few to align a segment."""


MAX_PIXELS = 89_478_485
"""The maximum number of pixels of an image: Pillow's own limit, a quarter of a GB as RGB
samples."""

MAX_HEIF_PIXELS = 4 * MAX_PIXELS
"""The parts of an AVIF or HEIC file that are decoded for its image may have at most this many
pixels, counting each use of a part. Photos are put together from tiles, which are decoded once and
then copied, and transparency is a second image. So twice the largest image, and transparency."""


def check_work(data: bytes) -> None:
    """Refuse a file that takes far longer to decode than an image of its size should.

    Nothing is decoded, and the time is linear in the length of the file. The format is recognized
    by the first bytes. Files in formats without a check pass.

    Args:
        data: The bytes of a file of any kind.

    Raises:
        InvalidImageError: If the file is a JPEG of a kind that libjpeg does not decode, if it has
            more than one frame header, or if its scans, the samples in its scans, its segments, the
            bytes outside its segments or its overlapping metadata exceed a limit of this module; if
            it is a TIFF file with more overlapping values than `MAX_EXIF_OVERLAP` allows; or if the
            parts of an AVIF or HEIC file exceed a limit of this module or of `isobmff`.
    """
    if data.startswith(jpeg.SIGNATURE):
        _check_jpeg(data)
    elif recognize_supported(data) in ("AVIF", "HEIC"):
        _check_heif(data)
    elif tiff.count_value_bytes(data) > MAX_EXIF_OVERLAP * len(data):
        raise InvalidImageError(
            f"image is a TIFF file whose values overlap more than {MAX_EXIF_OVERLAP} times, "
            "the limit. Save it again without its metadata."
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
            f"image is an AVIF or HEIC file whose parts have {structure.decoded_pixels:,} pixels; "
            f"the limit is {MAX_HEIF_PIXELS:,}. Export it as PNG or JPEG."
        )
    for block in structure.exif:
        if tiff.count_value_bytes(block) > MAX_EXIF_OVERLAP * len(block):
            raise InvalidImageError(
                "image is an AVIF or HEIC file whose metadata values overlap more than "
                f"{MAX_EXIF_OVERLAP} times, the limit. Save it again without its metadata."
            )


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
    if frames and len(frames[0].body) > MAX_JPEG_FRAME_BYTES:
        raise InvalidImageError(
            f"image is a JPEG file with a frame header of {len(frames[0].body):,} bytes; the limit "
            f"is {MAX_JPEG_FRAME_BYTES}. Save it again as a baseline JPEG or a PNG file."
        )


def _check_metadata(header: Sequence[jpeg.Segment]) -> None:
    exif = [segment.body[6:] for segment in header if segment.is_exif]
    if len(exif) > MAX_JPEG_EXIF_SEGMENTS:
        raise InvalidImageError(
            f"image is a JPEG file with {len(exif):,} segments of Exif; the limit is "
            f"{MAX_JPEG_EXIF_SEGMENTS}. Save it again without its metadata."
        )
    # Pillow reads the last of several indexes, and skips a second identifier in Exif.
    index = [segment.body[4:] for segment in header if segment.is_index][-1:]
    for block in (b"".join(exif).removeprefix(b"Exif\0\0"), b"".join(index)):
        if tiff.count_value_bytes(block) > MAX_EXIF_OVERLAP * len(block):
            raise InvalidImageError(
                "image is a JPEG file whose metadata values overlap more than "
                f"{MAX_EXIF_OVERLAP} times, the limit. Save it again without its metadata."
            )


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
