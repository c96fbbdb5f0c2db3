import asyncio
from contextlib import nullcontext
from functools import partial

import pytest

from langchain_image_variation.contract import CreateImageVariationRequest
from langchain_image_variation.exceptions import RateLimitError
from langchain_image_variation.images.png import SquarePNG
from langchain_image_variation.server.form import VariationForm
from langchain_image_variation.server.idempotency import DAY, Idempotency, QueuePlace
from langchain_image_variation.server.turns import Turns
from pytest_image_variation.samples import square_png

FORM = VariationForm(CreateImageVariationRequest(image=SquarePNG(square_png(8))), {})


class Maker:
    """Makes numbered answers. Waits while `gate` is closed."""

    def __init__(self) -> None:
        self.count = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def make(self) -> bytes:
        """Count, wait and return the answer."""
        self.count += 1
        body = b"answer %d" % self.count
        await self.gate.wait()
        return body


async def answer(
    idempotency: Idempotency,
    key: str | None,
    maker: Maker,
    *,
    queue_place: QueuePlace = nullcontext,
    seconds: float = DAY,
) -> bytes:
    """Return the remembered answer, or a new one."""
    async with idempotency.answer(
        key, FORM, queue_place=queue_place, seconds=seconds
    ) as remembered_answer:
        if remembered_answer.body is None:
            remembered_answer.body = await maker.make()
    return remembered_answer.body


async def test_answers_are_remembered_until_they_expire() -> None:
    """Answers are remembered for a day, or for as long as their URLs work."""
    now = [0.0]
    idempotency, maker = Idempotency(1000, clock=lambda: now[0]), Maker()
    assert await answer(idempotency, "a", maker) == b"answer 1"
    assert await answer(idempotency, "b", maker, seconds=60) == b"answer 2"
    now[0] = 59.0
    assert await answer(idempotency, "b", maker, seconds=60) == b"answer 2"
    now[0] = 61.0
    assert await answer(idempotency, "b", maker, seconds=60) == b"answer 3"
    now[0] = DAY - 1
    assert await answer(idempotency, "a", maker) == b"answer 1"
    now[0] = DAY + 1
    assert await answer(idempotency, "a", maker) == b"answer 4"


async def test_the_oldest_answers_are_forgotten_first() -> None:
    """When answers take too much memory, the oldest ones are forgotten."""
    idempotency, maker = Idempotency(20), Maker()
    for key in "abcde":
        await answer(idempotency, key, maker)
    assert await answer(idempotency, "e", maker) == b"answer 5"
    assert await answer(idempotency, "a", maker) == b"answer 6"


@pytest.mark.parametrize("key", ["", None])
async def test_an_empty_key_is_not_shared(key: str | None) -> None:
    """An empty key counts as no key."""
    idempotency, maker = Idempotency(1000), Maker()
    assert await answer(idempotency, key, maker) == b"answer 1"
    assert await answer(idempotency, key, maker) == b"answer 2"


async def start(
    idempotency: Idempotency, maker: Maker, count: int, queue_place: QueuePlace = nullcontext
) -> list["asyncio.Task[bytes]"]:
    """Return requests with one key that have begun to wait."""
    tasks = [
        asyncio.create_task(answer(idempotency, "a", maker, queue_place=queue_place))
        for _ in range(count)
    ]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


async def test_the_next_request_takes_over() -> None:
    """If the first request's client disconnects, the next one makes the answer for the others."""
    idempotency, maker = Idempotency(1000), Maker()
    maker.gate.clear()
    first, *others = await start(idempotency, maker, 3)
    first.cancel()
    maker.gate.set()
    assert [await task for task in others] == [b"answer 2", b"answer 2"]
    assert maker.count == 2


async def test_a_waiting_request_can_leave() -> None:
    """A waiting request ends immediately if cancelled, without effect on the others."""
    idempotency, maker = Idempotency(1000), Maker()
    maker.gate.clear()
    first, leaving, staying = await start(idempotency, maker, 3)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(leaving, 5)
    maker.gate.set()
    assert [await first, await staying] == [b"answer 1", b"answer 1"]
    assert maker.count == 1


async def test_waiting_for_an_answer_takes_a_queue_place() -> None:
    """A request that waits for an answer takes a place, and a finished answer takes none."""
    turns = Turns(workers=1, queue=2, total_pixels=1)
    idempotency, maker = Idempotency(1000), Maker()
    maker.gate.clear()
    queue_place = partial(turns.queue_place, "a")
    tasks = await start(idempotency, maker, 4, queue_place)
    assert turns.waiting_count == 2
    with pytest.raises(RateLimitError):
        await asyncio.wait_for(tasks[3], 5)
    maker.gate.set()
    assert await asyncio.gather(*tasks[:3]) == [b"answer 1"] * 3
    with turns.queue_place("a"), turns.queue_place("b"):
        assert await answer(idempotency, "a", maker, queue_place=queue_place) == b"answer 1"
