import asyncio
import threading
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.engines.processors import processor_count
from langchain_image_variation.exceptions import RateLimitError
from langchain_image_variation.server import create_app
from langchain_image_variation.server.clients import client_of
from langchain_image_variation.server.turns import Turns
from pytest_image_variation.samples import square_png

HUGE = 10**9
STEPS = st.sampled_from(["join", "end", "cancel"])


class Line:
    """Requests that wait for turns and keep them until the test ends them.

    Args:
        turns: Where they wait.
    """

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.served: list[str] = []
        """The names of the requests that got a turn, in this order."""
        self.refused: list[str] = []
        """The names of the requests that were refused, in this order."""
        self._gates: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def join(self, *names: str, pixels: int = 1) -> None:
        """Let requests arrive. The first letter of a name is the client's."""
        for name in names:
            self._gates[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._request(name, pixels))
            await settle()

    async def end(self, *names: str) -> None:
        """End the turns of requests."""
        for name in names:
            self._gates[name].set()
            await settle()

    async def cancel(self, name: str) -> None:
        """Let the client of a request leave."""
        self.tasks[name].cancel()
        await settle()

    async def _request(self, name: str, pixels: int) -> None:
        try:
            async with self.turns.turn(name[0], pixels):
                self.served.append(name)
                await self._gates[name].wait()
        except RateLimitError:
            self.refused.append(name)


async def settle() -> None:
    """Let all tasks run until they wait."""
    for _ in range(10):
        await asyncio.sleep(0)


def line(*, workers: int = 1, queue: int = 100, total_pixels: int = HUGE) -> Line:
    """Return a line without requests."""
    return Line(Turns(workers=workers, queue=queue, total_pixels=total_pixels))


async def test_a_client_does_not_wait_for_another_clients_queue() -> None:
    """If a client has sent twelve requests, another client waits for only one of them."""
    requests = line()
    await requests.join(*(f"a{i}" for i in range(12)))
    await requests.join("b0")
    assert requests.served == ["a0"]
    await requests.end("a0")
    assert requests.served == ["a0", "b0"]
    await requests.end("b0")
    assert requests.served == ["a0", "b0", "a1"]


async def test_clients_take_turns() -> None:
    """Waiting clients take turns, and requests of one client keep their order."""
    requests = line()
    await requests.join("a0", "a1", "a2", "a3", "b0", "b1", "c0")
    for _ in range(7):
        await requests.end(requests.served[-1])
    assert requests.served == ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]


async def test_the_client_with_the_fewest_turns_is_next() -> None:
    """With several workers, the next turn goes to the client with the fewest in progress."""
    requests = line(workers=3)
    await requests.join("a0", "a1", "b0", "a2", "b1", "c0")
    await requests.end("a0")
    assert requests.served[3:] == ["c0"]
    await requests.end("b0")
    assert requests.served[4:] == ["b1"]
    assert requests.turns.running_count == 3


async def test_images_in_progress_have_a_limit() -> None:
    """A request waits until its image fits, although a worker is free."""
    requests = line(workers=8, total_pixels=10)
    await requests.join("a0", pixels=6)
    await requests.join("b0", pixels=6)
    await requests.join("c0", pixels=4)
    assert requests.served == ["a0"]
    await requests.end("a0")
    assert requests.served == ["a0", "b0", "c0"]


async def test_a_small_image_does_not_wait_for_large_ones() -> None:
    """While a client's large images wait for each other, another client's small one is served."""
    requests = line(workers=2, total_pixels=10)
    await requests.join("a0", "a1", "a2", pixels=9)
    await requests.join("b0", pixels=1)
    assert requests.served == ["a0", "b0"]


async def test_an_image_above_the_limit_is_alone() -> None:
    """An image with more pixels than the limit gets its turn when no other is in progress."""
    requests = line(workers=2, total_pixels=10)
    await requests.join("a0")
    await requests.join("b0", pixels=11)
    assert requests.served == ["a0"]
    await requests.end("a0")
    await requests.join("c0")
    assert requests.served == ["a0", "b0"]
    await requests.end("b0")
    assert requests.served == ["a0", "b0", "c0"]


async def test_one_client_may_use_the_whole_queue() -> None:
    """A client may use all places while nobody else wants one. Any more requests are refused."""
    requests = line(queue=3)
    await requests.join("a0", "a1", "a2", "a3", "a4")
    assert requests.refused == ["a4"]
    assert requests.turns.waiting_count == 3


