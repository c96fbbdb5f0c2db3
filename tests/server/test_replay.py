import asyncio
from collections.abc import Awaitable, Callable

import pytest

from langchain_image_variation.contract import CreateImageVariationRequest
from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.exceptions import RateLimitError
from langchain_image_variation.images.png import SquarePNG
from langchain_image_variation.server.queue import EngineQueue
from langchain_image_variation.server.replay import DAY, Replay
from pytest_image_variation.samples import square_png

REQUEST = CreateImageVariationRequest(image=SquarePNG(square_png(8)))


class Made:
    """Makes answers, each another one, when it may."""

    def __init__(self) -> None:
        self.count = 0
        self.may = asyncio.Event()
        self.may.set()

    async def __call__(self) -> bytes:
        """Wait, count, answer."""
        self.count += 1
        count = self.count
        await self.may.wait()
        return b"answer %d" % count


async def test_an_answer_is_remembered_for_its_time_and_no_longer() -> None:
    """A day, or as long as was said: an address that has expired is no answer."""
    now = [0.0]
    replay, make = Replay(1000, clock=lambda: now[0]), Made()
    assert await replay.answer("a", REQUEST, make) == b"answer 1"
    assert await replay.answer("b", REQUEST, make, seconds=60) == b"answer 2"
    now[0] = 59.0
    assert await replay.answer("b", REQUEST, make, seconds=60) == b"answer 2"
    now[0] = 61.0
    assert await replay.answer("b", REQUEST, make, seconds=60) == b"answer 3"
    now[0] = DAY - 1
    assert await replay.answer("a", REQUEST, make) == b"answer 1"
    now[0] = DAY + 1
    assert await replay.answer("a", REQUEST, make) == b"answer 4"


async def test_the_oldest_are_forgotten_when_they_take_too_much() -> None:
    """The newest are still there."""
    replay, make = Replay(20), Made()
    for key in "abcde":
        await replay.answer(key, REQUEST, make)
    assert await replay.answer("e", REQUEST, make) == b"answer 5"
    assert await replay.answer("a", REQUEST, make) == b"answer 6"


async def test_an_empty_key_is_none() -> None:
    """Nobody shares it."""
    replay, make = Replay(1000), Made()
    assert await replay.answer("", REQUEST, make) == b"answer 1"
    assert await replay.answer("", REQUEST, make) == b"answer 2"


async def waiting(
    replay: Replay, make: Callable[[], Awaitable[bytes]], count: int
) -> list["asyncio.Task[bytes]"]:
    """Return so many requests with one key that have begun to wait."""
    tasks = [asyncio.create_task(replay.answer("a", REQUEST, make)) for _ in range(count)]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


async def test_when_the_first_goes_away_the_next_makes_the_answer() -> None:
    """And the others wait for that one."""
    replay, make = Replay(1000), Made()
    make.may.clear()
    first, *others = await waiting(replay, make, 3)
    first.cancel()
    make.may.set()
    assert [await task for task in others] == [b"answer 2", b"answer 2"]
    assert make.count == 2


async def test_one_that_waits_and_goes_away_is_gone() -> None:
    """It ends at once, and neither the first nor another that waits notices."""
    replay, make = Replay(1000), Made()
    make.may.clear()
    first, leaving, staying = await waiting(replay, make, 3)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(leaving, 5)
    make.may.set()
    assert [await first, await staying] == [b"answer 1", b"answer 1"]
    assert make.count == 1


async def test_those_that_wait_for_another_have_the_queues_limit() -> None:
    """They keep their pictures meanwhile; what is there already is answered all the same."""
    turns = EngineQueue(InstantEngine(), workers=1, limit=2)
    replay, make = Replay(1000, wait=turns.seat), Made()
    make.may.clear()
    tasks = await waiting(replay, make, 4)
    with pytest.raises(RateLimitError):
        await asyncio.wait_for(tasks[3], 5)
    make.may.set()
    assert await asyncio.gather(*tasks[:3]) == [b"answer 1"] * 3
