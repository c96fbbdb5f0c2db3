import io
import json
import tracemalloc
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from PIL import Image as PILImage

from langchain_image_variation.exceptions import (
    ContentPolicyError,
    EngineError,
    EngineResponseError,
    ImageVariationError,
    OutputError,
)
from langchain_image_variation.images.png import SquarePNG
from tests.calling import (
    PNG,
    Caller,
    answering,
    b64,
    ok,
    success,
)
from tests.images.scans import with_scans


def picture(format: str, side: int = 8) -> bytes:
    """Return a small picture file."""
    buffer = io.BytesIO()
    PILImage.new("RGB", (side, side), (200, 30, 40)).save(buffer, format)
    return buffer.getvalue()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_pictures_of_other_formats_are_taken_and_made_png_where_asked(
    call: Caller, format: str
) -> None:
    """Some servers send JPEG or WebP; `normalize` also makes them the size asked for."""
    data = picture(format)
    handler, _ = answering(ok(success(2, data)))
    assert [image.read() for image in call(handler, {"n": 2}).data] == [data, data]
    made = call(handler, {"n": 2}, normalize=True).data
    for image in made:
        assert SquarePNG(image.read()).side == 256


@pytest.mark.parametrize("response_format", ["b64_json", "url"])
def test_a_result_with_hundreds_of_scans_is_not_decoded(call: Caller, response_format: str) -> None:
    """It could keep the client busy for hours; the other results of the answer are there."""
    scans, url = with_scans(300), "https://pictures.example/files/a.jpg"
    bad = {"b64_json": b64(scans)} if response_format == "b64_json" else {"url": url}
    body = json.dumps({"created": 1, "data": [bad, {"b64_json": b64()}]}).encode()
    handler, _ = answering(ok(body), httpx.Response(200, content=scans))
    refused, fine = call(handler, {"n": 2}, normalize=True).data
    with pytest.raises(OutputError, match="300 scans; the limit is 100"):
        refused.read()
    assert SquarePNG(fine.read()).side == 256


def test_null_and_unknown_keys_are_kept_out_of_the_way(call: Caller) -> None:
    """Servers add keys, and send null for the other form."""
    entry = {"url": None, "b64_json": b64(), "revised_prompt": None, "more": 1}
    body = json.dumps({"created": 1.5, "data": [entry], "usage": None, "x": {"y": 1}}).encode()
    handler, _ = answering(ok(body, **{"x-request-id": "req_9"}))
    answer = call(handler)
    assert answer.data[0].read() == PNG
    assert answer.created == 1
    assert answer.request_id == "req_9"


@pytest.mark.parametrize("wrap", ["data:image/png;base64,{}", "\n{}\n"])
def test_base64_in_odd_wrappings_is_read(call: Caller, wrap: str) -> None:
    """A whole data: URL as b64_json, and broken lines."""
    body = json.dumps({"created": 1, "data": [{"b64_json": wrap.format(b64())}]}).encode()
    assert call(answering(ok(body))[0]).data[0].read() == PNG


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "an empty body"),
        (b"<!DOCTYPE html><p>Welcome", "an HTML page.*/v1"),
        (b'{"created": 1, "data": [', "not an ImagesResponse"),
        (b"null", "not an ImagesResponse"),
        (b"[]", "not an ImagesResponse"),
        (b'{"data": "x"}', "not an ImagesResponse"),
        (b'{"created": 1, "data": []}', "contains no images"),
        (b'{"created": 1}', "contains no images"),
        (b'{"created": 1, "data": null}', "contains no images"),
        (b"\x89PNG", "not an ImagesResponse"),
        (b"[" * 100_000, "not an ImagesResponse"),
    ],
)
def test_a_success_that_is_none_is_an_error(call: Caller, body: bytes, message: str) -> None:
    """A 200 with anything but pictures says what it was, and is not asked for again."""
    handler, seen = answering(ok(body, **{"x-request-id": "req_8"}))
    with pytest.raises(EngineResponseError, match=message) as caught:
        call(handler)
    assert caught.value.request_id == "req_8"
    assert len(seen) == 1


def test_an_error_inside_a_success_is_an_error(call: Caller) -> None:
    """Some gateways answer 200 and mean the error."""
    body = b'{"error": {"message": "no GPU", "code": "content_policy_violation"}}'
    with pytest.raises(ContentPolicyError, match="no GPU"):
        call(answering(ok(body))[0])
    handler, seen = answering(ok(b'{"error": "out of credits"}'))
    with pytest.raises(EngineError, match="out of credits"):
        call(handler)
    assert len(seen) == 1


def test_what_servers_leave_out_or_fill_in_twice(call: Caller) -> None:
    """A missing `created`, and both forms at once: the answer can be written as the contract's."""
    entries = [{"b64_json": b64(), "url": ""}, {"b64_json": b64(), "url": "https://x.example/a"}]
    answer = call(answering(ok(json.dumps({"data": entries}).encode()))[0], {"n": 2})
    assert [list(entry) for entry in json.loads(answer.to_json())["data"]] == [["b64_json"]] * 2


def test_a_body_that_says_it_is_too_long_is_not_read(call: Caller) -> None:
    """The limit is named."""
    handler, _ = answering(ok(b"{}", **{"content-length": str(10**12)}))
    with pytest.raises(EngineResponseError, match="longer than 268,435,456 bytes"):
        call(handler)


@pytest.mark.parametrize("content", ["", "????", b64(b"GIF89a" + bytes(60)), "QUJD"])
def test_a_result_that_is_no_picture_says_so_when_read(call: Caller, content: str) -> None:
    """The other results are not lost by it."""
    entries = [{"b64_json": content}, {"b64_json": b64()}]
    body = json.dumps({"created": 1, "data": entries}).encode()
    first, second = call(answering(ok(body))[0], {"n": 2}).data
    with pytest.raises(ImageVariationError):
        first.read()
    assert second.read() == PNG


class Streamed(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body in pieces, as from a socket."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self._body), 65536):
            yield self._body[start : start + 65536]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece


def test_ten_large_pictures_take_half_as_much_again_as_their_body(call: Caller) -> None:
    """While they come in, and read one after the other."""
    body = success(10, PNG + bytes(1_500_000))
    call(lambda request: ok())
    tracemalloc.start()
    answer = call(lambda request: httpx.Response(200, stream=Streamed(body)), {"n": 10})
    lengths = {len(image.read()) for image in answer.data}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert lengths == {len(PNG) + 1_500_000}
    assert peak < 1.5 * len(body)
