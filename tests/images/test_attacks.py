import io
import runpy
import struct
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageCms

from langchain_image_variation.exceptions import ImageVariationError, InvalidImageError
from langchain_image_variation.images import tiff
from langchain_image_variation.images.bounded_file import MAX_REREAD, BoundedFile
from langchain_image_variation.images.color import convert_to_srgb
from langchain_image_variation.images.pixels import decode_result, open_image
from langchain_image_variation.images.work_limits import (
    MAX_JPEG_EXIF_SEGMENTS,
    MAX_PIXELS,
    MAX_READS,
    MAX_TIFF_PARTS,
    MIN_SIDE,
    check_size,
    check_work,
)
from langchain_image_variation.source import load_source

FILES = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "hostile_files.py"))
ATTACKS: dict[str, Any] = FILES["ATTACKS"]

LENGTH = 4_300_000
LOADED = "loaded"
OUTCOMES = {
    "gif: comments of 2 bytes": "exceeds the limit of 262,144 reads",
    "gif: blocks of 1 byte": "exceeds the limit of 262,144 reads",
    "gif: extensions": "exceeds the limit of 262,144 reads",
    "gif: frames": LOADED,
    "tiff: strips of 1 row": "with 1,398,101 strips or tiles; the limit is 87,381",
    "tiff: strips beyond the last": "strips or tiles, but its pixels fill only 2",
    "tiff: tiles of 1 pixel": "strips or tiles; the limit is 16,384",
    "tiff: a tile larger than the image": "whose tiles have 300,000,000 pixels; the limit is",
    "tiff: rationals": "whose values include 537,506 numbers; the limit is 262,144",
    "tiff: short numbers": "whose values include 2,150,006 numbers; the limit is 262,144",
    "tiff: entries": "directory exceeds the limit of 8,192 entries",
    "tiff: scans of a JPEG strip": "whose JPEG scans read 8,019,000,000 samples",
    "bmp: runs without pixels": "exceeds the limit of 133,114 reads",
    "bmp: ends of rows": "run-length encoded BMP file of 9459x9459 pixels; the limit is 16,777,216",
    "bmp: runs of 1 pixel": "exceeds the limit of 4,194,304 reads",
    "webp: chunks": "is a WebP file that exceeds the limit of",
    "webp: frames": "is a WebP file that exceeds the limit of",
    "png: 1 pixel wide": "image is 1x89478485, which is too long and narrow",
    "png: steps of a profile": LOADED,
    "png: texts in a result": "exceeds the limit of 262,144 reads",
    "jpeg: steps of a profile": LOADED,
    "jpeg: rationals": "numbers; the limit is 262,144",
    "jpeg: quantization tables": "bytes of quantization tables; the limit is 65,536",
    "jpeg: blocks of Photoshop": "with 65 segments of Photoshop's blocks; the limit is 64",
}
"""The outcome of each attack. Attacks that cost no more than their pixels are left out."""
LONG_ATTACKS = {
    *("bmp: runs of 1 pixel", "tiff: a tile larger than the image", "png: 1 pixel wide"),
}
AS_PROMISED = {"webp: a canvas larger than its frame", "png: 16-bit RGBA", "jpeg: scans"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in LONG_ATTACKS else ())
        for name in OUTCOMES
    ],
)
def test_attacks_are_refused_or_cost_nothing(name: str) -> None:
    """A file that repeats something costly is refused, or the repetition is skipped."""
    attack = ATTACKS[name]
    load = decode_result if attack.is_result else load_source
    try:
        load(attack.build(LENGTH))
        outcome = LOADED
    except ImageVariationError as error:
        outcome = error.message
    assert OUTCOMES[name] in outcome


def test_every_attack_is_tested() -> None:
    """Every attack of the benchmark is tested here."""
    assert ATTACKS.keys() == OUTCOMES.keys() | AS_PROMISED


# The file that Pillow reads.


def test_reads_are_counted() -> None:
    """A decoder may call `read` as often as the limit says, and no more."""
    file = BoundedFile(b"12345", 3)
    assert [file.read(1) for _ in range(3)] == [b"1", b"2", b"3"]
    with pytest.raises(InvalidImageError, match="limit of 3 reads for a file"):
        file.read(1)


def test_bytes_that_are_read_again_are_counted() -> None:
    """A decoder may read the whole file several times, but not hundreds of times."""
    file = BoundedFile(bytes(100_000), MAX_READS)
    for _ in range(MAX_REREAD):
        file.seek(0)
        assert len(file.read()) == 100_000
    file.seek(0)
    with pytest.raises(InvalidImageError, match="whose parts overlap more than 8 times"):
        file.read()


# Profiles.


def test_float_tables_of_profiles_are_not_applied() -> None:
    """Float tables are ignored, as in browsers, because each of their many steps costs time."""
    profile = FILES["_profile_with_steps"](80)
    image = Image.new("RGB", (2, 2), (10, 200, 30))
    reader = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    srgb = ImageCms.createProfile("sRGB")
    swapped = ImageCms.profileToProfile(image, reader, srgb, outputMode="RGB")
    assert swapped is not None
    assert swapped.getpixel((0, 0)) != (10, 200, 30)
    assert convert_to_srgb(image, profile).getpixel((0, 0)) == (10, 200, 30)


# Sizes.


