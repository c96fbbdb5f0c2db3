"""Image files that cost a decoder much more than their length, for `decoding.py` and the tests.

Each file is as bad as a file of its length can be: it repeats something that is short but costly to
decode.
"""

import io
import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple

from PIL import Image, ImageCms

Size = tuple[int, int]


class Attack(NamedTuple):
    """A kind of hostile file."""

    size: Size
    """The width and height that the header of the file promises."""
    build: Callable[[int], bytes]
    """Returns a file of about as many bytes, or of fewer if more would not make it worse."""
    is_result: bool = False
    """Whether it is decoded as a server's result instead of a source."""


# GIF.

_FRAME = bytes.fromhex("2c00000000010001000002024c0100")
"""An image of 1 x 1 pixels."""


def _gif(blocks: bytes) -> bytes:
    return b"GIF89a\x01\0\x01\0\x80\0\0" + bytes(3) + b"\xff\0\0" + blocks + b";"


def _gif_with_comments(length: int) -> bytes:
    return _gif(b"!\xfe" + b"\x02ab" * (length // 3) + b"\0" + _FRAME)


def _gif_with_small_blocks(length: int) -> bytes:
    return _gif(_FRAME[:-1] + b"\x01\0" * (length // 2) + b"\0" + _FRAME)


def _gif_with_extensions(length: int) -> bytes:
    return _gif(_FRAME + b"!\x01\x01\0\0" * (length // 5) + _FRAME)


def _gif_with_frames(length: int) -> bytes:
    return _gif(_FRAME * (length // len(_FRAME)))


# TIFF.

Tags = dict[int, tuple[int, int, int | bytes]]


def _tiff(size: Size, tags: Tags, pixels: bytes, compression: int = 1) -> bytes:
    """Return a TIFF file in gray.

    Args:
        size: The width and height.
        tags: The type, number and values of further tags. A value of -1 is the offset of `pixels`,
            and bytes are moved behind the directory.
        pixels: The bytes at the end of the file.
        compression: The compression of the strips or tiles.
    """
    entries: Tags = {
        256: (4, 1, size[0]),
        257: (4, 1, size[1]),
        258: (3, 1, 8),
        259: (3, 1, compression),
        262: (3, 1, 1),
        277: (3, 1, 1),
        **tags,
    }
    values_start = 8 + 2 + 12 * len(entries) + 4
    values_size = sum(len(value) for _, _, value in entries.values() if isinstance(value, bytes))
    rows, values = b"", b""
    for tag, (kind, count, value) in sorted(entries.items()):
        number = value
        if isinstance(value, bytes):
            number, values = values_start + len(values), values + value
        elif value == -1:
            number = values_start + values_size
        rows += struct.pack("<HHII", tag, kind, count, number)
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries))
    return head + rows + bytes(4) + values + pixels


def _tiff_with_strips(length: int) -> bytes:
    count = length // 4
    offsets = struct.pack("<I", 8) * count
    return _tiff((64, 1_398_101), {273: (4, count, offsets), 278: (4, 1, 1)}, bytes(70_000))


def _tiff_with_extra_strips(length: int) -> bytes:
    side = int((length / 2) ** 0.5)
    # A strip for each half of the image, and then all of them again and again.
    count, half = length // 8, side * side // 2
    offsets = struct.pack("<I", 8) * count
    return _tiff((side, side), {273: (4, count, offsets), 278: (4, 1, side // 2)}, bytes(half))


def _tiff_with_tiles(length: int) -> bytes:
    side = int((length / 2) ** 0.5)
    count = side * side
    tags: Tags = {322: (4, 1, 1), 323: (4, 1, 1), 324: (3, count, struct.pack("<H", 8) * count)}
    return _tiff((side, side), tags, bytes(70_000))


def _tiff_with_a_large_tile(length: int) -> bytes:
    width, height = 30_000, min(10_000, length // 31)
    tile = _zlib_zeros(width * height)
    tags: Tags = {322: (4, 1, width), 323: (4, 1, height), 324: (4, 1, -1), 325: (4, 1, len(tile))}
    return _tiff((16, 16), tags, tile, compression=8)


def _tiff_with_numbers(tag: int, kind: int, number: bytes) -> Callable[[int], bytes]:
    def build(length: int) -> bytes:
        count = length // len(number)
        tags: Tags = {
            tag: (kind, count, number * count),
            273: (4, 1, 8),
        }
        return _tiff((16, 16), tags, bytes(256))

    return build


def _tiff_with_entries(length: int) -> bytes:
    tags = {256: 16, 257: 16, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 16, 279: 256}
    rows = [struct.pack("<HHQQ", tag, 4, 1, value) for tag, value in tags.items()]
    rows += [struct.pack("<HHQQ", 40_000, 4, 1, 0)] * (length // 20)
    head = b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, len(rows))
    return head + b"".join(rows) + bytes(8)


def _tiff_with_jpeg_scans(length: int) -> bytes:
    # libtiff refuses 100 scans.
    size, jpeg = (9000, 9000), _jpeg_with_scans((9000, 9000), 99, length)
    tags: Tags = {273: (4, 1, -1), 278: (4, 1, 9000), 279: (4, 1, len(jpeg))}
    return _tiff(size, tags, jpeg, compression=7)


# BMP.


def _bmp(size: Size, run_lengths: bytes) -> bytes:
    palette = b"".join(bytes([value, 0, value, 0]) for value in range(256))
    info = struct.pack("<IiiHHIIiiII", 40, *size, 1, 8, 1, len(run_lengths), 0, 0, 256, 0)
    offset = 14 + len(info) + len(palette)
    head = b"BM" + struct.pack("<IHHI", offset + len(run_lengths), 0, 0, offset)
    return head + info + palette + run_lengths


def _bmp_with_empty_runs(length: int) -> bytes:
    # Runs after the end of a row have no pixels.
    return _bmp((255, 255), b"\xff\x01" + b"\x01\0" * (length // 2))


def _bmp_with_ends_of_rows(length: int) -> bytes:
    return _bmp((9459, 9459), b"\x01\x01\0\0" * 9459)


def _bmp_with_short_runs(length: int) -> bytes:
    side = int((length / 2) ** 0.5)
    return _bmp((side, side), (b"\x01\x07" * side + b"\0\0") * side)


# WebP.


def _webp(size: Size, chunks: bytes) -> bytes:
    sides = b"".join((side - 1).to_bytes(3, "little") for side in size)
    body = b"WEBPVP8X\x0a\0\0\0\x02\0\0\0" + sides + b"ANIM\x06\0\0\0" + bytes(6) + chunks
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _webp_frame() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "WEBP", lossless=True)
    image = buffer.getvalue()[12:]
    sides = (15).to_bytes(3, "little") * 2
    frame = bytes(6) + sides + b"\x01\0\0\0" + image
    return b"ANMF" + struct.pack("<I", len(frame)) + frame


def _webp_with_frames(length: int) -> bytes:
    frame = _webp_frame()
    return _webp((64, 64), frame * (length // len(frame)))


def _webp_with_chunks(length: int) -> bytes:
    return _webp((64, 64), _webp_frame() + b"none\0\0\0\0" * (length // 8))


def _webp_with_a_large_canvas(length: int) -> bytes:
    return _webp((9459, 9459), _webp_frame())


# PNG.


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _png(size: Size, chunks: bytes = b"", *, color_type: int = 0, bits: int = 8) -> bytes:
    header = struct.pack(">II5B", *size, bits, color_type, 0, 0, 0)
    samples = {0: 1, 6: 4}[color_type]
    pixels = _zlib_zeros(size[1] * (1 + size[0] * samples * bits // 8))
    parts = [_chunk(b"IHDR", header), chunks, _chunk(b"IDAT", pixels), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _zlib_zeros(length: int) -> bytes:
    packer = zlib.compressobj(9)
    pieces = [packer.compress(bytes(2**20)) for _ in range(length // 2**20)]
    return b"".join([*pieces, packer.compress(bytes(length % 2**20)), packer.flush()])


def _png_with_texts(length: int) -> bytes:
    return _png((16, 16), _chunk(b"tEXt", b"k\0v") * (length // 15))


def _png_with_profile_steps(length: int) -> bytes:
    buffer = io.BytesIO()
    # Pillow reads profiles of up to a megabyte from PNG files.
    profile = _profile_with_steps(min(length, 1_000_000))
    Image.new("RGB", (64, 64), (10, 200, 30)).save(buffer, "PNG", icc_profile=profile)
    return buffer.getvalue()


# JPEG.


def _jpeg(image: Image.Image | None = None, **options: bool | bytes) -> bytes:
    buffer = io.BytesIO()
    (image or Image.new("L", (64, 64), 128)).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def _jpeg_with_segments(marker: int, body: bytes) -> Callable[[int], bytes]:
    segment = bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body

    def build(length: int) -> bytes:
        jpeg = _jpeg()
        return jpeg[:2] + segment * (length // len(segment)) + jpeg[2:]

    return build


def _jpeg_with_scans(size: Size, count: int, length: int) -> bytes:
    data = _jpeg(progressive=True)
    frame, last = data.index(b"\xff\xc2") + 5, data.rindex(b"\xff\xda")
    data = data[:frame] + struct.pack(">HH", size[1], size[0]) + data[frame + 4 :]
    return data[:-2] + data[last:-2] * min(count - 6, length // (len(data) - last)) + data[-2:]


def _jpeg_with_rationals(length: int) -> bytes:
    count = min(length, 4_000_000) // 8
    rows = struct.pack("<HHII", 0x011A, 5, count, 38) + struct.pack("<HHII", 0x0128, 3, 1, 2)
    block = b"II*\0\x08\0\0\0\x02\0" + rows + bytes(4) + struct.pack("<II", 3, 7) * count
    segments = b""
    for start in range(0, len(block), 65_000):
        body = b"Exif\0\0" + block[start : start + 65_000]
        segments += b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    jpeg = _jpeg()
    return jpeg[:2] + segments + jpeg[2:]


def _jpeg_with_profile_steps(length: int) -> bytes:
    profile = _profile_with_steps(min(length, 16_000_000))
    return _jpeg(Image.new("RGB", (64, 64), (10, 200, 30)), icc_profile=profile)


def _profile_with_steps(length: int) -> bytes:
    """Return an sRGB profile with a float table (D2B0) of many steps that share their bytes."""
    count = length // 8
    step = b"matf" + bytes(4) + struct.pack(">HH12f", 3, 3, 0, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0)
    head = b"mpet" + bytes(4) + struct.pack(">HHI", 3, 3, count)
    table = head + struct.pack(">II", len(head) + 8 * count, len(step)) * count + step
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    (tags,) = struct.unpack_from(">I", profile, 128)
    bodies: list[tuple[bytes, bytes]] = []
    for start in range(132, 132 + 12 * tags, 12):
        name, offset, size = struct.unpack_from(">4sII", profile, start)
        bodies.append((name, profile[offset : offset + size]))
    bodies.append((b"D2B0", table))
    rows, content = struct.pack(">I", len(bodies)), b""
    for name, body in bodies:
        offset = 132 + 12 * len(bodies) + len(content)
        rows += struct.pack(">4sII", name, offset, len(body))
        content += body + bytes(-len(body) % 4)
    # Only profiles of version 4.3 and later have float tables.
    whole = profile[4:8] + b"\x04\x40\0\0" + profile[12:128] + rows + content
    return struct.pack(">I", 4 + len(whole)) + whole


_PHOTOSHOP = b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\0\0" * 5450
_QUANTIZATION = (b"\0" + b"\1" * 64) * 1008

ATTACKS: dict[str, Attack] = {
    "gif: comments of 2 bytes": Attack((1, 1), _gif_with_comments),
    "gif: blocks of 1 byte": Attack((1, 1), _gif_with_small_blocks),
    "gif: extensions": Attack((1, 1), _gif_with_extensions),
    "gif: frames": Attack((1, 1), _gif_with_frames),
    "tiff: strips of 1 row": Attack((64, 1_398_101), _tiff_with_strips),
    "tiff: strips beyond the last": Attack((1448, 1448), _tiff_with_extra_strips),
    "tiff: tiles of 1 pixel": Attack((1448, 1448), _tiff_with_tiles),
    "tiff: a tile larger than the image": Attack((16, 16), _tiff_with_a_large_tile),
    "tiff: rationals": Attack((16, 16), _tiff_with_numbers(282, 5, struct.pack("<II", 3, 7))),
    "tiff: short numbers": Attack((16, 16), _tiff_with_numbers(339, 3, struct.pack("<H", 1))),
    "tiff: entries": Attack((16, 16), _tiff_with_entries),
    "tiff: scans of a JPEG strip": Attack((9000, 9000), _tiff_with_jpeg_scans),
    "bmp: runs without pixels": Attack((255, 255), _bmp_with_empty_runs),
    "bmp: ends of rows": Attack((9459, 9459), _bmp_with_ends_of_rows),
    "bmp: runs of 1 pixel": Attack((1448, 1448), _bmp_with_short_runs),
    "webp: chunks": Attack((64, 64), _webp_with_chunks),
    "webp: frames": Attack((64, 64), _webp_with_frames),
    "webp: a canvas larger than its frame": Attack((9459, 9459), _webp_with_a_large_canvas),
    "png: 1 pixel wide": Attack((1, 89_478_485), lambda _: _png((1, 89_478_485))),
    "png: 16-bit RGBA": Attack((9459, 9459), lambda _: _png((9459, 9459), color_type=6, bits=16)),
    "png: steps of a profile": Attack((64, 64), _png_with_profile_steps),
    "png: texts in a result": Attack((16, 16), _png_with_texts, is_result=True),
    "jpeg: steps of a profile": Attack((64, 64), _jpeg_with_profile_steps),
    "jpeg: scans": Attack((9459, 9459), lambda _: _jpeg_with_scans((9459, 9459), 25, 2**20)),
    "jpeg: rationals": Attack((64, 64), _jpeg_with_rationals),
    "jpeg: quantization tables": Attack((64, 64), _jpeg_with_segments(0xDB, _QUANTIZATION)),
    "jpeg: blocks of Photoshop": Attack((64, 64), _jpeg_with_segments(0xED, _PHOTOSHOP)),
}
"""The attacks, by the format and what it repeats."""
