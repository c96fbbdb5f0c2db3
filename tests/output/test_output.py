import hashlib
import io
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import pytest
from PIL import Image

from langchain_image_variation.contract import (
    CreateImageVariationRequest,
    ImagesResponse,
    ResponseFormat,
)
from langchain_image_variation.contract import Image as ResponseImage
from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.engines.local import LocalEngine
from langchain_image_variation.exceptions import OutputError
from langchain_image_variation.files.atomic import place_file
from langchain_image_variation.images.pixels import (
    decode_png,
    decode_result,
    encode_png,
    pixel_sha256,
)
from langchain_image_variation.images.png import SquarePNG
from langchain_image_variation.output import (
    SavedImage,
    cut_back,
    make_output_dir,
    save_images,
)
from langchain_image_variation.output.contact_sheet import THUMBNAIL_SIDE, ContactSheet
from langchain_image_variation.source import Fit, Source, load_source
from pytest_image_variation.samples import corrupt_png, non_square_png, square_png
from tests.images.compressed import encodings

PNG = SquarePNG(square_png())


def answer(n: int) -> ImagesResponse:
    """Return a response of the instant engine."""
    request = CreateImageVariationRequest(image=PNG, n=n, size="256x256")
    return InstantEngine().create_variation(request)


def entries(*files: bytes) -> ImagesResponse:
    """Return a response with these files."""
    return ImagesResponse.from_pngs(files, response_format="b64_json")


def test_each_variation_has_its_own_name(tmp_path: Path) -> None:
    """A name consists of the source's name, the pixel hash and the index."""
    response = answer(3)
    saved_images = save_images(response, tmp_path / "new" / "folder", name="cat")
    for index, (image, expected) in enumerate(
        zip(saved_images, response.data, strict=True), start=1
    ):
        pixels = pixel_sha256(decode_result(expected.read()))
        assert image.path.name == f"cat-{pixels[:8]}-{index}.png"
        assert image.path.read_bytes() == expected.read()
        assert image.sha256 == hashlib.sha256(expected.read()).hexdigest()
        assert (image.width, image.height, image.seed) == (256, 256, None)
    assert len(os.listdir(tmp_path / "new" / "folder")) == 3


def test_writing_again_changes_nothing(tmp_path: Path) -> None:
    """Writing the same response twice leaves the same files untouched."""
    first = save_images(answer(2), tmp_path)
    times = [image.path.stat().st_mtime_ns for image in first]
    assert save_images(answer(2), tmp_path) == first
    assert [image.path.stat().st_mtime_ns for image in first] == times


@pytest.mark.parametrize("other", [b"something else", square_png(65), square_png()[:-40], b""])
def test_never_replaces_another_image(tmp_path: Path, other: bytes) -> None:
    """If other content has the name of an image, the hash in the image's name gets longer."""
    data = encode_png(decode_png(PNG))

    def save() -> Path:
        return save_images(entries(data), tmp_path, name="cat")[0].path

    first = save()
    first.write_bytes(other)
    second = save()
    assert first.read_bytes() == other
    assert (second.read_bytes(), len(second.name) - len(first.name)) == (data, 8)
    second.write_bytes(b"x")
    third = save()
    third.write_bytes(b"x")
    with pytest.raises(OutputError, match="exists with other content"):
        save()


def test_the_same_pixels_are_not_written_twice(tmp_path: Path) -> None:
    """The first file stays, however the pixels are compressed, and its hash is returned."""
    image = decode_png(SquarePNG(square_png(24)))
    first, *others = encodings(image)
    (saved_image,) = save_images(entries(first), tmp_path, name="cat")
    time = saved_image.path.stat().st_mtime_ns
    for data in others:
        assert save_images(entries(data), tmp_path, name="cat") == [saved_image]
    assert os.listdir(tmp_path) == [saved_image.path.name]
    assert (saved_image.path.read_bytes(), saved_image.path.stat().st_mtime_ns) == (first, time)
    assert saved_image.sha256 == hashlib.sha256(first).hexdigest()


def test_names_do_not_depend_on_compression(tmp_path: Path) -> None:
    """Names do not depend on compression, so that every machine makes the same ones."""
    image = decode_png(SquarePNG(square_png(24)))
    names = {
        save_images(entries(data), tmp_path / str(at), name="cat")[0].path.name
        for at, data in enumerate(encodings(image))
    }
    assert names == {f"cat-{pixel_sha256(image)[:8]}-1.png"}


