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


def image_file(format: str, side: int = 8) -> bytes:
    """Return a small image file."""
    buffer = io.BytesIO()
    PILImage.new("RGB", (side, side), (200, 30, 40)).save(buffer, format)
    return buffer.getvalue()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_jpeg_and_webp_become_png_on_request(call: Caller, format: str) -> None:
    """With `normalize`, JPEG and WebP results become PNG of the requested size."""
    data = image_file(format)
    handler, _ = answering(ok(success(2, data)))
    assert [image.read() for image in call(handler, {"n": 2}).data] == [data, data]
    png_images = call(handler, {"n": 2}, normalize=True).data
    for image in png_images:
        assert SquarePNG(image.read()).side == 256


@pytest.mark.parametrize("response_format", ["b64_json", "url"])
def test_a_jpeg_with_many_scans_is_not_decoded(call: Caller, response_format: str) -> None:
    """A JPEG with many scans is not decoded, and the other results are still there."""
    scans, url = with_scans(300), "https://pictures.example/files/a.jpg"
    entry = {"b64_json": b64(scans)} if response_format == "b64_json" else {"url": url}
    body = json.dumps({"created": 1, "data": [entry, {"b64_json": b64()}]}).encode()
    handler, _ = answering(ok(body), httpx.Response(200, content=scans))
    refused_image, good_image = call(handler, {"n": 2}, normalize=True).data
    with pytest.raises(OutputError, match="300 scans; the limit is 100"):
        refused_image.read()
    assert SquarePNG(good_image.read()).side == 256


def test_null_and_unknown_keys_do_no_harm(call: Caller) -> None:
    """Unknown keys, and null for the other form, are ignored."""
    entry = {"url": None, "b64_json": b64(), "revised_prompt": None, "more": 1}
    body = json.dumps({"created": 1.5, "data": [entry], "usage": None, "x": {"y": 1}}).encode()
    handler, _ = answering(ok(body, **{"x-request-id": "req_9"}))
    answer = call(handler)
    assert answer.data[0].read() == PNG
    assert answer.created == 1
    assert answer.request_id == "req_9"


@pytest.mark.parametrize("wrap", ["data:image/png;base64,{}", "\n{}\n"])
def test_wrapped_base64_is_read(call: Caller, wrap: str) -> None:
    """`b64_json` may have line breaks, or be a whole data: URL."""
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
def test_a_success_without_images_is_an_error(call: Caller, body: bytes, message: str) -> None:
    """The error for a success without images quotes the body, and nothing is sent again."""
    handler, requests = answering(ok(body, **{"x-request-id": "req_8"}))
    with pytest.raises(EngineResponseError, match=message) as caught:
        call(handler)
    assert caught.value.request_id == "req_8"
    assert len(requests) == 1


def test_an_error_inside_a_success_is_an_error(call: Caller) -> None:
    """An error inside a 200, as some gateways send it, is raised as that error."""
    body = b'{"error": {"message": "no GPU", "code": "content_policy_violation"}}'
    with pytest.raises(ContentPolicyError, match="no GPU"):
        call(answering(ok(body))[0])
    handler, requests = answering(ok(b'{"error": "out of credits"}'))
    with pytest.raises(EngineError, match="out of credits"):
        call(handler)
    assert len(requests) == 1


def test_missing_created_and_both_forms_are_mended(call: Caller) -> None:
    """A missing `created` and an entry with both forms are changed to follow the contract."""
    entries = [{"b64_json": b64(), "url": ""}, {"b64_json": b64(), "url": "https://x.example/a"}]
    answer = call(answering(ok(json.dumps({"data": entries}).encode()))[0], {"n": 2})
    assert [list(entry) for entry in json.loads(answer.to_json())["data"]] == [["b64_json"]] * 2


def test_a_too_long_content_length_is_refused(call: Caller) -> None:
    """A body whose length exceeds the limit is not read, and the message names the limit."""
    handler, _ = answering(ok(b"{}", **{"content-length": str(10**12)}))
    with pytest.raises(EngineResponseError, match="limit of 268,435,456 bytes"):
        call(handler)


@pytest.mark.parametrize("content", ["", "????", b64(b"GIF89a" + bytes(60)), "QUJD"])
def test_a_result_that_is_not_an_image_is_refused(call: Caller, content: str) -> None:
    """A result that is not an image raises an error when read, and the others are still there."""
    entries = [{"b64_json": content}, {"b64_json": b64()}]
    body = json.dumps({"created": 1, "data": entries}).encode()
    first, second = call(answering(ok(body))[0], {"n": 2}).data
    with pytest.raises(ImageVariationError):
        first.read()
    assert second.read() == PNG


class BodyStream(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body in pieces, as from a socket."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self._body), 65536):
            yield self._body[start : start + 65536]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece


@pytest.mark.mostly_slow("sync")
def test_large_images_take_1_5_times_their_body(call: Caller) -> None:
    """Large images take at most 1.5 times the memory of their body, on arrival and when read."""
    body = success(10, PNG + bytes(1_500_000))
    call(lambda request: ok())
    tracemalloc.start()
    answer = call(lambda request: httpx.Response(200, stream=BodyStream(body)), {"n": 10})
    lengths = {len(image.read()) for image in answer.data}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert lengths == {len(PNG) + 1_500_000}
    assert peak < 1.5 * len(body)
