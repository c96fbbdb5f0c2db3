import io
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import ExifTags, Image, ImageCms, ImageOps

from langchain_image_variation.exceptions import InvalidImageError
from langchain_image_variation.images.decoder_errors import translate_decoder_errors
from langchain_image_variation.images.normalize import PLAIN_MODES, normalize
from langchain_image_variation.images.pixels import decode_png, encode_png
from langchain_image_variation.images.png import SquarePNG
from pytest_image_variation.samples import square_png

PHOTO = Path(__file__).parents[2] / "examples" / "astronaut.png"
MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB"]


@pytest.mark.parametrize("mode", [*MODES, "HSV", "I", "F", "I;16", "I;16B", "I;16L"])
def test_every_pillow_mode_becomes_plain(mode: str) -> None:
    """The result is 8-bit gray or RGB, with or without alpha."""
    image = normalize(Image.new(mode, (5, 5)))
    assert image.mode in PLAIN_MODES
    assert image.size == (5, 5)


@pytest.mark.parametrize("mode", [*MODES, "HSV", "I", "F", "I;16", "I;16B", "I;16L"])
def test_every_pillow_mode_can_be_encoded(mode: str) -> None:
    """A PNG file can be made of an image in any mode, and has the pixels of `normalize`."""
    image = Image.new(mode, (5, 5))
    pixels = decode_png(SquarePNG(encode_png(image)))
    assert (pixels.mode, pixels.tobytes()) == (normalize(image).mode, normalize(image).tobytes())


def test_encoding_applies_metadata_and_drops_it() -> None:
    """A PNG file of a photo that Pillow opened is upright and in sRGB, and has no metadata."""
    photo, buffer = Image.new("RGB", (4, 2), "red"), io.BytesIO()
    photo.putpixel((0, 0), (0, 0, 255))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    photo.save(buffer, "PNG", exif=exif, icc_profile=profile, dpi=(300, 300))
    with Image.open(io.BytesIO(encode_png(Image.open(buffer)))) as image:
        assert (image.info, image.size) == ({}, (4, 2))
        assert image.getpixel((3, 1)) == (0, 0, 255)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16", "I", "F"])
def test_gray_stays_gray(mode: str) -> None:
    """Gray images do not become RGB."""
    assert normalize(Image.new(mode, (5, 5))).mode in ("L", "LA")


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    """The darkest and brightest 16-bit gray become 0 and 255, and half stays half."""
    image = Image.new("I;16", (3, 1))
    for x, value in enumerate((0, 32768, 65535)):
        image.putpixel((x, 0), value)
    buffer = io.BytesIO()
    image.resize((3, 3), Image.Resampling.NEAREST).save(buffer, "PNG")
    pixels = decode_png(SquarePNG(buffer.getvalue()))
    assert [pixels.getpixel((x, 1)) for x in range(3)] == [0, 128, 255]


