import io
import struct
import zlib
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from langchain_image_variation.exceptions import InvalidImageError
from langchain_image_variation.images.pixels import decode_png
from langchain_image_variation.images.png import MAX_PNG_BYTES, MAX_PNG_SIDE, SquarePNG
from langchain_image_variation.images.png.chunks import strip_metadata
from pytest_image_variation.samples import (
    corrupt_png,
    jpeg,
    non_square_png,
    oversized_png,
    square_png,
    truncated_png,
)

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(name: bytes, body: bytes = b"") -> bytes:
    """Return a chunk with the correct length and checksum."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def header(width: int = 1, height: int = 1, *rest: int) -> bytes:
    """Return an IHDR chunk. Last: depth, color type, compression, filter, interlace."""
    return chunk(b"IHDR", struct.pack(">II5B", width, height, *(rest or (8, 0, 0, 0, 0))))


PIXEL = chunk(b"IDAT", zlib.compress(b"\0\0"))
END = chunk(b"IEND")
PALETTED = header(1, 1, 8, 3, 0, 0, 0)
PALETTE = chunk(b"PLTE", b"abc")


def test_reads_the_header() -> None:
    """A valid file is kept byte for byte, and its header fields are available."""
    data = square_png(48, "RGBA")
    png = SquarePNG(data)
    assert (png.data, png.side, png.bit_depth, png.color_type) == (data, 48, 8, 6)
    assert len(png.sha256) == 64
    assert png == SquarePNG(data)
    assert repr(png) == "SquarePNG(side=48, bit_depth=8, color_type=6)"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_accepts_every_mode_of_pillow(mode: str) -> None:
    """Gray, palette, RGB, alpha and 16-bit files are valid."""
    buffer = io.BytesIO()
    Image.new(mode, (3, 3)).save(buffer, "PNG")
    assert SquarePNG(buffer.getvalue()).side == 3


@pytest.mark.parametrize(
    "data",
    [
        SIGNATURE + header() + PIXEL + END,
        SIGNATURE + PALETTED + PALETTE + chunk(b"tRNS", b"\0") + PIXEL + END,
        SIGNATURE + header() + chunk(b"tEXt", b"k\0v") * 3 + PIXEL + PIXEL + END,
        SIGNATURE + header() + chunk(b"gAMA", b"\0\0\0\1") + PIXEL + chunk(b"tIME", b"") + END,
        SIGNATURE + header(1, 1, 8, 2, 0, 0, 1) + PIXEL + END,
        SIGNATURE + header() + PIXEL + chunk(b"eXIf", b"MM") + END,
        SIGNATURE + header() + chunk(b"IDAT") + PIXEL + END,
        SIGNATURE + header() + chunk(b"sPLT") * 2 + chunk(b"prIv") * 2 + PIXEL + END,
    ],
    ids=["least", "palette", "text", "gamma", "interlaced", "late exif", "empty", "private"],
)
def test_accepts_valid_structures(data: bytes) -> None:
    """Every structure that the PNG specification allows is accepted."""
    assert SquarePNG(data).side == 1


BROKEN: list[tuple[bytes, str]] = [
    (b"", "image is empty"),
    (b"GIF89a", "not a PNG file"),
    (jpeg(), "not a PNG file"),
    (SIGNATURE[:-1], "not a PNG file"),
    (SIGNATURE + bytes(MAX_PNG_BYTES - 8), "4,194,304 bytes; it must have fewer than 4,194,304"),
    (SIGNATURE, "IEND is missing"),
    (SIGNATURE + b"\0" * 5, "cut off at byte 13"),
    (SIGNATURE + PIXEL + END, "first chunk is not IHDR"),
    (SIGNATURE + chunk(b"IHDR", b"\0" * 12) + PIXEL + END, "IHDR has 12 bytes"),
    (SIGNATURE + header(0, 0) + PIXEL + END, "IHDR declares 0x0"),
    (SIGNATURE + header(2**31, 2**31) + PIXEL + END, "IHDR declares 2147483648x"),
    (SIGNATURE + header(1, 1, 3, 0, 0, 0, 0) + PIXEL + END, "bit depth 3"),
    (SIGNATURE + header(1, 1, 16, 3, 0, 0, 0) + PALETTE + PIXEL + END, "bit depth 16"),
    (SIGNATURE + header(1, 1, 8, 1, 0, 0, 0) + PIXEL + END, "color type 1"),
    (SIGNATURE + header(1, 1, 8, 0, 1, 0, 0) + PIXEL + END, "compression 1"),
    (SIGNATURE + header(1, 1, 8, 0, 0, 1, 0) + PIXEL + END, "filter 1"),
    (SIGNATURE + header(1, 1, 8, 0, 0, 0, 2) + PIXEL + END, "interlace 2"),
    (non_square_png(96, 64), "must be square, got 96x64 pixels; crop or pad"),
    (SIGNATURE + header(8193, 8193) + PIXEL + END, "8193x8193 pixels; the limit is 8192x8192"),
    (SIGNATURE + header(40_000, 40_000) + PIXEL + END, "the limit is 8192x8192"),
    (SIGNATURE + header() + END, "no IDAT"),
    (SIGNATURE + header() + PIXEL, "IEND is missing"),
    (SIGNATURE + header() + PIXEL + chunk(b"IEND", b"x"), "IEND is not empty"),
    (SIGNATURE + header() + PIXEL + END + b"tail", "4 bytes follow IEND"),
    (SIGNATURE + header() + header() + PIXEL + END, "IHDR occurs twice"),
    (SIGNATURE + header() + PIXEL + chunk(b"tEXt") + PIXEL + END, "not consecutive"),
    (SIGNATURE + PALETTED + PIXEL + END, "PLTE is missing"),
    (SIGNATURE + PALETTED + PALETTE * 2 + PIXEL + END, "PLTE occurs twice"),
    (SIGNATURE + PALETTED + PALETTE + PIXEL + chunk(b"tRNS", b"\0") + END, "after IDAT"),
    (SIGNATURE + PALETTED + chunk(b"tRNS", b"\0") + PALETTE + PIXEL + END, "1 entries for 0"),
    (SIGNATURE + PALETTED + PALETTE + chunk(b"tRNS", b"\0\0") + PIXEL + END, "2 entries for 1"),
    (
        SIGNATURE + header(1, 1, 8, 2, 0, 0, 0) + chunk(b"bKGD") + PALETTE + PIXEL + END,
        "depends on it",
    ),
    (SIGNATURE + header() + chunk(b"hIST") + PIXEL + END, "hIST has no PLTE"),
    (SIGNATURE + header() + chunk(b"acTL") * 2 + PIXEL + END, "acTL occurs twice"),
    (SIGNATURE + header() + PIXEL + chunk(b"eXIf") * 2 + END, "eXIf occurs twice"),
    (SIGNATURE + header() + chunk(b"tEXt") * 16_384 + PIXEL + END, "limit of 16,384 chunks"),
    (non_square_png(64, 96), "must be square, got 64x96"),
    (SIGNATURE + PALETTED + PALETTE + chunk(b"gAMA") + PIXEL + END, "gAMA comes after PLTE"),
    (SIGNATURE + PALETTED + chunk(b"PLTE", b"ab") + PIXEL + END, "PLTE has 2 bytes"),
    (SIGNATURE + PALETTED + chunk(b"PLTE") + PIXEL + END, "PLTE has 0 bytes"),
    (
        SIGNATURE + header(1, 1, 1, 3, 0, 0, 0) + chunk(b"PLTE", b"abc" * 3) + PIXEL + END,
        "PLTE has 9 bytes; it may have 3 to 6",
    ),
    (SIGNATURE + header() + PALETTE + PIXEL + END, "not allowed in a grayscale"),
    (SIGNATURE + header() + PIXEL + PALETTE + END, "PLTE comes after IDAT"),
    (
        SIGNATURE + header(1, 1, 8, 6, 0, 0, 0) + chunk(b"tRNS", b"\0") + PIXEL + END,
        "tRNS is not allowed",
    ),
    (SIGNATURE + header() + chunk(b"QUUX") + PIXEL + END, "critical chunk QUUX is unknown"),
    (SIGNATURE + header() + chunk(b"a\0bc") + PIXEL + END, "should begin a chunk name"),
    (SIGNATURE + header() + PIXEL[:-1] + b"!" + END, "the checksum of IDAT at byte 33"),
    (truncated_png(), "cut off"),
    (SIGNATURE + header() + b"\x7f\xff\xff\xffIDAT" + b"x" * 9, "inside IDAT"),
]


@pytest.mark.parametrize(("data", "message"), BROKEN, ids=[message for _, message in BROKEN])
def test_refuses_a_corrupt_file_and_says_why(data: bytes, message: str) -> None:
    """The error for a corrupt file names the rule and the value."""
    with pytest.raises(InvalidImageError) as caught:
        SquarePNG(data)
    assert message in str(caught.value)
    assert (caught.value.status_code, caught.value.param) == (400, "image")


def test_refuses_a_large_image() -> None:
    """The error for an image of more than 4 MB names the limit."""
    with pytest.raises(InvalidImageError, match=r"it must have fewer than 4,194,304 \(4 MB\)"):
        SquarePNG(oversized_png())


@pytest.mark.parametrize("value", [None, "text", bytearray(b"x"), 7])
def test_refuses_other_types_than_bytes(value: object) -> None:
    """The error for another type than bytes names the type."""
    with pytest.raises(InvalidImageError, match=type(value).__name__):
        SquarePNG(value)  # type: ignore[arg-type]  # the wrong type is the point


def test_refuses_a_bomb_by_its_header() -> None:
    """A small file that would decompress to gigabytes is refused without decompressing it."""
    bomb = SIGNATURE + header(60_000, 60_000) + chunk(b"IDAT", zlib.compress(bytes(10**6))) + END
    with pytest.raises(InvalidImageError, match="60000x60000"):
        SquarePNG(bomb)


def test_accepts_the_largest_side_and_length() -> None:
    """Exactly the largest side, and one byte less than 4 MB, are valid."""
    parts = SIGNATURE + header(MAX_PNG_SIDE, MAX_PNG_SIDE), PIXEL + END
    room = MAX_PNG_BYTES - 1 - sum(map(len, parts)) - 12
    data = parts[0] + chunk(b"tEXt", b"k\0" + b"v" * (room - 2)) + parts[1]
    assert len(data) == MAX_PNG_BYTES - 1
    assert SquarePNG(data).side == MAX_PNG_SIDE


def test_corrupt_pixels_are_refused_on_decoding() -> None:
    """A file with a valid structure and corrupt pixels is refused when it is decoded."""
    png = SquarePNG(corrupt_png())
    with pytest.raises(InvalidImageError, match="pixels cannot be decompressed"):
        decode_png(png)


@pytest.mark.parametrize(
    "text",
    [
        chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(50_000_000), 1)),
        chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(bytes(50_000_000), 1)),
        chunk(b"tEXt", b"workflow\0" + b"x" * 3_000_000),
        chunk(b"tEXt", b"Raw profile type exif\0\nexif\n 3\nzzz"),
    ],
    ids=["zTXt", "iTXt", "tEXt", "profile"],
)
def test_text_chunks_are_not_decompressed(text: bytes) -> None:
    """An image with any text chunk is decoded like one without text."""
    valid_png = square_png(16)
    data = valid_png[:33] + text + valid_png[33:]
    assert strip_metadata(data) == valid_png == strip_metadata(valid_png)
    assert decode_png(SquarePNG(data)).tobytes() == decode_png(SquarePNG(valid_png)).tobytes()


def _flip(data: bytes, at: int, bit: int) -> bytes:
    damaged = bytearray(data)
    damaged[at % len(data)] ^= 1 << bit
    return bytes(damaged)


def _cut(data: bytes, at: int, bit: int) -> bytes:
    return data[: at % len(data)]


def _double(data: bytes, at: int, bit: int) -> bytes:
    at %= len(data)
    return data[:at] + data[at // 2 : at] + data[at:]


@given(st.binary(max_size=200) | st.binary(max_size=200).map(SIGNATURE.__add__))
@example(SIGNATURE + header())
def test_any_bytes_are_a_png_or_our_error(data: bytes) -> None:
    """No bytes raise anything except InvalidImageError."""
    try:
        assert SquarePNG(data).data == data
    except InvalidImageError as error:
        assert str(error).endswith(".")


@given(
    st.sampled_from([_flip, _cut, _double]),
    st.sampled_from(["RGB", "RGBA", "P", "L"]),
    st.integers(0, 10**6),
    st.integers(0, 7),
)
def test_a_damaged_png_is_refused(
    damage: Callable[[bytes, int, int], bytes], mode: str, at: int, bit: int
) -> None:
    """A changed bit, a cut or a repeated part of a valid file is always noticed."""
    valid_png = square_png(16, mode)
    data = damage(valid_png, at, bit)
    if data != valid_png:
        with pytest.raises(InvalidImageError):
            SquarePNG(data)


_BODIES = st.binary(max_size=30) | st.just(zlib.compress(b"\0\0"))
_NAMES = st.sampled_from(
    [b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"tEXt", b"zTXt", b"iCCP", b"eXIf"]
)


@given(st.lists(st.builds(chunk, _NAMES, _BODIES), max_size=6))
def test_any_chunks_are_decoded_or_our_error(chunks: list[bytes]) -> None:
    """Chunks with correct checksums in any order never raise another error."""
    try:
        decode_png(SquarePNG(SIGNATURE + header() + b"".join(chunks) + PIXEL + END))
    except InvalidImageError:
        pass
