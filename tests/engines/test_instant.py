import io
from typing import Any

import pytest
from PIL import Image

from langchain_image_variation.contract import SIZES, CreateImageVariationRequest
from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.exceptions import (
    InvalidImageError,
    InvalidRequestError,
    ModelNotFoundError,
)
from langchain_image_variation.images.pixels import decode_png
from langchain_image_variation.images.png import SquarePNG, chunks
from pytest_image_variation.samples import corrupt_png, square_png
from tests.images.compressed import encodings

PNG = SquarePNG(square_png())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("n", [1, 3, 10])
def test_returns_exactly_what_was_requested(size: Any, n: int) -> None:
    """The answer has n distinct legal PNG files of exactly the size."""
    response = InstantEngine().create_variation(
        CreateImageVariationRequest(image=PNG, n=n, size=size, response_format="b64_json")
    )
    files = [image.read() for image in response.data]
    assert len({*files}) == n
    for file in files:
        assert f"{SquarePNG(file).side}x{SquarePNG(file).side}" == size
        with Image.open(io.BytesIO(file)) as image:
            assert len(image.convert("RGB").getcolors() or []) == 1


def images(source: bytes) -> list[bytes]:
    """Return two variations of a source."""
    request = CreateImageVariationRequest(image=SquarePNG(source), n=2, response_format="b64_json")
    return [image.read() for image in InstantEngine().create_variation(request).data]


@pytest.mark.parametrize("size", SIZES)
def test_files_have_one_palette_entry(size: Any) -> None:
    """Each file is valid and has a palette of one color, however many entries Pillow writes."""
    response = InstantEngine().create_variation(
        CreateImageVariationRequest(image=PNG, n=2, size=size, response_format="b64_json")
    )
    for image in response.data:
        names = [
            (name, len(body)) for name, body in chunks.read_chunks(image.read()) if name != b"IDAT"
        ]
        assert names == [(b"IHDR", 13), (b"PLTE", 3), (b"IEND", 0)]


def test_is_deterministic_and_depends_on_the_source() -> None:
    """The same source gives the same bytes, and another source gives different bytes."""
    assert images(square_png()) == images(square_png())
    assert not set(images(square_png())) & set(images(square_png(65)))


def test_compression_of_the_source_does_not_matter() -> None:
    """A source that must be converted first gives the same images on every machine."""
    files = encodings(decode_png(SquarePNG(square_png(24))))
    assert {tuple(images(data)) for data in files} == {tuple(images(square_png(24)))}


def test_refuses_a_source_with_corrupt_pixels() -> None:
    """A source with corrupt pixels is refused, as by every engine that decodes them."""
    with pytest.raises(InvalidImageError, match="corrupt"):
        images(corrupt_png())


def test_a_seed_gives_the_images_that_follow() -> None:
    """Image i of a request is the first image of a request whose seed is larger by i."""
    request = CreateImageVariationRequest(image=PNG, n=4, response_format="b64_json")
    small_request = request.model_copy(update={"n": 2})
    first = [image.read() for image in InstantEngine().create_variation(request).data]
    further = [image.read() for image in InstantEngine(seed=2).create_variation(small_request).data]
    assert further == first[2:]
    for seed in (-1, 1.5, True):
        with pytest.raises(
            InvalidRequestError, match="seed must be a whole number of at least 0, got"
        ):
            InstantEngine(seed=seed)  # type: ignore[arg-type]  # refused when it runs


def test_refuses_a_model_it_does_not_offer() -> None:
    """The engine accepts only its own model name and that of the old endpoint."""
    for model in ("dall-e-2", "instant"):
        request = CreateImageVariationRequest(image=PNG, model=model)
        assert InstantEngine().create_variation(request).data
    request = CreateImageVariationRequest(image=PNG, model="gpt-image-9")
    with pytest.raises(ModelNotFoundError, match="'gpt-image-9' does not exist here"):
        InstantEngine().create_variation(request)
