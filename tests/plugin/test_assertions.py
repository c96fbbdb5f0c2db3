import base64
import json
from typing import Any

import httpx
import pytest

from langchain_image_variation.contract import ImagesResponse
from pytest_image_variation.assertions import assert_images_response
from pytest_image_variation.samples import jpeg, square_png

PNG = square_png(256)
GOOD = {"created": 1, "data": [{"b64_json": base64.b64encode(PNG).decode()}]}
URL = {"created": 1, "data": [{"url": "https://x.example/a.png"}] * 2}


def b64(data: bytes) -> dict[str, Any]:
    """Return a response with one image."""
    return {"created": 1, "data": [{"b64_json": base64.b64encode(data).decode()}]}


@pytest.mark.parametrize(
    "response",
    [
        GOOD,
        json.dumps(GOOD),
        json.dumps(GOOD).encode(),
        httpx.Response(200, json=GOOD),
        ImagesResponse.from_content(GOOD),
        {**GOOD, "data": [{**GOOD["data"][0], "url": None, "revised_prompt": None}]},  # type: ignore[index]  # a list
    ],
)
def test_accepts_every_response_type(response: Any) -> None:
    """JSON, parsed or not, and the responses of libraries and clients are accepted."""
    assert_images_response(response, size="256x256", response_format="b64_json")


def test_urls_are_downloaded_and_checked() -> None:
    """Images at URLs are checked if they can be downloaded."""
    assert_images_response(URL, n=2)
    urls: list[str] = []

    def read(url: str) -> bytes:
        urls.append(url)
        return PNG

    assert_images_response(URL, n=2, size="256x256", read=read)
    assert urls == ["https://x.example/a.png"] * 2
    with pytest.raises(AssertionError, match=r"data\[1\].url +a PNG of 512x512 +one of 256x256"):
        assert_images_response(URL, n=2, size="512x512", read=read)
    inline = {
        "created": 1,
        "data": [{"url": f"data:image/png;base64,{b64(PNG)['data'][0]['b64_json']}"}],
    }
    with pytest.raises(AssertionError, match="one of 256x256"):
        assert_images_response(inline)


@pytest.mark.parametrize(
    ("response", "rows"),
    [
        (httpx.Response(429, json=GOOD), ["status 200 429"]),
        ("<html>", ["body a JSON object no JSON"]),
        ([], ["body a JSON object []"]),
        ({}, ["created an integer, in seconds nothing", "data a list nothing"]),
        ({**GOOD, "created": "now"}, ["created an integer, in seconds 'now'"]),
        ({"created": 1, "data": []}, ["data 1 entries 0"]),
        ({"created": 1, "data": ["x"]}, ["data[0] an object 'x'"]),
        ({"created": 1, "data": [{}]}, ["data[0].b64_json a string nothing"]),
        (
            {"created": 1, "data": [{"url": "https://x.example/a"}]},
            ["data[0].url nothing 'https://x.example/a'", "data[0].b64_json a string nothing"],
        ),
        (b64(square_png(64)), ["data[0].b64_json a PNG of 256x256 one of 64x64"]),
        (b64(jpeg()), ["data[0].b64_json a PNG of 256x256 image is not a PNG file"]),
        (
            {"created": 1, "data": [{"b64_json": "a b"}]},
            ["data[0].b64_json a PNG of 256x256 invalid base64"],
        ),
        (httpx.Response(200, json={"error": {"message": "m"}}), ["created an integer"]),
    ],
)
def test_each_violation_is_a_row(response: Any, rows: list[str]) -> None:
    """A violation is a row with the field, what was expected and what was found."""
    with pytest.raises(AssertionError) as failure:
        assert_images_response(response, size="256x256", response_format="b64_json")
    title, head, *lines = str(failure.value).splitlines()
    assert title == "The response does not match the request."
    assert head.split() == ["field", "expected", "got"]
    rows_shown = [" ".join(line.split()) for line in lines]
    assert len(rows_shown) >= len(rows)
    assert all(any(line.startswith(row) for line in rows_shown) for row in rows)


@pytest.mark.parametrize("url", ["/tmp/picture.jpg", "ftp://x.example/a", "file:///a", "x"])
def test_a_path_is_not_a_url(url: str) -> None:
    """A path on the server, as some servers return it, is not accepted as a URL."""
    with pytest.raises(AssertionError, match="not an http or https URL"):
        assert_images_response({"created": 1, "data": [{"url": url}]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": "nonsense"}, "size must be one of 256x256, .*, got 'nonsense'"),
        ({"response_format": "bogus"}, "response_format must be one of url, b64_json, got 'bogus'"),
        ({"n": 0}, "n must be a positive integer, got '0'"),
    ],
)
def test_invalid_arguments_are_value_errors(arguments: Any, message: str) -> None:
    """A mistake of the test is a ValueError, not a row."""
    with pytest.raises(ValueError, match=message):
        assert_images_response(URL, **arguments)


def test_unread_aiohttp_response() -> None:
    """The error for an unread aiohttp response says what to do instead."""

    class Unread:
        status = 200
        content = object()

        async def json(self) -> Any:
            """Return what would be read."""
            return GOOD

    with pytest.raises(AssertionError, match=r"await response\.json\(\)"):
        assert_images_response(Unread())


def test_failures_do_not_show_whole_images() -> None:
    """Failures shorten images, since megabytes of base64 would hide the message."""
    with pytest.raises(AssertionError) as failure:
        assert_images_response(GOOD, n=2)
    assert len(str(failure.value)) < 500