def test_a_rotated_file_counts_as_the_same_image(tmp_path: Path) -> None:
    """A file that EXIF rotates counts as the same image, despite the sides in its header."""
    exif = Image.Exif()
    exif[0x0112] = 6
    files = []
    for level in (1, 9):
        buffer = io.BytesIO()
        Image.open(io.BytesIO(non_square_png())).save(
            buffer, "PNG", exif=exif, compress_level=level
        )
        files.append(buffer.getvalue())
    saved_images = [save_images(entries(data), tmp_path)[0] for data in files]
    assert files[0] != files[1]
    assert saved_images[0] == saved_images[1]
    assert (saved_images[0].width, saved_images[0].height) == (64, 96)


def test_the_sheets_name_depends_on_its_pixels(tmp_path: Path) -> None:
    """The sheet's name depends on its pixels, not on the compression of any image."""
    for data in encodings(decode_png(SquarePNG(square_png(24)))):
        sheet = ContactSheet(SquarePNG(data), entries(data), tile=32)
        path = sheet.save(tmp_path, name="cat")
        assert path.name == f"cat-{pixel_sha256(sheet.image)[:8]}-sheet.png"
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("../../etc/passwd", "etc-passwd"),
        (".hidden", "hidden"),
        ("-rf", "rf"),
        ("a b;$(rm)`\n\x1b[2J", "a-b-rm-2J"),
        ("Äpfel_2.jpg", "Äpfel_2.jpg"),
        ("x" * 300, "x" * 40),
        ("...", "image"),
        ("cat-0123abcd-2", "cat"),
        ("IMG-20240101-1", "IMG-20240101-1"),
        ("cat-19377556-3", "cat"),
        ("cat-0123abcd-sheet", "cat"),
        ("cat-0123456789abcdef01234567-2", "cat"),
        ("cafe\u0301", "caf\u00e9"),
        ("\U00020000" * 40, "\U00020000" * 25),
        ("CON.backup", "_CON.backup"),
        ("lpt1.", "lpt1"),
        ("con.", "con"),
    ],
)
def test_names_are_made_safe(tmp_path: Path, name: str, stem: str) -> None:
    """No name leaves the folder, hides a file, or confuses a terminal or a shell."""
    (saved_images,) = save_images(answer(1), tmp_path, name=name)
    assert saved_images.path.parent == tmp_path
    assert saved_images.path.name.rpartition("-")[0].rpartition("-")[0] == stem


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_another_format_is_written_as_png(tmp_path: Path, format: str) -> None:
    """JPEG and WebP in b64_json, as some servers send it, are written as equal PNG files."""
    buffer = io.BytesIO()
    decode_png(PNG).save(buffer, format)
    pixels = decode_result(buffer.getvalue())
    (saved_images,) = save_images(entries(buffer.getvalue()), tmp_path)
    with Image.open(saved_images.path) as image:
        assert (image.format, image.size) == ("PNG", (64, 64))
        assert image.tobytes() == pixels.tobytes()
    assert saved_images.path.name == f"image-{pixel_sha256(pixels)[:8]}-1.png"
    assert save_images(entries(encode_png(pixels, compress_level=0)), tmp_path) == [saved_images]


@pytest.mark.parametrize("data", [b"\0", b"<html>", square_png()[:100], corrupt_png()])
def test_an_unreadable_image_does_not_lose_the_others(tmp_path: Path, data: bytes) -> None:
    """The other images, which may be paid for, are written, and the error lists them."""
    response = ImagesResponse.from_pngs([square_png(), data], response_format="url")
    reported_images: list[SavedImage] = []
    with pytest.raises(OutputError, match=r"not a readable PNG.* Saved images: image-"):
        save_images(response, tmp_path, report=reported_images.append)
    assert os.listdir(tmp_path) == [f"image-{pixel_sha256(decode_png(PNG))[:8]}-1.png"]
    assert [image.path for image in reported_images] == list(tmp_path.iterdir())


