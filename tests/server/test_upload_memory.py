import asyncio
import re
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.exceptions import InvalidRequestError, RateLimitError
from langchain_image_variation.server import create_app
from langchain_image_variation.server.form import MAX_BODY_BYTES
from langchain_image_variation.server.turns import Turns
from langchain_image_variation.server.upload_memory import UploadMemory
from pytest_image_variation.samples import square_png
from tests.server.test_turns import settle

PATH = "/v1/images/variations"
FORM_START = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'


class Sender:
    """An upload that keeps its memory until the test ends it."""

    def __init__(self, memory: UploadMemory, client: str, length: int, timeout: float = 60) -> None:
        self.gate = asyncio.Event()
        self.is_receiving = False
        self.task = asyncio.create_task(self._send(memory, client, length, timeout))

    async def _send(self, memory: UploadMemory, client: str, length: int, timeout: float) -> None:
        async with memory.reserve(client, length, timeout=timeout):
            self.is_receiving = True
            await self.gate.wait()

    async def end(self) -> None:
        """End the upload."""
        self.gate.set()
        await asyncio.wait_for(self.task, 5)
        await settle()


def new_memory(total_bytes: int, queue: int = 100) -> UploadMemory:
    """Return memory for uploads, without any upload."""
    return UploadMemory(total_bytes, Turns(workers=1, queue=queue, total_pixels=1).queue_place)


async def test_uploads_wait_for_memory() -> None:
    """An upload that does not fit waits until another one ends."""
    memory = new_memory(20)
    first, second, third = (Sender(memory, client, 10) for client in "abc")
    await settle()
    assert (first.is_receiving, second.is_receiving, third.is_receiving) == (True, True, False)
    await second.end()
    assert third.is_receiving
    await first.end()
    await third.end()
    assert memory.held_bytes == 0


async def test_one_client_gets_half_of_the_memory() -> None:
    """The uploads of one client leave half of the memory for others."""
    memory = new_memory(20)
    first, second = Sender(memory, "a", 6), Sender(memory, "a", 6)
    other = Sender(memory, "b", 10)
    await settle()
    assert (first.is_receiving, second.is_receiving, other.is_receiving) == (True, False, True)
    await first.end()
    assert second.is_receiving
    await second.end()
    await other.end()


async def test_a_long_upload_is_not_overtaken_forever() -> None:
    """Short uploads that would fit wait behind a long one that does not."""
    memory = new_memory(20)
    first, second = Sender(memory, "a", 6), Sender(memory, "b", 6)
    long, short = Sender(memory, "c", 10), Sender(memory, "d", 2)
    await settle()
    assert (long.is_receiving, short.is_receiving) == (False, False)
    await first.end()
    assert (long.is_receiving, short.is_receiving) == (True, True)
    for sender in (second, long, short):
        await sender.end()


async def test_memory_that_is_not_needed_is_given_back() -> None:
    """Once the size of an upload is known, the rest of its memory goes to others."""
    memory = new_memory(20)
    async with memory.reserve("a", 10, timeout=60) as reservation:
        other = Sender(memory, "a", 8)
        await settle()
        assert not other.is_receiving
        memory.shrink(reservation, 2)
        await settle()
        assert (other.is_receiving, memory.held_bytes) == (True, 10)
    await other.end()
    assert memory.held_bytes == 0


async def test_waiting_for_memory_ends_with_a_429() -> None:
    """An upload that waits too long or finds the queue full is refused. A client may leave."""
    memory = new_memory(20, queue=1)
    first, leaving = Sender(memory, "a", 10), Sender(memory, "a", 10)
    await settle()
    with pytest.raises(RateLimitError, match="The queue is full"):
        await asyncio.wait_for(Sender(memory, "a", 10).task, 5)
    leaving.task.cancel()
    await settle()
    with pytest.raises(RateLimitError, match="cannot hold more uploads") as caught:
        await asyncio.wait_for(Sender(memory, "a", 10, timeout=0.01).task, 5)
    assert caught.value.retry_after == 5
    await first.end()
    assert memory.held_bytes == 0


async def test_an_image_with_too_many_pixels_is_refused(tmp_path: Path) -> None:
    """An image with more pixels than the server accepts gets a 400 that names the limit."""
    app = create_app("instant", max_pixels=10_000, store_dir=tmp_path)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://localhost"
    ) as client:
        statuses = []
        for side in (100, 101):
            answer = await client.post(PATH, files={"image": ("a.png", square_png(side))})
            statuses.append(answer.status_code)
    assert statuses == [200, 400]
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == ("image", "invalid_image_format")
    assert error["message"] == (
        "image is 101x101 pixels; this server accepts up to 10,000 pixels (100x100). Scale it "
        "down first."
    )


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"max_pixels": 0}, "max_pixels"),
        ({"max_pixels": 100, "total_pixels": 99}, "total_pixels"),
        ({"total_upload_bytes": 2 * MAX_BODY_BYTES - 1}, "total_upload_bytes"),
    ],
)
def test_limits_are_checked(tmp_path: Path, settings: dict[str, int], param: str) -> None:
    """A limit that no request could satisfy is refused, and the error names it."""
    with pytest.raises(InvalidRequestError) as caught:
        create_app("instant", store_dir=tmp_path, **settings)  # type: ignore[arg-type]  # numbers
    assert caught.value.param == param


@pytest.mark.parametrize("framing", [{}, {"transfer-encoding": "chunked", "content-length": "5"}])
async def test_an_upload_holds_memory_until_its_answer(
    tmp_path: Path, framing: dict[str, str]
) -> None:
    """Memory is reserved for the whole body, then for the image, and free after the answer."""
    started, finish = threading.Event(), threading.Event()

    class Waiting(InstantEngine):
        def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
            """Wait until the test has looked at the metrics."""
            started.set()
            assert finish.wait(60)
            return super().create_variation(request)

    image, reserved_bytes = square_png(64), []
    app = create_app(Waiting(), store_dir=tmp_path)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url="http://localhost",
        headers={"content-type": "multipart/form-data; boundary=x"},
    ) as client:

        async def note_reserved_bytes() -> None:
            text = (await client.get("/metrics")).text
            (line,) = re.findall(r"^image_variation_upload_bytes (.*)$", text, re.MULTILINE)
            reserved_bytes.append(float(line))

        async def body() -> AsyncIterator[bytes]:
            await note_reserved_bytes()
            yield FORM_START + image + b"\r\n--x--\r\n"

        answer = asyncio.create_task(client.post(PATH, content=body(), headers=framing))
        assert await asyncio.to_thread(started.wait, 60)
        await note_reserved_bytes()
        finish.set()
        assert (await answer).status_code == 200
        await note_reserved_bytes()
    assert reserved_bytes == [MAX_BODY_BYTES, len(image), 0]
