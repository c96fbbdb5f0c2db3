import base64
import tracemalloc

import pytest

from langchain_image_variation.contract import Image, ImagesResponse
from langchain_image_variation.exceptions import DownloadError, OutputError
from pytest_image_variation.samples import square_png


@pytest.mark.parametrize(
    "image",
    [
        Image(),
        Image(url="https://example.com/a.png"),
        Image(url="/srv/images/a.jpg"),
        Image(b64_json="not base64!"),
        Image(url="data:image/png,abc"),
        Image(url="data:image/png;base64,???"),
    ],
)
def test_an_entry_without_an_image_is_our_error(image: Image) -> None:
    """Reading an entry without an image raises an OutputError."""
    with pytest.raises(OutputError):
        image.read()


def test_base64_may_have_line_breaks() -> None:
    """Base64 may have line breaks, since some servers send it in lines."""
    assert Image(b64_json="eHh4\neHh4\r\n").read() == b"xxxxxx"


@pytest.mark.parametrize("text", ["AB " * 300_000, "A\t" * 300_000, "\r\nQUJD" * 150_000])
def test_wrapped_base64_takes_few_times_its_size(text: str) -> None:
    """Base64 that is mostly white space takes a small multiple of its memory."""
    image = Image(b64_json=text)
    tracemalloc.start()
    data = image.read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert data == base64.b64decode(text)
    assert peak < 4 * len(text)


@pytest.mark.parametrize(
    "image", [{"b64_json": "", "url": "https://a/1"}, {"url": "", "b64_json": "AA=="}]
)
def test_an_empty_form_is_none(image: dict[str, str]) -> None:
    """A server may send both forms, one of them empty. The empty one is read as None."""
    response = ImagesResponse.from_content({"created": 1, "data": [image]})
    (entry,) = response.data
    assert [value for value in (entry.b64_json, entry.url) if value is not None] == [
        value for value in image.values() if value
    ]


@pytest.mark.parametrize("blank", ["", "\n", " \r\n"])
@pytest.mark.parametrize("form", ["b64_json", "url"])
def test_the_head_of_a_file_is_read_alone(form: str, blank: str) -> None:
    """`read_head` returns the start of the file, even if base64 is in lines or ends corrupt."""
    png = square_png()
    encoded = blank.join(base64.b64encode(png).decode()[i : i + 7] for i in range(0, 700, 7))
    prefix = "data:image/png;base64," if form == "url" else ""
    image = Image.model_validate({form: f"{prefix}{encoded}%"})
    head = image.read_head()
    assert len(head) >= 24
    assert png.startswith(head)
    with pytest.raises(OutputError, match="not valid base64"):
        image.read()


def test_a_replaced_file_keeps_the_images_form() -> None:
    """`set_png` changes what `read` returns, and only the field that holds the file."""
    png = b"\x89PNG new"
    base64_image = Image(b64_json=base64.b64encode(b"old").decode())
    data_url = Image(url="data:image/png;base64,b2xk")
    url_image = Image(url="https://images.example/a.png")
    url_image.set_downloaded(b"old")
    for image in (base64_image, data_url, url_image):
        assert image.read() == b"old"
        image.set_png(png)
        assert image.read() == png
    assert base64_image.url is None
    assert data_url.b64_json is None
    assert url_image.url == "https://images.example/a.png"
    assert url_image.b64_json is None
    url_image.use_data_url()
    assert url_image.url == f"data:image/png;base64,{base64.b64encode(png).decode()}"


def test_a_failed_image_raises_its_error_again() -> None:
    """Each `read` raises a copy without the traceback of the failure, and `failure` shows it."""
    image = Image(url="https://images.example/a.png")
    assert image.failure is None
    try:
        raise DownloadError("The image is gone.")
    except DownloadError as error:
        image.set_failure(error)
    assert image.failure is not None
    assert image.failure.__traceback__ is None
    for _ in range(2):
        with pytest.raises(DownloadError, match="The image is gone") as caught:
            image.read()
        assert caught.value is not image.failure