def test_a_failed_write_does_not_lose_the_others(tmp_path: Path) -> None:
    """A name that is taken is an error, but the other images are written."""
    digest = pixel_sha256(decode_result(answer(1).data[0].read()))
    for length in (8, 16, 64):
        (tmp_path / f"image-{digest[:length]}-1.png").mkdir()
    with pytest.raises(OutputError, match=f"'image-{digest}-1.png' exists with other content"):
        save_images(answer(2), tmp_path)
    assert len(list(tmp_path.glob("image-*-2.png"))) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file_is_not_replaced(tmp_path: Path) -> None:
    """If another user's file of that name cannot be read, the new file gets a longer name."""
    (first,) = save_images(answer(1), tmp_path)
    first.path.chmod(0)
    (second,) = save_images(answer(1), tmp_path)
    assert len(second.path.name) == len(first.path.name) + 8


@pytest.mark.parametrize("umask", [0o002, 0o077])
def test_results_have_the_permissions_of_the_umask(tmp_path: Path, umask: int) -> None:
    """Folders and files of results can be shared if the umask allows it, and only then."""
    previous_umask = os.umask(umask)
    try:
        (saved_image,) = save_images(answer(1), tmp_path / "results")
    finally:
        os.umask(previous_umask)
    assert stat.S_IMODE(saved_image.path.stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE(saved_image.path.parent.stat().st_mode) == 0o777 & ~umask


def test_a_response_with_urls_names_the_next_step(tmp_path: Path) -> None:
    """An entry that has only a URL is refused, and the error says what to request."""
    response = ImagesResponse(created=1, data=[ResponseImage(url="https://x/y.png")])
    with pytest.raises(OutputError, match="b64_json"):
        save_images(response, tmp_path)


def test_refuses_a_folder_that_is_a_file(tmp_path: Path) -> None:
    """If the folder or its parent is a file, the error does not show a whole path."""
    (tmp_path / "taken").write_text("")
    for directory in (tmp_path / "taken", tmp_path / "taken" / "below", tmp_path / "nul\0"):
        with pytest.raises(OutputError) as caught:
            make_output_dir(directory)
        assert str(tmp_path) not in str(caught.value)


def test_a_failed_write_leaves_no_temporary_file(tmp_path: Path) -> None:
    """A name that the file system refuses is our own error, and no temporary file stays."""
    with pytest.raises(OutputError, match="cannot be written"):
        place_file(tmp_path, "1/2", PNG.data)
    assert os.listdir(tmp_path) == []


def test_concurrent_writers_of_one_image_agree(tmp_path: Path) -> None:
    """Threads that write the same pixels with different compression get the same file."""
    files = encodings(decode_png(SquarePNG(square_png(32))))
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(save_images, entries(data), tmp_path) for data in files * 3]
    (saved_images,) = {job.result()[0] for job in jobs}
    assert os.listdir(tmp_path) == [saved_images.path.name]
    assert saved_images.path.read_bytes() in files
    assert saved_images.sha256 == hashlib.sha256(saved_images.path.read_bytes()).hexdigest()


@pytest.mark.parametrize("n", [1, 4, 10])
def test_the_sheet_shows_source_and_variations(tmp_path: Path, n: int) -> None:
    """The source comes first, then each variation in order."""
    response = answer(n)
    sheet = ContactSheet(PNG, response, tile=64)
    columns = 5 if n == 4 else min(n + 1, 4)
    for index, image in enumerate(response.data, start=1):
        row, column = divmod(index, columns)
        with Image.open(io.BytesIO(image.read())) as variation:
            expected = variation.convert("RGB").getpixel((0, 0))
        at = (8 + column * 72 + 32, 8 + row * 92 + 20 + 32)
        assert sheet.image.getpixel(at) == expected
    path = sheet.save(tmp_path, name="cat")
    assert path.name.startswith("cat-")
    assert path.name.endswith("-sheet.png")


def test_a_notebook_shows_the_sheet() -> None:
    """The display hook of a notebook returns the sheet as a PNG."""
    sheet = ContactSheet(PNG, answer(2))
    with Image.open(io.BytesIO(sheet._repr_png_())) as image:
        assert image.size == sheet.image.size


def panorama() -> Source:
    """Return a source that is three times as wide as it is high, red at the left and lime right."""
    image = Image.new("RGB", (300, 100), "red")
    image.paste("lime", (150, 0, 300, 100))
    return load_source(image, fit="keep")


