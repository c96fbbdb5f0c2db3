import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from langchain_image_variation.exceptions import InvalidRequestError
from langchain_image_variation.server import create_app
from langchain_image_variation.server.multipart import MultipartForm
from pytest_image_variation.forms import Form, Part
from pytest_image_variation.samples import square_png

PATH = "/v1/images/variations"
KIND = "multipart/form-data; boundary=x"
FORM = Form(
    (
        Part("image", square_png(8), "a.png", "image/png"),
        Part("response_format", b"b64_json"),
        Part("n", b"2"),
        Part("size", b"256x256"),
    )
)
CLOSED = FORM.encode("x")
UNCLOSED = CLOSED.removesuffix(b"\r\n--x--\r\n")


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app with the engine `instant`, without a socket."""
    app = create_app("instant", store_dir=tmp_path)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url="http://localhost",
        headers={"content-type": KIND},
    ) as client:
        yield client


@pytest.mark.parametrize(
    ("kind", "body", "reason"),
    [
        ("multipart/form-data", CLOSED, "name a valid boundary. Leave that header out"),
        ("multipart/form-data; boundary=", CLOSED, "name a valid boundary. Leave that header out"),
        (f"{KIND}{'x' * 300}", CLOSED, "name a valid boundary. Leave that header out"),
        (f"{KIND}y", CLOSED, "It must use the boundary that its Content-Type names."),
        (KIND, b"--x\r\n\r\n2\r\n--x--", "Each part needs a header with its name"),
        (
            KIND,
            b"--x\r\ncontent-disposition: form-data\r\n\r\n2\r\n--x--",
            "Each part needs a header with its name",
        ),
        (KIND, b"--x\r\na: b\r\nA: c\r\n\r\n2\r\n--x--", "header of a part must come once"),
        (KIND, b"--x\r\na: %b" % (b"b" * 70_000), "are malformed or too long"),
        (KIND, b"--x\r\nno colon\r\n\r\n2\r\n--x--", "are malformed or too long"),
    ],
    ids=range(9),
)
async def test_an_invalid_form_says_why(
    client: httpx.AsyncClient, kind: str, body: bytes, reason: str
) -> None:
    """The error names the rule that a form breaks."""
    response = await client.post(PATH, headers={"content-type": kind}, content=body)
    assert response.status_code == 400
    assert reason in response.json()["error"]["message"]


async def test_a_form_that_is_cut_off_is_refused(client: httpx.AsyncClient) -> None:
    """A form that ends anywhere before its closing boundary is refused."""
    for length in range(len(UNCLOSED) - 200, len(CLOSED) - len(b"-\r\n")):
        response = await client.post(PATH, content=CLOSED[:length])
        assert response.status_code == 400, CLOSED[length - 20 : length]
    message = response.json()["error"]["message"]
    assert message.startswith("The multipart form ends before its closing boundary")


@pytest.mark.parametrize("end", [b"--x--", b"--x--\r\n\r\n", b"--x--\r\nepilogue", b"--x--  \r\n"])
async def test_anything_may_follow_a_form(client: httpx.AsyncClient, end: bytes) -> None:
    """A form may end with its closing boundary, or with anything after it."""
    response = await client.post(PATH, content=UNCLOSED + b"\r\n" + end)
    assert len(response.json()["data"]) == 2


@pytest.mark.parametrize("header", [b"content-disposition: form-data; name=n", b"a: b\nc: d"])
async def test_ambiguous_headers_are_refused(client: httpx.AsyncClient, header: bytes) -> None:
    """A part is refused if programs would disagree about its headers."""
    disposition = b'Content-Disposition: form-data; name="size"\r\n'
    body = CLOSED.replace(disposition, disposition + header + b"\r\n")
    response = await client.post(PATH, content=body)
    assert "not a valid multipart form" in response.json()["error"]["message"]


def parse(body: bytes) -> tuple[bytes, dict[str, str]] | None:
    """Return the image and the fields of a form as the server reads them, or None if invalid."""

    async def feed() -> tuple[bytes, dict[str, str]]:
        form = MultipartForm(KIND, option_names=())
        form.feed(body)
        return form.image(), form.fields

    try:
        return asyncio.run(feed())
    except InvalidRequestError:
        return None


EDITS = st.sampled_from([b"\r\n", b"\n", b"--", b"--x", b"\r\n--x", b"\r\n--x--", b"-", b" ", b""])


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(start=st.integers(0, len(CLOSED)), length=st.integers(0, 8), edit=EDITS)
@example(start=CLOSED.index(b"256x"), length=0, edit=b"\r\n--xyz")
@example(start=len(UNCLOSED), length=5, edit=b"")
def test_the_pytest_plugin_reads_the_same(start: int, length: int, edit: bytes) -> None:
    """If the server accepts a form, the pytest plugin reads the same image and fields from it."""
    body = CLOSED[:start] + edit + CLOSED[start + length :]
    accepted: Any = parse(body)
    if accepted is not None:
        form = Form.parse(KIND, body)
        assert form.is_closed and form.image is not None
        fields = {name: value for name, value in form.fields.items() if value}
        assert (form.image.content, fields) == accepted


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([1, 7, 4095, 4096, 4097, 20_000]), max_size=12))
@example([10, 4096, 10, 10, 4096, 10, 4095])
def test_an_image_may_come_in_any_pieces(lengths: list[int]) -> None:
    """Small and large pieces are joined in the order in which they arrive."""
    image = random.Random(1).randbytes(50_000)
    body = Form((Part("image", image, "a.png", "image/png"),)).encode("x")
    form = MultipartForm(KIND, option_names=())
    for length in lengths:
        form.feed(body[:length])
        body = body[length:]
    form.feed(body)
    assert form.image() == image


@pytest.mark.parametrize("length", [0, 16 * 1024, 16 * 1024 + 1])
async def test_a_field_has_a_limit(client: httpx.AsyncClient, length: int) -> None:
    """A field of more than 16 KiB is refused."""
    form = Form((*FORM.parts[:1], Part("user", b"u" * length)))
    response = await client.post(PATH, content=form.encode("x"))
    if length <= 16 * 1024:
        assert response.status_code == 200
    else:
        assert "user must have at most 16,384 bytes" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Part("image", b"1"), "image must be sent as a file. "),
        (Part("n", b"1", "n.txt"), "n must be sent as a plain field, not a file."),
        (Part("size", b"1", "s.txt"), "size must be sent as a plain field, not a file."),
    ],
)
async def test_only_the_image_is_a_file(
    client: httpx.AsyncClient, part: Part, message: str
) -> None:
    """The image has a file name, and no other field has one."""
    response = await client.post(PATH, content=Form((part,)).encode("x"))
    assert response.json()["error"]["message"].startswith(message)
    assert response.json()["error"]["param"] == part.name
