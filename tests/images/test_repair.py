"""PNG sources that viewers open although they break a rule are repaired, and the note says how."""

import struct
import zlib

import pytest

from langchain_image_variation.exceptions import InvalidImageError
from langchain_image_variation.images.pixels import decode_png
from langchain_image_variation.images.png import SquarePNG
from langchain_image_variation.source import load_source
from tests.images.encoder import GRAY, RGB, SIGNATURE, SampleImage, chunk, split_chunks
from tests.images.libpng import libpng_reader
from tests.images.valid import random_image

GRAY_100 = SampleImage(GRAY, 8, [[(100,)]])
LINEAR, SRGB = (chunk(b"gAMA", struct.pack(">I", value)) for value in (100_000, 45_455))
DAMAGED = LINEAR[:-1] + bytes([LINEAR[-1] ^ 1])
SHORT = chunk(b"gAMA", bytes(3))
LIGHT, UNCHANGED = 168, 100


@pytest.mark.parametrize(
    ("first", "last", "shown", "note"),
    [
        (LINEAR + SRGB, b"", LIGHT, "image: left out bad chunks (gAMA occurs twice)."),
        (SRGB + LINEAR, b"", UNCHANGED, "image: left out bad chunks (gAMA occurs twice)."),
        (SHORT + LINEAR, b"", LIGHT, "gAMA has 3 bytes instead of 4)."),
        (DAMAGED + SRGB, b"", UNCHANGED, "(the checksum of gAMA at byte 33 is wrong)."),
        (DAMAGED + LINEAR, b"", LIGHT, "(the checksum of gAMA at byte 33 is wrong)."),
        (b"", LINEAR, UNCHANGED, "(gAMA comes after IDAT)."),
    ],
    ids=["linear, sRGB", "sRGB, linear", "short", "damaged, sRGB", "damaged, linear", "late"],
)
def test_the_first_valid_gamma_counts(first: bytes, last: bytes, shown: int, note: str) -> None:
    """Of several gAMA chunks, the first valid one before the pixels is applied, as by libpng."""
    source = load_source(GRAY_100.replace_fields(first=first, last=last).png())
    assert decode_png(source.png).getpixel((0, 0)) == shown
    assert source.note.endswith(note)


def test_a_wrong_palette_suggestion_changes_nothing() -> None:
    """A palette in a gray image is left out. Two palettes in an RGB image are an error."""
    palette = chunk(b"PLTE", bytes(9))
    source = load_source(GRAY_100.replace_fields(first=palette).png())
    assert source.png.data == GRAY_100.png()
    with pytest.raises(InvalidImageError, match="PLTE occurs twice"):
        load_source(random_image(RGB, 8).replace_fields(first=palette * 2).png())


def test_a_wrong_palette_suggestion_does_not_drop_transparency() -> None:
    """A transparent color before a palette counts, as in libpng, if the palette is left out."""
    black, read = SampleImage(RGB, 8, [[(0, 0, 0)]]), libpng_reader()
    transparency, bad, good = chunk(b"tRNS", bytes(6)), chunk(b"PLTE", b"x"), chunk(b"PLTE", b"xyz")
    for first, alpha in (
        (transparency + bad, 0),
        (transparency + bad + transparency, 0),
        (transparency + good, 255),
        (transparency + good + transparency, 255),
        (good + transparency, 0),
    ):
        data = black.replace_fields(first=first).png()
        assert read(data) == [(0, 0, 0, alpha)]
        image = decode_png(load_source(data).png).convert("RGBA").getchannel("A")
        assert image.getpixel((0, 0)) == alpha


@pytest.mark.parametrize("name", [b"pHYs", b"tIME", b"bKGD", b"sBIT", b"tEXt"])
def test_metadata_may_be_wrong_in_any_way(name: bytes) -> None:
    """Chunks that no pixel depends on are always left out, so they may occur twice."""
    data = GRAY_100.replace_fields(first=chunk(name, b"12") * 2, last=chunk(name)).png()
    source = load_source(data)
    assert source.png.data == GRAY_100.png()
    assert source.note == ""


def test_many_bad_chunks_have_a_short_note() -> None:
    """The note names three of the bad chunks, and counts the others."""
    source = load_source(GRAY_100.replace_fields(first=DAMAGED * 5_000).png())
    assert source.note.count("gAMA") == 3
    assert source.note.endswith(" and 4,997 more).")


def test_strict_says_what_would_be_repaired() -> None:
    """With `fit="strict"`, a repairable file is refused with the reason and the way out."""
    data = GRAY_100.replace_fields(first=SRGB * 2).png()
    with pytest.raises(
        InvalidImageError, match=r"gAMA occurs twice\. fit='crop', fit='pad' or fit='keep'"
    ):
        load_source(data, fit="strict")
    with pytest.raises(InvalidImageError, match="gAMA occurs twice"):
        SquarePNG(data)


def test_a_long_file_that_is_cut_off_is_compressed_again() -> None:
    """A file without the checksum of its pixels gets a valid one, and keeps its pixels."""
    sample = random_image(RGB, 16).replace_fields(pieces=4, filters=(1, 2, 3, 4))
    chunks = sample.chunks()
    data = SIGNATURE + b"".join(chunks[:-1])[:-6]
    repaired = load_source(data).png
    body = b"".join(body for name, body in split_chunks(repaired.data) if name == b"IDAT")
    assert zlib.decompress(body) == sample.scanlines()
    assert load_source(data).note == "image: added the missing end of the file."


def test_a_missing_row_is_an_error() -> None:
    """A file that ends before its last row, even by a byte, is refused."""
    sample = random_image(RGB, 8)
    for raw in (sample.scanlines()[:-1], b""):
        body = chunk(b"IDAT", zlib.compress(raw))
        for end in (len(body), len(body) - 2, len(body) - 6):
            with pytest.raises(InvalidImageError, match="its pixels end early: the file is cut"):
                load_source(SIGNATURE + sample.chunks()[0] + body[:end])


def test_a_bomb_that_is_cut_off_is_refused_by_its_header() -> None:
    """The pixels are counted before a file that is cut off is decompressed."""
    header = chunk(b"IHDR", struct.pack(">II5B", 30_000, 30_000, 8, 2, 0, 0, 0))
    with pytest.raises(InvalidImageError, match="900,000,000 pixels; the limit is"):
        load_source(SIGNATURE + header + chunk(b"IDAT", zlib.compress(bytes(10**7))))
