import io
from pathlib import Path

import pytest
from PIL import Image

from langchain_image_variation import ContactSheet, save_images
from langchain_image_variation.contract import ImagesResponse
from langchain_image_variation.exceptions import InvalidRequestError
from langchain_image_variation.images.pixels import (
    decode_png,
    decode_result,
    encode_png,
    pixel_sha256,
)
from langchain_image_variation.images.png import SquarePNG
from langchain_image_variation.output.file_format import FORMATS, FileFormat, FormatName
from pytest_image_variation.samples import jpeg, square_png

PNG = SquarePNG(square_png(64))
SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}


def entries(*files: bytes) -> ImagesResponse:
    """Return a response with these files."""
    return ImagesResponse.from_pngs(files, response_format="b64_json")


@pytest.mark.parametrize("format", FORMATS)
def test_files_have_the_chosen_format(tmp_path: Path, format: FormatName) -> None:
    """Images and sheet have the format and its suffix, and names with the hash of their pixels."""
    response = entries(PNG.data, square_png(32))
    paths = [image.path for image in save_images(response, tmp_path, format=format)]
    paths.append(ContactSheet(PNG, response).save(tmp_path, format=format))
    for path in paths:
        assert path.suffix == SUFFIXES[format]
        with Image.open(path) as image:
            assert image.format == format.upper()
        assert pixel_sha256(decode_result(path.read_bytes()))[:8] == path.name.split("-")[1]


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_writing_a_format_again_changes_nothing(tmp_path: Path, format: FormatName) -> None:
    """The same images get the same names, and the existing files stay as they are."""
    first = save_images(entries(PNG.data), tmp_path, format=format)
    times = [image.path.stat().st_mtime_ns for image in first]
    assert save_images(entries(PNG.data), tmp_path, format=format) == first
    assert [image.path.stat().st_mtime_ns for image in first] == times


@pytest.mark.parametrize("format", FORMATS)
def test_an_image_never_replaces_another(tmp_path: Path, format: FormatName) -> None:
    """If a template without a hash gives a name that is taken, the hash is added."""
    names = []
    for side in (64, 32, 64):
        (saved_image,) = save_images(
            entries(square_png(side)), tmp_path, template="cat", format=format
        )
        names.append(saved_image.path.name)
        assert decode_result(saved_image.path.read_bytes()).size == (side, side)
    assert names[0] == names[2] == f"cat{SUFFIXES[format]}"
    assert names[1].startswith("cat-")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_quality_decides_the_size_of_a_file(format: FormatName) -> None:
    """A lower quality gives a smaller file, and the default is 90."""
    image = Image.effect_noise((64, 64), 80).convert("RGB")
    sizes = [len(FileFormat(format, quality).encode(image)) for quality in (1, 30, 90, 100)]
    assert sizes == sorted(set(sizes))
    assert len(FileFormat(format).encode(image)) == sizes[2]


def test_a_jpeg_of_a_server_is_kept_as_it_is(tmp_path: Path) -> None:
    """A result that has the chosen format already is not compressed a second time."""
    (kept,) = save_images(entries(jpeg()), tmp_path, format="jpeg")
    assert kept.path.read_bytes() == jpeg()
    (compressed,) = save_images(entries(jpeg()), tmp_path, format="jpeg", quality=20)
    assert len(compressed.path.read_bytes()) < len(jpeg())


def test_jpeg_shows_transparency_on_white() -> None:
    """JPEG puts a transparent image on white, because it has no alpha; WebP keeps it."""
    image = Image.new("RGBA", (16, 16), (255, 255, 255, 0))
    data = FileFormat("jpeg").encode(image)
    with Image.open(io.BytesIO(data)) as decoded:
        assert decoded.convert("RGB").getpixel((8, 8)) == (255, 255, 255)
    with Image.open(io.BytesIO(FileFormat("webp").encode(image))) as decoded:
        assert decoded.mode == "RGBA"


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_each_mode_can_be_written(mode: str) -> None:
    """Gray and color, with and without alpha, can be written in each format."""
    image = decode_png(PNG).convert(mode)
    for format in FORMATS:
        data, pixels = FileFormat(format).convert(encode_png(image))
        assert decode_result(data).tobytes() == pixels.tobytes()


@pytest.mark.parametrize(
    ("format", "quality", "message"),
    [
        ("gif", None, "format must be 'png', 'jpeg' or 'webp', got 'gif'."),
        ("png", 90, "quality does not apply to PNG"),
        ("jpeg", 0, "quality must be a whole number from 1 to 100, got 0."),
        ("webp", 101, "quality must be a whole number from 1 to 100, got 101."),
    ],
)
def test_invalid_formats_write_nothing(
    tmp_path: Path, format: FormatName, quality: int | None, message: str
) -> None:
    """An unknown format or a quality out of range is refused before the folder is made."""
    folder = tmp_path / "new"
    with pytest.raises(InvalidRequestError) as error:
        save_images(entries(PNG.data), folder, format=format, quality=quality)
    assert message in error.value.message
    assert not folder.exists()
