"""How much work a file may ask of a decoder, judged by its structure before it is decoded.

The number of bytes and pixels does not bound the work: a few hundred kilobytes can keep a decoder
busy for hours. Every file that is not one of ours passes `check_work` before Pillow sees it.
"""

from langchain_image_variation import jpeg
from langchain_image_variation.exceptions import InvalidImageError

__all__ = [
    "MAX_JPEG_EXIF_SEGMENTS",
    "MAX_JPEG_SAMPLES",
    "MAX_JPEG_SCANS",
    "MAX_JPEG_SEGMENTS",
    "MAX_JPEG_STRAY_BYTES",
    "check_work",
]

MAX_JPEG_SCANS = 100
"""A JPEG file may have at most this many scans, because each costs a pass over the whole picture,
even if it has no data. libjpeg's own progressive script writes 6 scans for a grey picture, 10 for
YCbCr and 18 for CMYK, and other encoders about 14. libtiff has the same limit for JPEG in TIFF."""

MAX_JPEG_SAMPLES = 25 * 89_478_485
"""The scans of a JPEG file may pass over at most this many samples in all. libjpeg's own script
passes over each sample of a CMYK picture 6 times, so 24 times over its pixels, and nothing that it
writes needs more. So the limit fits the largest picture that is decoded, of 89,478,485 pixels."""

MAX_JPEG_SEGMENTS = 16_384
"""A JPEG file may have at most this many segments, because Pillow keeps each one that it does not
know. Metadata of 64 MB fills about a thousand."""

MAX_JPEG_EXIF_SEGMENTS = 64
"""Exif may have at most this many segments, 4 MB, because Pillow copies all that it has for each
further one. Cameras write one, and seldom a few."""

MAX_JPEG_STRAY_BYTES = 65_536
"""Before its first scan, a JPEG file may have at most this many bytes outside its segments, because
Pillow skips them one at a time. Encoders write none, or a few to align a segment."""


def check_work(data: bytes) -> None:
    """Refuse a file that would take far longer to decode than a picture of its size needs.

    Nothing is decoded or copied, and the time is linear in the length of the file. The format is
    recognized by the first bytes. A file of a format without a check passes.

    Args:
        data: The bytes of a file of any kind.

    Raises:
        InvalidImageError: If the file is a JPEG with more scans, samples in its scans, segments or
            bytes outside its segments than the limits of this module allow.
    """
    if data.startswith(jpeg.SIGNATURE):
        _check_jpeg(data)


def _check_jpeg(data: bytes) -> None:
    found: list[jpeg.Segment] = []
    for segment in jpeg.segments(data):
        if len(found) == MAX_JPEG_SEGMENTS:
            raise InvalidImageError(
                f"image is a JPEG file with more than {MAX_JPEG_SEGMENTS:,} segments, the limit; "
                "save it again without its metadata."
            )
        found.append(segment)
    first_scan = next((at for at, segment in enumerate(found) if segment.is_scan), len(found))
    header_end = found[first_scan].start if first_scan < len(found) else len(data)
    header = found[:first_scan]
    stray = header_end - 2 - sum(segment.end - segment.start for segment in header)
    if stray > MAX_JPEG_STRAY_BYTES:
        raise InvalidImageError(
            f"image is a JPEG file with {stray:,} bytes between its segments; the limit is "
            f"{MAX_JPEG_STRAY_BYTES:,}. Save it again."
        )
    exif = sum(segment.is_exif for segment in found)
    if exif > MAX_JPEG_EXIF_SEGMENTS:
        raise InvalidImageError(
            f"image is a JPEG file with {exif:,} segments of Exif; the limit is "
            f"{MAX_JPEG_EXIF_SEGMENTS}. Save it again without its metadata."
        )
    samples = list(jpeg.scanned_samples(found))
    if len(samples) > MAX_JPEG_SCANS:
        raise InvalidImageError(
            f"image is a JPEG file with {len(samples):,} scans; the limit is {MAX_JPEG_SCANS}. "
            "Save it again as a baseline JPEG or a PNG file."
        )
    if sum(samples) > MAX_JPEG_SAMPLES:
        raise InvalidImageError(
            f"image is a JPEG file whose {len(samples)} scans pass over {sum(samples):,} samples; "
            f"the limit is {MAX_JPEG_SAMPLES:,}. Save it again as a baseline JPEG or a PNG file."
        )
