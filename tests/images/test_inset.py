import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops

from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse, Size
from langchain_image_variation.images.inset import Inset, choose_margin
from langchain_image_variation.images.pixels import decode_png, decode_result, encode_png
from langchain_image_variation.output import cut_back
from langchain_image_variation.source import Source, load_source

SIZES = st.sampled_from(["256x256", "512x512", "1024x1024"])
LENGTHS = st.integers(1, 700)


class ResizingEngine:
    """An engine whose variations are the source, at the requested size."""

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Return `request.n` copies of the source."""
        side = request.side
        image = decode_png(request.image).resize((side, side), Image.Resampling.BILINEAR)
        return ImagesResponse.from_pngs(
            [encode_png(image)] * request.n, response_format=request.response_format
        )


def vary(source: Source, size: Size) -> Image.Image:
    """Return a variation of a source by `ResizingEngine`, cut back."""
    request = CreateImageVariationRequest(image=source.png, size=size)
    response = cut_back(ResizingEngine().create_variation(request), source)
    return decode_result(response.data[0].read())


@given(width=st.integers(1, 10**6), height=st.integers(1, 10**6), side=st.integers(1, 4096))
def test_an_inset_has_the_shape_of_the_image(width: int, height: int, side: int) -> None:
    """The longer side is as requested. The other is the exact length rounded, at least 1."""
    longer = max(width, height)
    size = Inset(width, height, margin=0, side=longer).size(side)
    assert max(size) == side
    for actual, length in zip(size, (width, height), strict=True):
        assert actual == 1 or abs(actual * longer - length * side) * 2 <= longer


@settings(max_examples=40)
@given(width=LENGTHS, height=LENGTHS, size=SIZES, portion=st.floats(0, 1))
def test_no_pixel_is_shifted(width: int, height: int, size: Size, portion: float) -> None:
    """An edge in the image is less than a pixel away from where it is in the resized image."""
    edge = round(portion * min(width, height))
    is_wide = width >= height
    image = Image.new("L", (width, height), "white")
    image.paste(0, (0, 0, width, edge) if is_wide else (0, 0, edge, height))
    pixels = vary(load_source(image, fit="keep"), size)
    line = pixels.resize((1, pixels.height) if is_wide else (pixels.width, 1), Image.Resampling.BOX)
    black = sum(255 - value for value in line.tobytes()) / 255
    length = min(pixels.size)
    assert abs(black - edge * length / min(width, height)) < 1
    assert max(pixels.size) == int(size.partition("x")[0])


@pytest.mark.slow
@settings(max_examples=40)
@given(size=SIZES, share=st.integers(1, 31), is_wide=st.booleans())
def test_the_pixels_are_those_of_the_image(size: Size, share: int, is_wide: bool) -> None:
    """An image that is already as large as the variation comes back byte for byte."""
    side = int(size.partition("x")[0])
    length = side * share // 32
    noise = Image.effect_noise((side, length) if is_wide else (length, side), 80).convert("L")
    assert vary(load_source(noise, fit="keep"), size).tobytes() == noise.tobytes()


@pytest.mark.slow
@settings(max_examples=40)
@given(width=st.integers(300, 700), height=st.integers(300, 700), size=SIZES)
def test_a_smooth_image_looks_the_same(width: int, height: int, size: Size) -> None:
    """Whatever its size, a smooth image differs from the resized original by a few levels."""
    gradients = [Image.linear_gradient("L"), Image.linear_gradient("L").rotate(90)]
    image = Image.merge("RGB", [*gradients, ImageChops.invert(gradients[0])])
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = vary(load_source(image, fit="keep"), size)
    expected = image.resize(pixels.size, Image.Resampling.BILINEAR)
    extrema = ImageChops.difference(pixels, expected).getextrema()
    assert max(high for _, high in extrema) <= 4  # type: ignore[misc]  # pairs, for three bands


@pytest.mark.parametrize("shape", [(4032, 3024), (1920, 1080), (1200, 800), (640, 427), (451, 300)])
def test_photos_are_cut_between_pixels(shape: tuple[int, int]) -> None:
    """The cut is within a tenth of a pixel of the edge, and the photo is near the center."""
    width, height = shape
    margin = choose_margin(height, width)
    assert abs(margin - (width - height) / 2) <= width / 32 + 1
    for side in (256, 512, 1024):
        cut = margin * side / width
        assert abs(cut - round(cut)) <= 0.1


@pytest.mark.mostly_slow("shape0-expected0", "shape1-expected1")
@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((3000, 1000), (1024, 341)),
        ((1000, 3000), (341, 1024)),
        ((1, 7), (146, 1024)),
        ((400_000, 1), (1024, 1)),
        ((10, 100), (102, 1024)),
        ((700, 699), (1024, 1023)),
    ],
)
def test_extreme_shapes_are_kept(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    """The other side is rounded, and at least one pixel."""
    source = load_source(Image.new("1", shape, 1), fit="keep")
    pixels = vary(source, "1024x1024")
    assert pixels.size == expected
    assert pixels.getextrema() == (255, 255)
