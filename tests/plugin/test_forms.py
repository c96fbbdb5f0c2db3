import httpx
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_image_variation import samples
from pytest_image_variation.forms import Form, Part, SentImage

NAMES = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=9)


@settings(max_examples=25)
@given(fields=st.dictionaries(NAMES, st.text(max_size=20)), data=st.binary(max_size=300))
def test_parses_forms_of_httpx(fields: dict[str, str], data: bytes) -> None:
    """Forms of httpx are parsed, with any fields and any file content."""
    request = httpx.Request("POST", "http://x", data=fields, files={"image": ("a.png", data)})
    form = Form.parse(request.headers["content-type"], request.read())
    assert form.fields == fields
    assert form.image == Part("image", data, "a.png", "image/png")


def test_parses_forms_of_requests() -> None:
    """Forms of requests are parsed, although their parts have no content type."""
    prepared_request = requests.Request(
        "POST", "http://x", data={"n": "2"}, files={"image": ("ä ü.png", b"\r\n--x\r\n")}
    ).prepare()
    assert isinstance(prepared_request.body, bytes)
    form = Form.parse(str(prepared_request.headers["content-type"]), prepared_request.body)
    assert form.fields == {"n": "2"}
    assert form.image is not None
    assert (form.image.content, form.image.content_type) == (b"\r\n--x\r\n", None)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (None, b"x"),
        ("application/json", b"{}"),
        ("multipart/form-data", b"--x--"),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x", b"--x\r\nno headers\r\n--x--"),
        (
            "multipart/form-data; boundary=x",
            b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--",
        ),
        ("ä; b=", b"\xff"),
    ],
)
def test_other_bodies_have_no_parts(content_type: str | None, body: bytes) -> None:
    """A body that is not a form has no parts, and parsing it raises nothing."""
    assert Form.parse(content_type, body) == Form()


@settings(max_examples=50)
@given(content_type=st.text(max_size=40), body=st.binary(max_size=200))
def test_parsing_never_raises(content_type: str, body: bytes) -> None:
    """Parsing any body raises nothing, so that the journal never fails where the server works."""
    Form.parse(content_type, body)
    Form.parse("multipart/form-data; boundary=" + content_type, b"--" + body)


@pytest.mark.parametrize(
    ("data", "flaw", "size", "mode"),
    [
        (samples.square_png(8, "LA"), None, (8, 8), "LA"),
        (samples.non_square_png(12, 8), "not_square", (12, 8), "RGB"),
        (samples.oversized_png(), "too_large", (1280, 1280), "RGB"),
        (samples.truncated_png(8), "corrupt", (8, 8), "RGB"),
        (samples.jpeg(12, 8), "not_png", (12, 8), "RGB"),
        (b"", "not_png", None, None),
        (b"\x89PNG\r\n\x1a\n", "corrupt", None, None),
    ],
)
def test_a_sent_image_has_its_facts(
    data: bytes, flaw: str | None, size: tuple[int, int] | None, mode: str | None
) -> None:
    """A sent image has its size, its mode and the rule that it breaks."""
    facts = SentImage.from_part(Part("image", data, "a.png"))
    assert (facts.flaw, facts.size, facts.mode, facts.length) == (flaw, size, mode, len(data))