def test_floats_are_scaled() -> None:
    """The smallest and largest finite samples become 0 and 255, despite NaN and infinity."""
    image = Image.new("F", (2, 2))
    values = (-1.5, 3.0, float("nan"), float("inf"))
    for at, value in enumerate(values):
        image.putpixel((at % 2, at // 2), value)
    assert [normalize(image).getpixel((at % 2, at // 2)) for at in (0, 1, 3)] == [0, 255, 255]
    assert normalize(Image.new("F", (2, 2), float("nan"))).getextrema() == (0, 0)


@pytest.mark.parametrize(
    "values", [(-3.4e38, 0.0, 3.4e38), (0.0, 7e-46, 1.4e-45), (-3e38, float("nan"), 1e30)]
)
def test_extreme_floats_are_scaled(values: tuple[float, float, float]) -> None:
    """The largest and the smallest samples that a float can hold are scaled without a warning."""
    image = Image.new("F", (3, 300))
    for x, value in enumerate(values):
        image.paste(value, (x, 0, x + 1, 300))
    buffer = io.BytesIO()
    image.save(buffer, "TIFF")
    with Image.open(buffer) as file:
        gray = normalize(file)
    assert (gray.getpixel((0, 299)), gray.getpixel((2, 0))) == (0, 255)


@pytest.mark.parametrize(
    ("mode", "transparent", "expected"),
    [("I;16", 1000, "LA"), ("L", 7, "LA"), ("RGB", (7, 8, 9), "RGBA"), ("P", 0, "RGBA")],
)
def test_a_transparent_color_becomes_alpha(
    mode: str, transparent: int | tuple[int, ...], expected: str
) -> None:
    """A tRNS chunk with one transparent color becomes alpha."""
    buffer = io.BytesIO()
    color = transparent if mode != "P" else 0
    Image.new(mode, (2, 2), color).save(buffer, "PNG", transparency=transparent)
    pixels = decode_png(SquarePNG(buffer.getvalue()))
    assert pixels.mode == expected
    assert pixels.getchannel("A").getextrema() == (0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    """An image that a camera stored rotated or mirrored is turned as Pillow would turn it."""
    image = decode_png(SquarePNG(square_png(16))).crop((0, 0, 16, 10))
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    upright = normalize(Image.open(buffer))
    assert upright.tobytes() == ImageOps.exif_transpose(Image.open(buffer)).tobytes()
    assert upright.size == ((16, 10) if orientation < 5 else (10, 16))
    assert not upright.info


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_corrupt_exif_is_ignored(format: str) -> None:
    """An image with corrupt EXIF is read like one without EXIF."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 2), "red").save(buffer, format, exif=b"Exif\0\0garbage")
    assert normalize(Image.open(buffer)).size == (4, 2)


def test_a_part_of_an_image_can_be_normalized() -> None:
    """With a box, only that part is converted, before the image is turned upright."""
    image = decode_png(SquarePNG(square_png(16)))
    assert normalize(image, (2, 3, 10, 11)).tobytes() == image.crop((2, 3, 10, 11)).tobytes()


def _with_red_and_blue_swapped(profile: bytes) -> bytes:
    """Return a matrix profile in which the tags of two primaries are swapped."""
    names = {b"rXYZ": b"bXYZ", b"bXYZ": b"rXYZ"}
    swapped_profile = bytearray(profile)
    for tag in range(int.from_bytes(profile[128:132])):
        at = 132 + 12 * tag
        swapped_profile[at : at + 4] = names.get(profile[at : at + 4], profile[at : at + 4])
    return bytes(swapped_profile)


def test_an_embedded_profile_is_converted_to_srgb() -> None:
    """Colors are converted to sRGB without changing alpha, unless the profile is corrupt."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.new("RGBA", (2, 2), (10, 200, 90, 128))
    for profile, expected in (
        (srgb, (10, 200, 90, 128)),
        (b"not a profile", (10, 200, 90, 128)),
        (_with_red_and_blue_swapped(srgb), (90, 200, 10, 128)),
    ):
        image.info["icc_profile"] = profile
        actual = normalize(image).getpixel((0, 0))
        assert isinstance(actual, tuple)
        assert all(abs(a - b) <= 1 for a, b in zip(actual, expected, strict=True))


def test_the_callers_image_is_not_changed() -> None:
    """Normalizing an image leaves the original as it was."""
    image = Image.new("RGB", (2, 2))
    image.info["comment"] = "mine"
    normalize(image)
    assert image.info == {"comment": "mine"}


def test_encode_and_decode_are_inverse() -> None:
    """Pixels survive encoding and decoding exactly, in every plain mode."""
    for mode in PLAIN_MODES:
        pixels = decode_png(SquarePNG(square_png(32, mode)))
        for only_runs in (False, True):
            data = encode_png(pixels, compress_level=1, only_runs=only_runs)
            decoded = decode_png(SquarePNG(data))
            assert (decoded.mode, decoded.tobytes()) == (mode, pixels.tobytes())


def test_only_runs_makes_photos_smaller() -> None:
    """At the lowest level, a color photo is smaller if only runs are compressed."""
    with Image.open(PHOTO) as photo:
        sizes = [len(encode_png(photo, compress_level=1, only_runs=runs)) for runs in (True, False)]
    assert sizes[0] < sizes[1]


def test_pillows_messages_are_hidden() -> None:
    """Only our own text leaves the block, without an exception of Pillow's chained to it."""
    with (
        pytest.raises(InvalidImageError) as caught,
        translate_decoder_errors(lambda: InvalidImageError("ours")),
    ):
        raise OSError("<_io.BytesIO object at 0x7f>")
    assert caught.value.__suppress_context__
    assert str(caught.value) == "ours"


def test_only_pillows_warnings_are_ignored() -> None:
    """Only Pillow's warnings are ignored in the block, in any thread, and filters are restored."""
    before = list(warnings.filters)

    def decode_often() -> None:
        for _ in range(50):
            with translate_decoder_errors(lambda: InvalidImageError("ours")):
                warnings.warn_explicit("broken EXIF", UserWarning, "x.py", 1, "PIL.TiffImagePlugin")

    with ThreadPoolExecutor(8) as threads:
        for future in [threads.submit(decode_often) for _ in range(8)]:
            future.result()
    assert list(warnings.filters) == before
    with (
        pytest.warns(UserWarning, match="theirs"),
        translate_decoder_errors(lambda: InvalidImageError("ours")),
    ):
        warnings.warn("theirs", stacklevel=1)
