import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from langchain_image_variation import CreateImageVariationRequest, cut_back, load_source
from langchain_image_variation.engines.local import LocalEngine
from langchain_image_variation.engines.local.bars import Bars
from langchain_image_variation.images.padding import add_blurred_bars, add_mirrored_bars
from tests.engines.scene import scene, stones


def _wide() -> Image.Image:
    """A scene of 300x180 pixels, with detail at its upper edge."""
    return Image.fromarray(scene(320)[100:280, :300])


@pytest.mark.parametrize("add", [add_blurred_bars, add_mirrored_bars])
@pytest.mark.parametrize("is_wide", [True, False])
def test_bars_are_found_exactly(add: object, is_wide: bool) -> None:
    """The bars of a padded image are found to the pixel, and can be made again."""
    image = _wide() if is_wide else _wide().transpose(Image.Transpose.ROTATE_90)
    square = (add_blurred_bars if add is add_blurred_bars else add_mirrored_bars)(image, 58)
    bars = Bars.find(square)
    assert bars is not None
    assert (bars.start, bars.end, bars.is_wide) == (58, 238, is_wide)
    assert bars.is_blurred == (add is add_blurred_bars)
    assert bars.aspect == pytest.approx(0.6 if is_wide else 1 / 0.6)
    assert bars.cut_off(square).tobytes() == image.tobytes()
    again = bars.add(image.resize((300, 300)))
    assert again.size == (300, 300)
    assert np.abs(_values(again) - _values(square)).mean() < 12


@pytest.mark.mostly_slow("288")
@pytest.mark.parametrize("height", [400, 341, 288, 171])
def test_bars_next_to_fine_detail_are_found(height: int) -> None:
    """Blurred bars of a texture are found, although blur removes most of its detail."""
    image = Image.fromarray(stones(512)[:height])
    margin = (512 - height) // 2
    for square in (add_blurred_bars(image, margin), add_mirrored_bars(image, margin)):
        bars = Bars.find(square)
        assert bars is not None
        assert (bars.start, bars.end) == (margin, margin + height)


def test_a_scaled_square_has_bars() -> None:
    """A padded image that was scaled, as files over 4 MB are, still has bars."""
    photo = Image.fromarray(scene(1024)[320:900, :1000])
    square = add_mirrored_bars(photo, 210).resize((733, 733), Image.Resampling.LANCZOS)
    bars = Bars.find(square)
    assert bars is not None
    assert abs(bars.start - 154) <= 1
    assert abs(bars.end - 579) <= 1


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_images_without_bars_have_none(mode: str) -> None:
    """A photo, ramps, symmetric drawings, a pattern, and plain or tiny images have no bars."""
    logo = Image.new("L", (256, 256), 255)
    ImageDraw.Draw(logo).ellipse((40, 30, 216, 220), fill=90)
    ImageDraw.Draw(logo).rectangle((100, 90, 156, 200), fill=20)
    frame = Image.new("L", (256, 256), 255)
    ImageDraw.Draw(frame).rectangle((13, 13, 242, 242), outline=0, width=4)
    ImageDraw.Draw(frame).ellipse((60, 30, 196, 220), outline=0, width=5)
    dots = Image.new("L", (256, 256), 255)
    for y in range(0, 256, 30):
        for x in range(0, 256, 30):
            ImageDraw.Draw(dots).ellipse((x, y, x + 17, y + 17), fill=90)
    ramp = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    images = [
        Image.fromarray(scene()),
        logo,
        logo.transpose(Image.Transpose.ROTATE_90),
        frame,
        dots,
        *(Image.fromarray(one) for one in (ramp, np.ascontiguousarray(ramp.T))),
        *(Image.new("RGB", (side, side), (9, 9, 9)) for side in (1, 2, 16, 300)),
    ]
    for image in images:
        assert Bars.find(image.convert(mode)) is None


def _values(image: Image.Image) -> NDArray[np.int64]:
    return np.asarray(image).astype(np.int64)


@pytest.mark.parametrize("fit", ["pad", "keep"])
def test_bars_are_not_varied(fit: str) -> None:
    """The image between the bars is varied as if it were alone, and its bars mirror it again."""
    buffer = io.BytesIO()
    _wide().save(buffer, "PNG")
    source = load_source(buffer.getvalue(), fit=fit)  # type: ignore[arg-type]  # pad or keep
    request = CreateImageVariationRequest(
        image=source.png, n=4, size="256x256", response_format="b64_json"
    )
    response = LocalEngine(seed=7).create_variation(request)
    for result in response.data:
        with Image.open(io.BytesIO(result.read())) as square:
            bars = Bars.find(square.convert("RGB"))
        assert bars is not None
        assert bars.is_wide
        assert abs((bars.end - bars.start) - 154) <= 2
    if fit == "keep":
        for result in cut_back(response, source).data:
            with Image.open(io.BytesIO(result.read())) as image:
                assert image.size == (256, 154)
                rows = _values(image)
            # No mirror image of the last rows is left at the lower edge, where the ground is rough.
            assert min(np.abs(rows[-k] - rows[-k - 1]).mean() for k in range(1, 12)) > 3
