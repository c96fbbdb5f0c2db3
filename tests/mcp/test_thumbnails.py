import base64
import io
import random
from functools import cache

import pytest
from PIL import Image

from langchain_image_variation.exceptions import OutputError
from langchain_image_variation.mcp.thumbnails import MAX_BASE64, MIN_BASE64, encode_thumbnails
from pytest_image_variation.samples import jpeg, square_png


@cache
def noise(side: int) -> bytes:
    """Return a PNG that compresses badly."""
    pixels = random.Random(0).randbytes(side * side * 3)
    buffer = io.BytesIO()
    Image.frombytes("RGB", (side, side), pixels).save(buffer, "PNG")
    return buffer.getvalue()


def decode(thumbnail: str) -> Image.Image:
    """Return the image of a thumbnail."""
    return Image.open(io.BytesIO(base64.b64decode(thumbnail)))


def test_a_small_image_keeps_its_size() -> None:
    """A thumbnail is a JPEG of at most 512 pixels a side, and no larger than its image."""
    small, large, wide = encode_thumbnails([square_png(64), square_png(1024), jpeg(700, 350)])
    assert [decode(each).format for each in (small, large, wide)] == ["JPEG"] * 3
    assert [decode(each).size for each in (small, large, wide)] == [
        (64,) * 2,
        (512,) * 2,
        (512, 256),
    ]


@pytest.mark.parametrize("limit", [MIN_BASE64, MAX_BASE64, 700_000])
@pytest.mark.parametrize("count", [1, 10])
def test_all_thumbnails_fit_into_the_limit(count: int, limit: int) -> None:
    """Images of noise shrink, all to the same size, until all together fit."""
    thumbnails = encode_thumbnails([noise(512)] * count, limit)
    assert len(thumbnails) == count
    assert sum(map(len, thumbnails)) <= limit
    assert len({decode(each).size for each in thumbnails}) == 1


def test_transparent_parts_are_white() -> None:
    """JPEG has no alpha, so a thumbnail shows an image on white, as a person sees it."""
    buffer = io.BytesIO()
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(buffer, "PNG")
    (thumbnail,) = encode_thumbnails([buffer.getvalue()])
    assert decode(thumbnail).getpixel((4, 4)) == (255, 255, 255)


def test_a_corrupt_image_is_an_error_of_ours() -> None:
    """A file that is not an image raises an error of the tree."""
    with pytest.raises(OutputError):
        encode_thumbnails([b"nothing"])
