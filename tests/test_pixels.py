import io

import pytest
from PIL import Image, ImageCms

from langchain_image_variation.exceptions import InvalidImageError
from langchain_image_variation.pixels import PLAIN_MODES, decode, decoding, encode, plain
from langchain_image_variation.png import SquarePNG
from pytest_image_variation.samples import square_png

MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB"]


@pytest.mark.parametrize("mode", [*MODES, "HSV", "I", "F", "I;16", "I;16B", "I;16L"])
def test_every_mode_of_pillow_becomes_a_plain_one(mode: str) -> None:
    """Whatever the mode, the result has 8-bit grey or RGB, with or without alpha."""
    image = plain(Image.new(mode, (5, 5)))
    assert image.mode in PLAIN_MODES
    assert image.size == (5, 5)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16", "I", "F"])
def test_grey_stays_grey(mode: str) -> None:
    """Grey pictures are not turned into RGB."""
    assert plain(Image.new(mode, (5, 5))).mode in ("L", "LA")


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    """The darkest and the brightest 16-bit grey become 0 and 255, and half stays half."""
    image = Image.new("I;16", (3, 1))
    for x, value in enumerate((0, 32768, 65535)):
        image.putpixel((x, 0), value)
    buffer = io.BytesIO()
    image.resize((3, 3), Image.Resampling.NEAREST).save(buffer, "PNG")
    pixels = decode(SquarePNG(buffer.getvalue()))
    assert [pixels.getpixel((x, 1)) for x in range(3)] == [0, 127, 255]


@pytest.mark.parametrize(
    ("mode", "transparent", "expected"),
    [("L", 7, "LA"), ("RGB", (7, 8, 9), "RGBA"), ("P", 0, "RGBA")],
)
def test_a_transparent_colour_becomes_alpha(
    mode: str, transparent: int | tuple[int, ...], expected: str
) -> None:
    """A tRNS chunk that names one transparent colour is kept as alpha."""
    buffer = io.BytesIO()
    color = transparent if mode != "P" else 0
    Image.new(mode, (2, 2), color).save(buffer, "PNG", transparency=transparent)
    pixels = decode(SquarePNG(buffer.getvalue()))
    assert pixels.mode == expected
    assert pixels.getchannel("A").getextrema() == (0, 0)


def test_exif_orientation_is_applied() -> None:
    """A picture that a camera stored lying on its side is turned upright."""
    image = Image.new("RGB", (4, 2), "red")
    image.putpixel((0, 0), (0, 0, 255))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    upright = plain(Image.open(buffer))
    assert upright.size == (2, 4)
    assert upright.getpixel((1, 0)) == (0, 0, 255)
    assert not upright.info


def test_an_embedded_profile_is_converted_to_srgb() -> None:
    """The sRGB profile changes nothing, and a broken one is as good as none."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.new("RGBA", (2, 2), (10, 200, 90, 128))
    for embedded in (profile, b"not a profile"):
        image.info["icc_profile"] = embedded
        assert plain(image).getpixel((0, 0)) == (10, 200, 90, 128)


def test_the_picture_of_the_caller_is_not_changed() -> None:
    """Normalising a picture leaves the caller's own as it was."""
    image = Image.new("RGB", (2, 2))
    image.info["comment"] = "mine"
    plain(image)
    assert image.info == {"comment": "mine"}


def test_encode_and_decode_are_inverse() -> None:
    """Pixels survive encoding and decoding exactly, in every plain mode."""
    for mode in PLAIN_MODES:
        pixels = decode(SquarePNG(square_png(32, mode)))
        again = decode(SquarePNG(encode(pixels, compress_level=1)))
        assert (again.mode, again.tobytes()) == (mode, pixels.tobytes())


def test_decoding_hides_what_pillow_says() -> None:
    """Only our own text leaves the block, with nothing chained to it."""
    with pytest.raises(InvalidImageError) as caught, decoding(InvalidImageError("ours")):
        raise OSError("<_io.BytesIO object at 0x7f>")
    assert caught.value.__suppress_context__
    assert str(caught.value) == "ours"
