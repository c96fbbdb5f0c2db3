"""Recognizes the format of a file by its first bytes, to open the file or to say why it cannot be.

Suffixes and declared types do not count. Only the formats in `FORMATS` reach a decoder.
"""

import re
from typing import NamedTuple

__all__ = [
    "FORMATS",
    "SUFFIXES",
    "UnsupportedFormat",
    "recognize_supported",
    "recognize_unsupported",
]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIC")
"""The formats that a source may have. Pillow opens all of them but HEIC, which needs the extra
`heif`. The only other decoder of Pillow that a source can reach is the one for MPO, which is a JPEG
file with further images."""

SUFFIXES = frozenset(
    {
        *(".avif", ".bmp", ".gif", ".heic", ".heif", ".hif", ".jfif", ".jpeg", ".jpg", ".png"),
        *(".tif", ".tiff", ".webp"),
    }
)
"""The suffixes of image files, for searching a folder."""

_HEAD = 1024
"""The number of bytes to examine. XML and HTML may begin with comments."""


class UnsupportedFormat(NamedTuple):
    """A format that is recognized but not supported."""

    name: str
    """What the file is, with an article, such as "a PDF document"."""
    way_out: str
    """One sentence that says what to do instead."""


def recognize_supported(data: bytes) -> str | None:
    """Return the format of a file, or None if it is not in `FORMATS`."""
    head = data[:_HEAD]
    for name, pattern in _SUPPORTED:
        if re.match(pattern, head, re.DOTALL):
            return name
    major_brand, *compatible_brands = _brands(head) or [b""]
    if major_brand in _AVIF_BRANDS:
        return "AVIF"
    if major_brand in _CONTAINER_BRANDS and not _AVIF_BRANDS.isdisjoint(compatible_brands):
        return "AVIF"
    return "HEIC" if major_brand in _HEIC_BRANDS | _CONTAINER_BRANDS else None


def recognize_unsupported(data: bytes) -> UnsupportedFormat | None:
    """Return the format of a file that is not in `FORMATS`, or None if it is unknown."""
    head = data[:_HEAD]
    for name, way_out, pattern in _UNSUPPORTED:
        if re.match(pattern, head, re.DOTALL):
            return UnsupportedFormat(name, way_out)
    return None


def _brands(head: bytes) -> list[bytes]:
    """Return the brands of an ISO media file (ISO/IEC 14496-12, 4.3), the major one first."""
    if head[4:8] != b"ftyp":
        return []
    end = min(int.from_bytes(head[:4]), len(head))
    return [head[8:12], *(head[start : start + 4] for start in range(16, end, 4))]


_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_CONTAINER_BRANDS = frozenset({b"mif1", b"msf1"})
"""The brands of images in any codec. The compatible brands name the codec."""

# Regular expressions for the beginning of a file, in which a dot matches any byte. They are
# compiled on first use, because few files need most of them.
_SUPPORTED = (
    ("PNG", rb"\x89PNG\r\n\x1a\n"),
    ("JPEG", rb"\xff\xd8\xff"),
    ("WEBP", rb"RIFF....WEBP"),
    ("GIF", rb"GIF8[79]a"),
    ("BMP", rb"BM"),
    ("TIFF", rb"II[*+]\x00|MM\x00[*+]"),
)

_EXPORT = "Export it as PNG or JPEG."
_EXPORT_FRAME = "Save one frame as PNG or JPEG."
_UNPACK = "Unpack it and pass one of its images."
# Control characters are not text. The last character may be cut off.
_UTF_8 = rb"(?:[\t-\r\x1b -~]|[\xc2-\xf4][\x80-\xbf]{1,3})++[\xc2-\xf4]?\Z"
_TEXT = rb"(?i)(?:\xef\xbb\xbf)?\s*"

# What the file is, what to do instead, and the pattern. The first match counts.
_UNSUPPORTED = (
    ("a PDF document", "Export the page as PNG or JPEG.", rb"%PDF-"),
    (
        "an SVG drawing",
        _EXPORT,
        _TEXT + rb"(?:<svg[\s>/]|(?:<\?xml|<!--|<!DOCTYPE svg).*?<svg[\s>/])",
    ),
    (
        "an HTML page",
        "Download the image itself: the address may have led to an error or login page.",
        # Atomic groups, so that many comments do not take exponential time.
        _TEXT + rb"(?>(?:<!--.*?-->|<\?xml.*?\?>)\s*)*+(?:<!DOCTYPE html|<html[\s>])",
    ),
    ("a PostScript or EPS file", _EXPORT, rb"%!PS|\xc5\xd0\xd3\xc6"),
    ("a Photoshop document (PSD)", _EXPORT, rb"8BPS"),
    ("a GIMP image (XCF)", _EXPORT, rb"gimp xcf"),
    ("an ICO icon", _EXPORT, rb"\x00\x00\x01\x00[^\x00]"),
    ("a CUR cursor", _EXPORT, rb"\x00\x00\x02\x00[^\x00]"),
    ("an ICNS icon", _EXPORT, rb"icns"),
    ("a JPEG XL image", _EXPORT, rb"\xff\x0a|\x00\x00\x00\x0cJXL \r\n\x87\n"),
    ("a JPEG 2000 image", _EXPORT, rb"\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
    ("a JPEG XR image", _EXPORT, rb"II\xbc\x01"),
    ("a camera raw file", _EXPORT, rb"....ftypcrx |FUJIFILMCCD-RAW|IIR[OS]|IIU\x00"),
    ("an OpenEXR image", _EXPORT, rb"v/1\x01"),
    ("a Radiance HDR image", _EXPORT, rb"#\?(?:RADIANCE|RGBE)"),
    ("a DDS texture", _EXPORT, rb"DDS "),
    ("a QOI image", _EXPORT, rb"qoif"),
    ("a PPM, PGM or PBM image", _EXPORT, rb"P[1-7]\s"),
    ("a PCX image", _EXPORT, rb"\n[\x00-\x05]\x01[\x01\x02\x04\x08]"),
    ("a Windows metafile", _EXPORT, rb"\xd7\xcd\xc6\x9a|\x01\x00\x00\x00\x6c\x00\x00\x00"),
    ("an MP4 or MOV video", _EXPORT_FRAME, rb"....(?:ftyp|moov|mdat|wide)"),
    ("a WebM or Matroska video", _EXPORT_FRAME, rb"\x1a\x45\xdf\xa3"),
    ("an AVI video", _EXPORT_FRAME, rb"RIFF....AVI "),
    ("a ZIP archive or Office document", _UNPACK, rb"PK\x03\x04"),
    ("a compressed file", _UNPACK, rb"\x1f\x8b|BZh|\xfd7zXZ\x00|7z\xbc\xaf|Rar!"),
    (
        "a Git LFS pointer",
        "Run 'git lfs pull' to download the image.",
        rb"version https://git-lfs\.github\.com/",
    ),
    (
        "an image in base64",
        "Decode it, or pass it as a data: URL.",
        # The beginnings of PNG, JPEG, GIF and WebP files.
        rb"data:image/|iVBORw0KGgo|/9j/|R0lGOD|UklGR",
    ),
    ("text", "Pass an image file, such as a PNG or JPEG.", _UTF_8),
)