async def test_a_full_queue_has_room_for_other_clients() -> None:
    """In a full queue, others take the places of the latest requests of the largest client."""
    requests = line(queue=4)
    await requests.join("a0", "a1", "a2", "a3", "a4")
    await requests.join("b0", "b1", "b2")
    assert requests.refused == ["a4", "a3", "b2"]
    await requests.join("c0", "c1")
    assert requests.refused[3:] == ["a2", "c1"]
    assert requests.turns.waiting_count == 4
    requests.turns.check_queue("d")
    with pytest.raises(RateLimitError):
        requests.turns.check_queue("b")


async def test_a_refusal_names_the_time_to_wait() -> None:
    """A request that loses its place gets the same error as one that finds no place."""
    turns = Turns(workers=1, queue=2, total_pixels=1)
    async with turns.turn("a", 1):
        tasks = [asyncio.create_task(take_turn(turns, "a")) for _ in range(2)]
        await settle()
        newcomer = asyncio.create_task(take_turn(turns, "b"))
        with pytest.raises(RateLimitError, match=r"The queue is full: .* in [1-9]\d*s") as caught:
            await asyncio.wait_for(tasks[1], 5)
        assert caught.value.retry_after is not None
    await asyncio.wait_for(asyncio.gather(tasks[0], newcomer), 5)
    assert (turns.running_count, turns.waiting_count) == (0, 0)


@pytest.mark.parametrize(
    ("workers", "queue", "seconds"), [(1, 0, 1), (1, 1, 2), (1, 4, 5), (2, 4, 3)]
)
async def test_the_wait_grows_with_the_queue(workers: int, queue: int, seconds: int) -> None:
    """The estimated wait grows with the queue. Until a turn has ended, a turn counts one second."""
    turns = Turns(workers=workers, queue=queue, total_pixels=HUGE)
    requests = Line(turns)
    await requests.join(*(f"a{number}" for number in range(workers + queue)))
    with pytest.raises(RateLimitError, match=f"try again in {seconds}s") as caught:
        turns.check_queue("a")
    assert caught.value.retry_after == seconds
    await requests.end(*requests.tasks)


async def test_short_turns_make_the_wait_short() -> None:
    """After short turns, the estimated wait falls, down to one second."""
    turns = Turns(workers=1, queue=8, total_pixels=HUGE)
    for _ in range(20):
        await take_turn(turns, "a")
    requests = Line(turns)
    await requests.join(*(f"a{number}" for number in range(9)))
    with pytest.raises(RateLimitError) as caught:
        turns.check_queue("a")
    assert caught.value.retry_after == 1
    await requests.end(*requests.tasks)


async def test_the_queue_is_free_while_a_turn_is() -> None:
    """Without a queue, a request is refused only while all turns are taken."""
    turns = Turns(workers=2, queue=0, total_pixels=HUGE)
    requests = Line(turns)
    await requests.join("a1")
    turns.check_queue("a")
    await requests.join("a2")
    with pytest.raises(RateLimitError):
        turns.check_queue("a")
    await requests.end("a1")
    turns.check_queue("a")
    await requests.end("a2")


async def take_turn(turns: Turns, client: str) -> None:
    """Take a turn and end it."""
    async with turns.turn(client, 1):
        pass


async def test_a_request_that_leaves_makes_room() -> None:
    """When the next request leaves, those behind it that fit get their turns."""
    requests = line(workers=3, total_pixels=10)
    await requests.join("a0", pixels=9)
    await requests.join("b0", pixels=9)
    await requests.join("c0", pixels=1)
    await requests.join("c1", pixels=9)
    assert requests.served == ["a0"]
    await requests.cancel("b0")
    assert requests.served == ["a0", "c0"]
    assert requests.turns.waiting_count == 1


async def test_a_turn_is_not_lost_with_its_request() -> None:
    """A request that is cancelled at the moment when it gets its turn passes it on."""
    requests = line()
    await requests.join("a0", "b0", "c0")
    requests._gates["a0"].set()
    # The turn of a0 ends in the next iteration of the loop, and b0 continues in the one after.
    while requests.turns._clients["b"].waiters:
        await asyncio.sleep(0)
    requests.tasks["b0"].cancel()
    await settle()
    assert requests.served == ["a0", "c0"]
    await requests.end("c0")
    assert (requests.turns.running_count, requests.turns.waiting_count) == (0, 0)


