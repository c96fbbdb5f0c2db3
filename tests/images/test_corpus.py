"""Every valid PNG file of the corpus is read exactly, and every corrupt one is refused."""

from collections.abc import Callable
from functools import partial
from typing import get_args

import pytest
from PIL import Image

from langchain_image_variation.exceptions import ImageVariationError
from langchain_image_variation.images.pixels import decode
from langchain_image_variation.images.png import SquarePNG
from langchain_image_variation.source import Fit, load_source
from tests.images import corrupt, valid
from tests.images.encoder import Pixel, split

CORRUPT = corrupt.groups()
PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}


def pixels(image: Image.Image) -> list[Pixel]:
    """Return a picture's pixels as RGBA, row by row."""
    data = image.convert("RGBA").tobytes()
    return list(zip(data[::4], data[1::4], data[2::4], data[3::4], strict=True))


def test_every_valid_file_is_read_exactly() -> None:
    """Each passes as a `SquarePNG` and through `load_source`, pixel by pixel."""
    wrong, names = [], set()
    for name, picture in valid.pictures():
        names.add(name)
        data = picture.png()
        expected = [pixel for row in picture.seen() for pixel in row]
        source = load_source(data)
        if pixels(decode(SquarePNG(data))) != expected or pixels(decode(source.png)) != expected:
            wrong.append(name)
        assert {kind for kind, _ in split(source.png.data)} <= PIXELS
    assert wrong == []
    assert len(names) == sum(1 for _ in valid.pictures()) > 300


def test_every_valid_file_that_is_not_square_is_cropped_exactly() -> None:
    """Of an oblong picture the pixels in the middle are kept as they are."""
    wrong = []
    for name, picture in valid.oblong():
        side = min(picture.width, picture.height)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        middle = [row[left : left + side] for row in picture.seen()[top : top + side]]
        got = pixels(decode(load_source(picture.png()).png))
        if got != [pixel for row in middle for pixel in row]:
            wrong.append(name)
    assert wrong == []


@pytest.mark.parametrize("kind", CORRUPT)
def test_every_corrupt_file_is_refused(kind: str) -> None:
    """Whatever is wrong, nothing is loaded or decoded, and the message is short and our own."""
    wrong = []
    for name, data in CORRUPT[kind]:
        reads: list[Callable[[], object]] = [partial(_decoded, data)]
        reads += [partial(load_source, data, fit=fit) for fit in get_args(Fit)]
        wrong += [name for read in reads if not refused(read)]
    assert wrong == []
    assert len({name for name, _ in CORRUPT[kind]}) == len(CORRUPT[kind])


def _decoded(data: bytes) -> object:
    return decode(SquarePNG(data))


def refused(read: Callable[[], object]) -> bool:
    """Say whether reading fails with a short message of our own."""
    try:
        read()
    except ImageVariationError as error:
        return len(error.message) < 250 and "object at" not in error.message
    return False