def test_a_narrow_side_counts_as_64_pixels() -> None:
    """A strip of a million pixels is accepted, and one of 1.4 million is too long."""
    check_size(1, MAX_PIXELS // MIN_SIDE)
    check_size(MAX_PIXELS // MIN_SIDE, 1)
    check_size(9459, 9459)
    for size in ((1, 1_398_102), (1_398_102, 1), (63, 1_398_102)):
        with pytest.raises(InvalidImageError, match="too long and narrow"):
            check_size(*size)
    with pytest.raises(InvalidImageError, match="9460x9460, 89,491,600 pixels; the limit is"):
        check_size(9460, 9460)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF"])
def test_long_and_narrow_images_are_refused(format: str) -> None:
    """The size is checked in every format, for sources and for results."""
    buffer = io.BytesIO()
    Image.new("1", (1, 1_400_000)).save(buffer, format)
    with pytest.raises(InvalidImageError, match="too long and narrow"):
        load_source(buffer.getvalue())
    with pytest.raises(InvalidImageError, match="too long and narrow"):
        open_image(buffer.getvalue())


# Honest files.


def _saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.mostly_slow("RGB-raw", "L-tiff_lzw", "RGB-jpeg")
@pytest.mark.parametrize(
    "compression",
    ["raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"],
)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_tiff_files_of_libtiff_are_accepted(compression: str, mode: str) -> None:
    """Files with one strip per row, or a single strip, are accepted."""
    image = Image.effect_noise((300, 700), 60).convert(mode)
    for rows in (1 if compression != "jpeg" else 16, 700):
        data = _saved(image, "TIFF", compression=compression, tiffinfo={278: rows})
        assert load_source(data).png.side == 300


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16", "F", "RGBA", "LA", "CMYK", "LAB"])
@pytest.mark.parametrize("big", [False, True], ids=["TIFF", "BigTIFF"])
def test_tiff_files_of_every_mode_are_accepted(mode: str, big: bool) -> None:
    """Files from Pillow are accepted in every mode that it writes."""
    image = Image.new(mode, (300, 200))
    assert load_source(_saved(image, "TIFF", big_tiff=big)).png.side == 200


def test_a_tile_may_be_larger_than_the_image() -> None:
    """A small image in one large tile, as pyramids have, is accepted."""
    tags = {322: (4, 1, 512), 323: (4, 1, 512), 324: (4, 1, -1)}
    data = FILES["_tiff"]((40, 40), tags, bytes(512 * 512))
    assert load_source(data).png.side == 40


def test_small_tiles_are_accepted_up_to_a_number() -> None:
    """An image of up to 4 megapixels may have the smallest tiles that TIFF allows."""
    side = 16 * int(MAX_TIFF_PARTS**0.5)
    count = MAX_TIFF_PARTS
    offsets = struct.pack(f"<{count}I", *range(200_000, 200_000 + 256 * count, 256))
    tags = {322: (4, 1, 16), 323: (4, 1, 16), 324: (4, count, offsets)}
    data = FILES["_tiff"]((side, side), tags, bytes(200_000 + 256 * count))
    assert load_source(data).png.side == side


def test_a_size_that_is_stated_twice_is_refused() -> None:
    """A TIFF that states its size twice is refused: Pillow and libtiff may read different ones."""
    data = bytearray(_saved(Image.new("L", (16, 16)), "TIFF"))
    (start,) = struct.unpack_from("<I", data, 4)
    # The entry after the width states the height; now it states the width too.
    struct.pack_into("<H", data, start + 2 + 12, 256)
    with pytest.raises(InvalidImageError, match="the location of its pixels twice"):
        load_source(bytes(data))


@pytest.mark.slow
def test_a_gif_of_five_thousand_frames_is_accepted() -> None:
    """The number of frames does not matter, because only the first is read."""
    frames = [Image.new("L", (20, 20), at % 256) for at in range(5000)]
    data = _saved(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=20)
    source = load_source(data)
    assert source.png.side == 20
    assert "took the first frame" in source.note


@pytest.mark.mostly_slow("GIF")
@pytest.mark.parametrize("format", ["GIF", "WEBP"])
def test_noisy_animations_are_accepted(format: str) -> None:
    """Frames that fill many blocks are accepted."""
    frames = [Image.effect_noise((600, 600), 90).convert("P") for _ in range(3)]
    data = _saved(frames[0], format, save_all=True, append_images=frames[1:])
    assert "took the first frame" in load_source(data).note


@pytest.mark.mostly_slow("BMP")
@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "TIFF", "GIF"])
def test_panoramas_are_accepted(format: str) -> None:
    """An image of 20,000 x 2,000 pixels is accepted in every format that allows it."""
    data = _saved(Image.new("L", (20_000, 2_000), 99), format)
    assert load_source(data).png.side == 2_000


def test_runs_of_a_bmp_file_are_decoded() -> None:
    """A BMP file with runs, gaps and literal pixels is decoded as before."""
    row = b"\x05\x07" + b"\x00\x03\x01\x02\x03\x00" + b"\0\0"
    data = FILES["_bmp"]((8, 8), row * 8 + b"\0\1")
    assert load_source(data).png.side == 8


def test_segments_of_photoshop_are_accepted() -> None:
    """Photoshop's blocks may fill several segments, up to the limit."""
    data = FILES["_jpeg_with_segments"](0xED, b"Photoshop 3.0\0" + bytes(60_000))
    check_work(data(60_018 * MAX_JPEG_EXIF_SEGMENTS))


def test_directories_are_read_up_to_a_limit() -> None:
    """A directory with too many entries is not read to its end."""
    (directory,) = tiff.read_directories(ATTACKS["tiff: entries"].build(10**6))
    assert len(directory.entries) == tiff.MAX_ENTRIES + 1
