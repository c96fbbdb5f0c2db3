"""What a server sends is limited by what the client asked for."""

import json
import struct
import threading
import time
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from langchain_image_variation.cancellation import cancel_after
from langchain_image_variation.contract import (
    CreateImageVariationRequest,
    Image,
    ImagesResponse,
)
from langchain_image_variation.exceptions import (
    DownloadError,
    EngineError,
    EngineResponseError,
    EngineTimeoutError,
    OutputError,
)
from langchain_image_variation.hosted.answer_images import normalize_images
from langchain_image_variation.hosted.budget import MAX_ANSWER_BYTES, Budget
from langchain_image_variation.hosted.client import ImageVariationClient
from langchain_image_variation.hosted.gpt_image import GptImageEngine
from langchain_image_variation.hosted.session import MAX_COOKIE_LENGTH, MAX_COOKIES
from langchain_image_variation.http.flow import Driver, Flow
from langchain_image_variation.images.png import SquarePNG
from tests.calling import BASE_URL, PNG, Caller, answering, b64, ok, success
from tests.http.raw_server import raw_server, response
from tests.images.encoder import SIGNATURE, chunk

URLS = [f"https://pictures.example/{index}.png" for index in range(120)]


def url_answer(n: int) -> httpx.Response:
    """Return a success with n URLs on the server."""
    entries = [{"url": url} for url in URLS[:n]]
    return ok(json.dumps({"created": 1, "data": entries}).encode())


@pytest.mark.parametrize("n", [1, 3])
def test_images_beyond_n_are_dropped(call: Caller, n: int) -> None:
    """A server that sends more images than it was asked for does not cost more."""
    assert len(call(answering(ok(success(10)))[0], {"n": n}, normalize=True).data) == n


def test_entries_beyond_n_are_not_even_checked(call: Caller) -> None:
    """An entry of a wrong type does no harm if it was not asked for."""
    body = json.dumps({"created": 1, "data": [{"b64_json": b64()}, 7, *[{}] * 50_000]}).encode()
    (image,) = call(answering(ok(body))[0]).data
    assert image.read() == PNG


def test_urls_beyond_n_are_not_fetched(call: Caller) -> None:
    """The client downloads at most n images, however many URLs the answer has."""
    handler, requests = answering(url_answer(120), httpx.Response(200, content=PNG))
    assert len(call(handler, {"n": 2}).data) == 2
    assert [str(request.url) for request in requests[1:]] == URLS[:2]


def test_gpt_image_drops_images_beyond_n() -> None:
    """The engine `gpt-image` keeps at most as many images from each call as it asked for."""
    handler, requests = answering(ok(success(10)))
    with httpx.Client(transport=httpx.MockTransport(handler)) as http_client:
        engine = GptImageEngine(
            base_url=BASE_URL, api_key="k", n_per_call=2, http_client=http_client
        )
        request = CreateImageVariationRequest(image=SquarePNG(PNG), size="256x256", n=3)
        assert len(engine.create_variation(request).data) == 3
    assert len(requests) == 2


def test_downloads_share_the_bytes_of_a_call(call: Caller) -> None:
    """Downloads are limited in total. A failed one does not count, because it keeps no bytes."""
    long_image = httpx.Response(200, content=PNG + bytes(200_000))
    missing = httpx.Response(404)
    handler, requests = answering(url_answer(6), long_image, missing, long_image)
    images = call(handler, {"n": 6}, max_answer_bytes=500_000).data
    assert len(images[0].read()) == len(images[2].read()) == len(PNG) + 200_000
    with pytest.raises(DownloadError, match="404"):
        images[1].read()
    for image in images[3:]:
        with pytest.raises(DownloadError, match=r"the limit of .* bytes"):
            image.read()
    assert len(requests) == 7


def test_no_bytes_are_left_after_a_full_answer(call: Caller) -> None:
    """If the answer and its first images use all bytes, nothing more is requested."""
    answer = url_answer(2)
    handler, requests = answering(answer, httpx.Response(200, content=PNG))
    limit = len(answer.content) + len(PNG)
    first, second = call(handler, {"n": 2}, max_answer_bytes=limit).data
    assert first.read() == PNG
    with pytest.raises(DownloadError, match=f"{limit:,} bytes per call; raise max_answer_bytes"):
        second.read()
    assert len(requests) == 2


@pytest.mark.parametrize("length", [{}, {"content-length": "1001"}])
def test_max_answer_bytes_limits_an_answer(call: Caller, length: dict[str, str]) -> None:
    """An answer that is longer than the setting is refused, whether or not it says its length."""
    body = success().ljust(1001)
    assert call(answering(ok(body))[0], max_answer_bytes=1001).data[0].read() == PNG
    with pytest.raises(EngineResponseError, match=r"limit of 1,000 bytes.*max_answer_bytes"):
        call(answering(ok(body, **length))[0], max_answer_bytes=1000)


