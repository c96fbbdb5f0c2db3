"""AVIF and HEIC files become the image that a viewer shows; other formats are named."""

import io
import struct
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from langchain_image_variation.exceptions import ImageVariationError, SourceError, install_command
from langchain_image_variation.images.formats import (
    FORMATS,
    recognize_supported,
    recognize_unsupported,
)
from langchain_image_variation.images.normalize import normalize
from langchain_image_variation.images.pixels import decode_png
from langchain_image_variation.source import load_source
from tests.images.avif_heic import avif, heic
from tests.images.profiles import srgb_profile


def ramp(mode: str = "RGB", size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Return an image without symmetry, whose alpha hides no color."""
    gray = Image.linear_gradient("L").resize(size)
    image = Image.merge("RGB", [gray, ImageOps.flip(gray), gray.rotate(90)])
    image.paste("red", (0, 0, 20, 9))
    image.putalpha(gray.point(lambda value: 16 + value * 7 // 8))
    return image.convert(mode)


def exif(orientation: int) -> bytes:
    """Return EXIF with an orientation."""
    data = Image.Exif()
    data[0x112] = orientation
    return data.tobytes()


def assert_shows(data: bytes, expected: Image.Image, note: str = "") -> None:
    """Assert that a file is loaded as an image, apart from rounding of its colors."""
    source = load_source(data, fit="pad" if expected.width != expected.height else "crop")
    pixels = decode_png(source.png)
    left, top = ((pixels.width - side) // 2 for side in expected.size)
    pixels = pixels.crop((left, top, left + expected.width, top + expected.height))
    assert ("A" in pixels.mode) == ("A" in expected.mode)
    difference = np.asarray(pixels.convert("RGBA")).astype(int)
    difference -= np.asarray(expected.convert("RGBA"))
    assert np.abs(difference).max() <= 4
    assert note in source.note


WRITERS = pytest.mark.parametrize("write", [avif, heic])


@WRITERS
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_every_mode_keeps_colors_and_alpha(write: Any, mode: str) -> None:
    """Gray and RGB are loaded with and without alpha, and the note names the format."""
    assert_shows(write(ramp(mode)), ramp(mode), f"converted {write.__name__.upper()} to PNG")


@WRITERS
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_upright_once(write: Any, orientation: int) -> None:
    """The rotation in the container counts, and EXIF does not rotate the image again."""
    turned = ramp()
    turned.info["exif"] = exif(orientation)
    data = write(ramp(), exif=exif(orientation))
    assert (b"irot" in data or b"imir" in data) == (orientation > 1)
    assert_shows(data, ImageOps.exif_transpose(turned))


@WRITERS
@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_an_orientation_in_exif_alone_is_ignored(write: Any, orientation: int) -> None:
    """AVIF and HEIC are rotated as the container says, and EXIF is ignored, as in viewers."""
    data = write(ramp(), exif=exif(orientation))
    start = data.index(b"irot") + 4
    assert data[start] > 0
    assert_shows(data[:start] + b"\0" + data[start + 1 :], ramp())


@WRITERS
def test_an_embedded_profile_is_applied(write: Any) -> None:
    """The colors are converted to sRGB, as for every other format."""
    image = ramp()
    data = write(image, icc_profile=srgb_profile(swap=True))
    image.info["icc_profile"] = srgb_profile(swap=True)
    expected = normalize(image)
    assert expected.tobytes() != image.tobytes()
    assert_shows(data, expected)


def test_the_first_frame_of_an_avif_is_taken() -> None:
    """The note says that the file has more frames."""
    assert_shows(avif(ramp(), ramp().rotate(180)), ramp(), "took the first frame")


@pytest.mark.parametrize("index", [0, 1])
def test_the_primary_image_of_a_heic_is_taken(index: int) -> None:
    """A HEIC file says which of its images is shown, and the note says that it has more."""
    images = [ramp(), ramp().rotate(180)]
    data = heic(*images, primary_index=index)
    assert_shows(data, images[index], "took the primary image")


def test_a_heic_with_ten_bits_is_rounded() -> None:
    """Samples with more than 8 bits become 8 bits."""
    samples = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    expected = Image.fromarray((samples / 257).round().astype(np.uint8))
    assert_shows(heic(Image.fromarray(samples)), expected)


@pytest.mark.parametrize("mode", ["La", "RGBa"])
def test_premultiplied_colors_are_restored_before_a_profile(mode: str) -> None:
    """Colors multiplied by alpha are restored before a profile is applied."""
    image = ramp("LA" if mode == "La" else "RGBA").convert(mode)
    image.info["icc_profile"] = srgb_profile()
    pixels = normalize(image)
    assert pixels.mode == mode.upper()
    difference = np.asarray(pixels).astype(int) - np.asarray(ramp(pixels.mode))
    assert np.abs(difference).max() <= 8


@WRITERS
def test_every_cut_off_file_is_our_error(write: Any) -> None:
    """A file that ends early is refused in one short sentence, wherever it ends."""
    data = write(ramp())
    name = write.__name__.upper()
    for end in [*range(12, 400, 7), len(data) // 2, len(data) - 40]:
        with pytest.raises(ImageVariationError, match=f"{name} file is corrupt|corrupt {name}"):
            load_source(data[:end])


@WRITERS
def test_a_header_of_too_many_pixels_is_refused(write: Any) -> None:
    """The number of pixels is read from the header, before anything is decoded."""
    data = write(ramp())
    start = data.index(b"ispe") + 8
    data = data[:start] + struct.pack(">II", 20_000, 10_000) + data[start + 8 :]
    with pytest.raises(ImageVariationError, match=r"pixels; the limit|limit of .* pixels|corrupt"):
        load_source(data)


HIDDEN = """
import sys
sys.modules[{module!r}] = None
from langchain_image_variation.exceptions import ImageVariationError
from langchain_image_variation.source import load_source
try:
    load_source(bytes.fromhex(sys.stdin.read()))
except ImageVariationError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("write", "module", "message"),
    [
        (
            *(heic, "pillow_heif"),
            "MissingExtraError A HEIC image needs the package 'pillow_heif', which is not "
            f"installed. Run: {install_command('langchain-image-variation[heif]')}",
        ),
        (
            *(avif, "PIL._avif"),
            "InvalidImageError image is AVIF, which cannot be read here. Export it as PNG or JPEG. "
            "Or install Pillow from PyPI: this build of Pillow has no AVIF.",
        ),
    ],
    ids=["HEIC", "AVIF"],
)
def test_a_missing_decoder_is_named(write: Any, module: str, message: str) -> None:
    """Without the package that decodes the format, the error says what to install."""
    command = [sys.executable, "-c", HIDDEN.format(module=module)]
    result = subprocess.run(
        command, input=write(ramp()).hex(), capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.strip() == message


def test_loading_heic_does_not_change_pillow() -> None:
    """Other code in the process opens the same formats as before."""
    load_source(heic(ramp()))
    Image.init()
    assert "HEIF" not in Image.OPEN
    assert ".heic" not in Image.registered_extensions()


UNSUPPORTED = {
    "a PDF document": b"%PDF-1.7\n",
    "an SVG drawing": b'<?xml version="1.0"?>\n<!-- Inkscape -->\n<svg xmlns="...">',
    "an HTML page": b"\n<!doctype html><html><svg>",
    "a PostScript or EPS file": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "a Photoshop document (PSD)": b"8BPS\0\1",
    "an ICO icon": b"\0\0\1\0\1\0",
    "an ICNS icon": b"icns\0\0\0\x08",
    "a JPEG XL image": b"\xff\x0a\x10",
    "a JPEG 2000 image": b"\0\0\0\x0cjP  \r\n\x87\n",
    "an OpenEXR image": b"\x76\x2f\x31\x01",
    "a PPM, PGM or PBM image": b"P6\n1 1\n255\n",
    "a PCX image": b"\n\5\1\x08",
    "a camera raw file": b"\0\0\0\x18ftypcrx \0\0\0\1crx isom",
    "an MP4 or MOV video": b"\0\0\0\x18ftypisom\0\0\0\1isommp41",
    "a WebM or Matroska video": b"\x1a\x45\xdf\xa3",
    "an AVI video": b"RIFF\0\0\0\0AVI LIST",
    "a ZIP archive or Office document": b"PK\3\4",
    "a compressed file": b"\x1f\x8b\x08",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\n",
    "an image in base64": b"iVBORw0KGgoAAAANSUhEUg",
    "text": "photos/b\u00e4r.png\n".encode(),
}


@pytest.mark.parametrize(("name", "data"), UNSUPPORTED.items(), ids=list(UNSUPPORTED))
def test_a_recognized_format_is_named(name: str, data: bytes) -> None:
    """The error says what the file is and what to do, in two short sentences."""
    with pytest.raises(SourceError) as caught:
        load_source(data)
    assert caught.value.message.startswith(f"The source is {name}, which is not supported. ")
    assert caught.value.message.endswith(".")
    assert recognize_supported(data) is None


def test_pillows_own_files_are_named_right() -> None:
    """A file from Pillow is recognized as its own format or as none, never as another."""
    Image.init()
    for format in sorted(Image.SAVE):
        buffer = io.BytesIO()
        try:
            Image.new("RGB", (32, 32)).save(buffer, format)
        except Exception:  # needs another mode or program
            continue
        data = buffer.getvalue()
        supported_format = {"MPO": "JPEG", "JPEG2000": None}.get(format, format)
        assert recognize_supported(data) == (
            supported_format if supported_format in FORMATS else None
        )
        unsupported_format = recognize_unsupported(data)
        if supported_format not in FORMATS and unsupported_format is not None:
            word = {"JPEG2000": "JPEG 2000"}.get(format, format)
            assert word in unsupported_format.name


@pytest.mark.parametrize("comment", [b"<!---->", b"<!---->\n", b"<?xml?>", b"<!-- ", b" \n"])
def test_many_comments_take_no_time(comment: bytes) -> None:
    """Markup that is neither a page nor a drawing is refused, in linear time."""
    with pytest.raises(SourceError, match="The source is text"):
        load_source(comment * 5_000)


@pytest.mark.parametrize(
    ("brands", "format"),
    [
        (b"heic....mif1heic", "HEIC"),
        (b"mif1....mif1heic", "HEIC"),
        (b"mif1....mif1avif", "AVIF"),
        (b"avis....avifavis", "AVIF"),
        (b"hevc....msf1hevc", "HEIC"),
        (b"isom....isomavif", None),
    ],
)
def test_brands_tell_avif_from_heic(brands: bytes, format: str | None) -> None:
    """If any codec may have a file's brand, the compatible brands decide."""
    head = struct.pack(">I", 8 + len(brands)) + b"ftyp" + brands
    assert recognize_supported(head) == format