@pytest.mark.mostly_slow("url")
@pytest.mark.parametrize("response_format", ["b64_json", "url"])
def test_variations_are_cut_back(tmp_path: Path, response_format: ResponseFormat) -> None:
    """Each image gets the shape of the source, and keeps its seed and its form."""
    source = panorama()
    request = CreateImageVariationRequest(
        image=source.png, n=2, size="512x512", response_format=response_format
    )
    response = LocalEngine(seed=7).create_variation(request)
    response.size, response.output_format = request.size, "webp"
    cut = cut_back(response, source)
    assert (cut.created, cut.size, cut.output_format) == (response.created, None, None)
    assert [image.seed for image in cut.data] == [7, 8]
    for image, whole in zip(cut.data, response.data, strict=True):
        pixels = decode_result(image.read())
        assert pixels.size == (512, 171)
        assert source.inset is not None
        assert pixels.tobytes() == source.inset.cut_out(decode_result(whole.read())).tobytes()
        assert (image.b64_json is None, image.url is None) == (
            whole.b64_json is None,
            whole.url is None,
        )
    saved_images = save_images(cut, tmp_path, name="lake")
    assert [(image.width, image.height) for image in saved_images] == [(512, 171)] * 2
    (digest, _) = (pixel_sha256(decode_result(image.read()))[:8] for image in cut.data)
    assert saved_images[0].path.name == f"lake-{digest}-1.png"
    assert ImagesResponse.from_json(cut.to_json()).data[0].read() == cut.data[0].read()


def test_a_source_without_an_inset_cuts_nothing() -> None:
    """The response is returned as it is if the source was cropped, padded or square."""
    response = answer(1)
    for fit in get_args(Fit):
        assert cut_back(response, load_source(square_png(), fit=fit)) is response
    assert cut_back(response, load_source(non_square_png(), fit="pad")) is response


def test_a_download_is_cut_too() -> None:
    """An image at a URL becomes a data: URL, because the file at the URL still has bars."""
    image = ResponseImage(url="https://example.com/1.png")
    image.set_downloaded(square_png(256))
    (cut,) = cut_back(ImagesResponse(created=1, data=[image]), panorama()).data
    assert cut.url is not None
    assert cut.url.startswith("data:image/png;base64,")
    assert decode_result(cut.read()).size == (256, 85)
    assert decode_result(image.read()).size == (256, 256)


def test_an_unreadable_image_is_not_cut(tmp_path: Path) -> None:
    """An unreadable image raises its error when it is saved, after the others were written."""
    cut = cut_back(entries(square_png(256), b"not an image"), panorama())
    with pytest.raises(OutputError, match=r"not a readable PNG.* Saved images: lake-.*-1\.png"):
        save_images(cut, tmp_path, name="lake")
    assert len(os.listdir(tmp_path)) == 1


def test_a_result_that_is_not_square_is_cut_to_shape() -> None:
    """Even if a server returns another shape, the result has the shape of the source."""
    cut = cut_back(entries(non_square_png(200, 100)), panorama())
    assert decode_result(cut.data[0].read()).size == (200, 67)


@pytest.mark.mostly_slow("1-shape0", "3-shape2")
@pytest.mark.parametrize("shape", [(200, 100), (100, 200), (800, 100), (100, 800)])
@pytest.mark.parametrize("n", [1, 3, 10])
def test_the_sheet_shows_every_shape_undistorted(shape: tuple[int, int], n: int) -> None:
    """A wide or high image keeps its shape on a sheet, and a thumbnail stays within its limit."""
    source = load_source(Image.new("RGB", shape, "red"), fit="keep")
    assert source.inset is not None
    response = cut_back(entries(*[encode_png(Image.new("RGB", (256, 256), "red"))] * n), source)
    sheet = ContactSheet(source, response, tile=100).image
    width, height = (-(-100 * length // max(shape)) for length in shape)
    reds = sum(count for count, color in sheet.getcolors(2**20) or [] if color == (255, 0, 0))
    assert reds == (n + 1) * width * height
    columns = min(n + 1, 4)
    assert sheet.width == columns * (max(30, width) + 8) + 8
    assert sheet.height == -(-(n + 1) // columns) * (height + 28) + 8
    with Image.open(io.BytesIO(ContactSheet.thumbnail(source, response))) as thumbnail:
        assert max(thumbnail.size) <= THUMBNAIL_SIDE
