"""`pixel_sha256`: the identity of an image, independent of its file."""

import hashlib
import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from langchain_image_variation.images.pixels import (
    decode_png,
    decode_result,
    encode_png,
    pixel_sha256,
)
from langchain_image_variation.images.png import SquarePNG
from pytest_image_variation.samples import square_png
from tests.images.compressed import Recompressed, encodings
from tests.images.encoder import GRAY, INDEXED, RGB, SampleImage, chunk
from tests.images.valid import KINDS, random_image


def digest(data: bytes) -> str:
    """Return the hash of the pixels of a file."""
    return pixel_sha256(decode_result(data))


def test_the_hash_is_as_documented(tmp_path: Path) -> None:
    """The hash covers one line of text and the samples, so Pillow and NumPy can compute it."""
    for mode, samples in (("L", 1), ("LA", 2), ("RGB", 3), ("RGBA", 4)):
        image = Image.frombytes(mode, (8, 600), bytes(range(8, 248)) * (20 * samples))
        path = tmp_path / f"{mode}.png"
        path.write_bytes(encode_png(image))
        with Image.open(path) as image_file:
            head = f"{image_file.mode} {image_file.width}x{image_file.height}\n".encode()
            documented_hash = hashlib.sha256(head + np.asarray(image_file).tobytes()).hexdigest()
        assert pixel_sha256(image) == digest(path.read_bytes()) == documented_hash


def test_the_hash_is_the_same_in_every_release() -> None:
    """The hash must not change, so that existing file names keep their meaning."""
    image = Image.frombytes("RGB", (2, 1), bytes(range(6)))
    assert pixel_sha256(image) == hashlib.sha256(b"RGB 2x1\n\0\1\2\3\4\5").hexdigest()
    assert pixel_sha256(image)[:16] == "0b5fcce6e9b17ace"


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_every_encoding_has_the_same_hash(mode: str) -> None:
    """Levels, strategies, filters, zlibs, interlacing and chunk sizes do not change the hash."""
    image = decode_png(SquarePNG(square_png(24, mode)))
    assert {digest(data) for data in encodings(image)} == {pixel_sha256(image)}


def test_mode_and_size_change_the_hash() -> None:
    """The same samples in another shape or mode are another image."""
    shapes = [("L", (12, 1)), ("L", (1, 12)), ("L", (6, 2)), ("LA", (6, 1)), ("RGB", (4, 1))]
    images = [Image.frombytes(mode, size, bytes(range(12))) for mode, size in shapes]
    assert len({pixel_sha256(image) for image in images}) == len(shapes)


def test_metadata_and_palettes_do_not_count() -> None:
    """Comments, times, resolutions and palettes do not change the hash."""
    plain = random_image(RGB, 8)
    text = plain.replace_fields(
        first=chunk(b"pHYs", bytes(8) + b"\1"), last=chunk(b"tEXt", b"a\0b")
    )
    assert digest(plain.png()) == digest(text.png())
    indexed = random_image(INDEXED, 4)
    rows = [[indexed.palette[index] for (index,) in row] for row in indexed.rows]
    assert digest(indexed.png()) == digest(SampleImage(RGB, 8, rows).png())  # type: ignore[arg-type]  # colors are tuples
    bits = random_image(GRAY, 1)
    wide = SampleImage(GRAY, 8, [[(255 * value,) for (value,) in row] for row in bits.rows])
    assert digest(bits.png()) == digest(wide.png())


def test_the_orientation_changes_the_hash() -> None:
    """The orientation changes the hash, because it changes what a person sees."""
    image = decode_png(SquarePNG(square_png(24)))
    exif = Image.Exif()
    exif[0x0112] = 6
    rotated_file = io.BytesIO()
    image.save(rotated_file, "PNG", exif=exif)
    expected = image.transpose(Image.Transpose.ROTATE_270)
    assert digest(rotated_file.getvalue()) == pixel_sha256(expected) != pixel_sha256(image)


_STRATEGIES = [
    zlib.Z_DEFAULT_STRATEGY,
    zlib.Z_FILTERED,
    zlib.Z_HUFFMAN_ONLY,
    zlib.Z_RLE,
    zlib.Z_FIXED,
]
_DRAWN = st.builds(
    lambda kind, side, seed: random_image(kind[0], kind[1], side, side, seed),
    st.sampled_from(KINDS),
    st.integers(1, 6),
    st.integers(0, 3),
)
_WRITTEN = st.fixed_dictionaries(
    {
        "filters": st.lists(st.integers(0, 4), min_size=1, max_size=4).map(tuple),
        "interlaced": st.booleans(),
        "pieces": st.integers(1, 4),
        "level": st.integers(0, 9),
        "strategy": st.sampled_from(_STRATEGIES),
    }
)


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(_DRAWN, _WRITTEN)
def test_the_hash_depends_only_on_the_samples(
    sample: SampleImage, written: dict[str, object]
) -> None:
    """The hash depends only on the samples, for every color type, bit depth and encoding."""
    other = Recompressed(**{**vars(sample), **written}).png()
    assert digest(other) == digest(sample.png())
    assert pixel_sha256(decode_png(SquarePNG(other))) == digest(other)


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(_DRAWN, _DRAWN)
def test_different_images_have_different_hashes(one: SampleImage, other: SampleImage) -> None:
    """Two files share a hash exactly if they have the same samples in the same mode."""
    images = [decode_result(sample.png()) for sample in (one, other)]
    shown = [(image.mode, image.size, image.tobytes()) for image in images]
    assert (pixel_sha256(images[0]) == pixel_sha256(images[1])) == (shown[0] == shown[1])


@settings(deadline=None, max_examples=50)
@given(_DRAWN, st.data())
def test_one_sample_changes_the_hash(sample: SampleImage, data: st.DataObject) -> None:
    """The smallest change of a single sample changes the hash."""
    image = decode_result(sample.png())
    samples = bytearray(image.tobytes())
    at = data.draw(st.integers(0, len(samples) - 1))
    samples[at] ^= 1
    assert pixel_sha256(Image.frombytes(image.mode, image.size, bytes(samples))) != pixel_sha256(
        image
    )