@settings(max_examples=60, deadline=None)
@given(
    workers=st.integers(1, 3),
    queue=st.integers(0, 4),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["join", "end", "cancel"]), st.sampled_from("abc"), st.integers(1, 12)
        ),
        max_size=40,
    ),
)
def test_no_turn_is_ever_lost(workers: int, queue: int, steps: list[tuple[str, str, int]]) -> None:
    """Whatever arrives, ends and leaves, all limits hold, and nothing is taken at the end."""

    async def play() -> None:
        requests = line(workers=workers, queue=queue, total_pixels=10)
        turns = requests.turns
        for index, (step, client, number) in enumerate(steps):
            names = [name for name, task in requests.tasks.items() if not task.done()]
            if step == "join":
                await requests.join(f"{client}{index}", pixels=number)
            elif names and step == "end":
                await requests.end(names[number % len(names)])
            elif names:
                await requests.cancel(names[number % len(names)])
            assert turns.running_count <= workers
            assert turns.waiting_count <= queue
            assert turns.running_count or not turns.waiting_count
        for name in requests.tasks:
            await requests.end(name)
        for task in requests.tasks.values():
            with suppress(asyncio.CancelledError):
                await asyncio.wait_for(task, 5)
        assert (turns.running_count, turns.waiting_count) == (0, 0)
        assert not turns._clients and not turns._running_pixels

    asyncio.run(play())


@pytest.mark.parametrize(
    ("host", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "testclient"),
        (None, ""),
    ],
)
def test_clients_are_told_apart_by_address(host: str | None, client: str) -> None:
    """An IPv4 address is one client, and so is the IPv6 network of a site."""
    address = None if host is None else (host, 1)
    assert client_of(Request({"type": "http", "client": address, "headers": []})) == client


def test_a_device_computes_for_one_call_at_a_time(tmp_path: Path) -> None:
    """By default, an engine with devices gets one call at a time, and others one per processor."""

    class OnDevice(InstantEngine):
        @classmethod
        def devices(cls) -> list[str]:
            """Fail: a server does not need the list."""
            raise AssertionError

    def workers(engine: InstantEngine, workers: int | None = None) -> int:
        turns: Turns = create_app(engine, store_dir=tmp_path, workers=workers).state.turns
        return turns.workers

    assert workers(OnDevice()) == 1
    assert workers(OnDevice(), 3) == 3
    assert workers(InstantEngine()) == processor_count()


async def test_two_addresses_take_turns(tmp_path: Path) -> None:
    """The engine works for a second address before it is done with the requests of the first."""
    started, finish = threading.Semaphore(0), threading.Semaphore(0)
    users: list[str | None] = []

    class Waiting(InstantEngine):
        def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
            """Wait until the test lets it continue."""
            users.append(request.user)
            started.release()
            assert finish.acquire(timeout=60)
            return super().create_variation(request)

    app = create_app(Waiting(), workers=1, queue=4, store_dir=tmp_path)

    async def post(host: str, user: str) -> int:
        transport = httpx.ASGITransport(app, client=(host, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answer = await client.post(
                "/v1/images/variations",
                data={"user": user},
                files={"image": ("a.png", square_png(8))},
                # A header that anyone can send does not make another client.
                headers={"x-forwarded-for": f"192.0.2.{user[-1]}"},
            )
            return answer.status_code

    async def wait_for_waiting(count: int) -> None:
        for _ in range(1000):
            if app.state.turns.waiting_count == count:
                return
            await asyncio.sleep(0.01)
        pytest.fail(f"{app.state.turns.waiting_count} requests are waiting")

    answers = [asyncio.create_task(post("10.0.0.1", "a0"))]
    assert await asyncio.to_thread(started.acquire, timeout=60)
    for index in range(1, 5):
        answers.append(asyncio.create_task(post("10.0.0.1", f"a{index}")))
        await wait_for_waiting(index)
    answers.append(asyncio.create_task(post("10.0.0.2", "b0")))
    assert await asyncio.wait_for(answers[4], 60) == 429
    for _ in range(5):
        finish.release()
    assert await asyncio.gather(*answers) == [200, 200, 200, 200, 429, 200]
    assert users == ["a0", "b0", "a1", "a2", "a3"]