def test_max_answer_bytes_is_copied() -> None:
    """A copy of a client keeps the setting or changes it."""
    with ImageVariationClient(base_url=BASE_URL, max_answer_bytes=7) as client:
        limits = [
            each._flow.endpoint.max_answer_bytes
            for each in (client.copy(), client.copy(max_answer_bytes=8))
        ]
    assert limits == [7, 8]


@pytest.mark.parametrize("size", [(9000, 10_000), (13_000, 13_000), (60_000, 60_000)])
def test_a_result_with_too_many_pixels_is_refused(call: Caller, size: tuple[int, int]) -> None:
    """A result may have as many pixels as a source. One with more is not decoded."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0))
    large = SIGNATURE + header + PNG[PNG.index(b"IDAT") - 4 :]
    body = json.dumps({"data": [{"b64_json": b64(large)}, {"b64_json": b64()}]}).encode()
    first, second = call(answering(ok(body))[0], {"n": 2}, normalize=True).data
    with pytest.raises(OutputError, match=r"limit (of|is) 89,478,485"):
        first.read()
    assert SquarePNG(second.read()).side == 256


def test_nothing_is_converted_after_the_deadline() -> None:
    """An image that is not converted in time raises when it is read, and the call ends."""
    answer = ImagesResponse.from_pngs([PNG, PNG], response_format="b64_json")
    earlier_failure = DownloadError("an earlier failure")
    answer.data[1].set_failure(earlier_failure)
    Driver(None).run(normalize_images(answer, 256, Budget(time.monotonic(), MAX_ANSWER_BYTES)))
    with pytest.raises(OutputError, match="not converted before the deadline; raise deadline"):
        answer.data[0].read()
    assert answer.data[1].failure is earlier_failure


def test_a_cancelled_call_ends_between_images() -> None:
    """A cancelled call converts no image after the current one."""
    answer = ImagesResponse.from_pngs([PNG] * 3, response_format="b64_json")
    budget = Budget(time.monotonic() + 600, MAX_ANSWER_BYTES)
    cancel_event = threading.Event()

    def cancel_after_one(flow: Flow[None]) -> Flow[None]:
        yield next(flow)
        cancel_event.set()
        yield from flow

    with cancel_after(cancel_event), pytest.raises(EngineError, match="cancelled"):
        Driver(None).run(cancel_after_one(normalize_images(answer, 256, budget)))
    assert [SquarePNG(image.read()).side for image in answer.data] == [256, 8, 8]


def test_nothing_is_downloaded_after_the_deadline() -> None:
    """An image that is not downloaded in time raises when it is read, and no request is sent."""
    from langchain_image_variation.hosted.download import download

    image = Image(url=URLS[0])
    with ImageVariationClient(base_url=BASE_URL) as client:
        flow = download(
            image,
            client._flow.endpoint,
            policy=client._flow.result_urls,
            build_request=client._session.build_request,
            budget=Budget(time.monotonic(), MAX_ANSWER_BYTES),
        )
        assert list(flow) == []
    with pytest.raises(DownloadError, match="deadline passed before the image was downloaded"):
        image.read()


class Busy(httpx.SyncByteStream, httpx.AsyncByteStream):
    """An endless body. The next byte is always there, so reading it never waits."""

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield b" "

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece


# On trio, httpx leaves generators to the garbage collector when their user stops early.
@pytest.mark.filterwarnings("ignore:.*was garbage collected before it had been exhausted")
def test_a_body_that_never_waits_is_cut_off(call: Caller) -> None:
    """The deadline ends the reading of a body even if no step waits."""
    with pytest.raises(EngineTimeoutError):
        call(lambda request: httpx.Response(200, stream=Busy()), deadline=0.03, max_retries=0)


def test_few_cookies_are_kept() -> None:
    """A server cannot make each request longer than the one before."""
    headers = "".join(f"set-cookie: c{index}=v\r\n" for index in range(2 * MAX_COOKIES))
    headers += f"set-cookie: long={'v' * MAX_COOKIE_LENGTH}\r\n"
    answer = response(200, success()).replace(b"\r\n\r\n", f"\r\n{headers}\r\n".encode(), 1)
    request = CreateImageVariationRequest(image=SquarePNG(PNG))
    with raw_server(answer) as server, ImageVariationClient(base_url=server.base_url) as client:
        for _ in range(2):
            client.create_variation(request)
    (line,) = (line for line in server.requests[1].split(b"\r\n") if line.startswith(b"Cookie:"))
    assert len(line.split(b";")) == MAX_COOKIES
    assert b"long" not in line
