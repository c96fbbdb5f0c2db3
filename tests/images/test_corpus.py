"""Every valid PNG file of the corpus is read exactly, and every corrupt one is refused."""

import re
from collections.abc import Callable
from functools import partial
from typing import get_args

import pytest
from PIL import Image

from langchain_image_variation.exceptions import ImageVariationError
from langchain_image_variation.images.pixels import decode_png
from langchain_image_variation.images.png import SquarePNG
from langchain_image_variation.source import Fit, load_source
from tests.images import corrupt, valid
from tests.images.encoder import Pixel, split_chunks
from tests.images.libpng import libpng_reader

CORRUPT = corrupt.groups()
PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}


def pixels(image: Image.Image) -> list[Pixel]:
    """Return the pixels of an image as RGBA, row by row."""
    data = image.convert("RGBA").tobytes()
    return list(zip(data[::4], data[1::4], data[2::4], data[3::4], strict=True))


@pytest.mark.slow
def test_every_valid_file_is_read_exactly() -> None:
    """Every valid file gives its exact pixels as a `SquarePNG` and by `load_source`."""
    failures, names = [], set()
    for name, sample in valid.images():
        names.add(name)
        data = sample.png()
        expected = [pixel for row in sample.visible_pixels() for pixel in row]
        source = load_source(data)
        if (
            pixels(decode_png(SquarePNG(data))) != expected
            or pixels(decode_png(source.png)) != expected
        ):
            failures.append(name)
        assert {kind for kind, _ in split_chunks(source.png.data)} <= PIXELS
    assert failures == []
    assert len(names) == sum(1 for _ in valid.images()) > 300


def test_every_oblong_file_is_cropped_exactly() -> None:
    """The pixels in the center of an image that is not square are kept as they are."""
    failures = []
    for name, sample in valid.oblong_images():
        side = min(sample.width, sample.height)
        left, top = (sample.width - side) // 2, (sample.height - side) // 2
        middle = [row[left : left + side] for row in sample.visible_pixels()[top : top + side]]
        actual = pixels(decode_png(load_source(sample.png()).png))
        if actual != [pixel for row in middle for pixel in row]:
            failures.append(name)
    assert failures == []


@pytest.mark.parametrize("kind", CORRUPT)
def test_every_corrupt_file_is_refused(kind: str) -> None:
    """Every corrupt file is refused with a short message of this package."""
    failures = []
    for name, data in CORRUPT[kind]:
        reads: list[Callable[[], object]] = [partial(_decoded, data)]
        reads += [partial(load_source, data, fit=fit) for fit in get_args(Fit)]
        failures += [name for read in reads if not is_refused(read)]
    assert failures == []
    assert len({name for name, _ in CORRUPT[kind]}) == len(CORRUPT[kind])


def test_what_every_viewer_opens_is_repaired() -> None:
    """Bad ancillary chunks and a missing end are repaired and noted, but not for "strict"."""
    names = []
    for name, data, sample in corrupt.repairable():
        names.append(name)
        assert is_refused(partial(_decoded, data)), name
        assert is_refused(partial(load_source, data, fit="strict")), name
        expected = [pixel for row in sample.visible_pixels() for pixel in row]
        for fit in ("crop", "pad"):
            source = load_source(data, fit=fit)
            assert pixels(decode_png(source.png)) == expected, name
            assert re.search(r"left out bad chunks \(|added the missing end", source.note), name
            assert len(source.note) < 250
            # The repaired file is valid, so no other program has to repair it.
            assert load_source(source.png.data, fit="strict").png == source.png
    assert len(set(names)) == len(names) > 90


def test_libpng_shows_what_we_repair() -> None:
    """The repaired image is what libpng shows, the decoder of most viewers."""
    read = libpng_reader()
    compared = 0
    for name, data, sample in corrupt.repairable():
        shown = read(data)
        # libpng requires the checksum of the pixels too.
        if shown is None:
            assert "cut at byte" in name
            continue
        expected = [
            pixel if pixel[3] >= 8 else None for row in sample.visible_pixels() for pixel in row
        ]
        assert [pixel if pixel[3] >= 8 else None for pixel in shown] == expected, name
        compared += 1
    assert compared > 80


def _decoded(data: bytes) -> object:
    return decode_png(SquarePNG(data))


def is_refused(read: Callable[[], object]) -> bool:
    """Return whether reading fails with one of our own short messages."""
    try:
        read()
    except ImageVariationError as error:
        return len(error.message) < 250 and "object at" not in error.message
    return False
