"""What is paid for is kept, and nothing is paid for twice."""

import asyncio
import base64
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.call import call_engine, call_engine_async
from langchain_image_variation.engines.call_interrupt import CallInterrupt
from langchain_image_variation.engines.context import Progress
from langchain_image_variation.engines.loading import load_engine
from langchain_image_variation.exceptions import (
    DownloadError,
    EngineConnectionError,
    EngineError,
    EngineResponseError,
    EngineTimeoutError,
    InvalidRequestError,
    ServiceUnavailableError,
)
from langchain_image_variation.images.png import SquarePNG
from tests.hosted.services.fakes import (
    KEY,
    FakeRecraft,
    FakeReplicate,
    FakeService,
    Received,
    Reply,
    drawn_image,
)
from tests.hosted.services.requesting import make_request

MakeEngine = Callable[..., Any]
OpenEngine = Callable[..., Any]

Call = Callable[..., ImagesResponse]


def call_async(engine: Any, request: CreateImageVariationRequest) -> ImagesResponse:
    """Call an engine from a coroutine."""
    return asyncio.run(call_engine_async(engine, request))


ASYNC_TOO = pytest.mark.parametrize("call", [call_engine, call_async], ids=["sync", "async"])
JOBS = pytest.mark.parametrize("name", ["fal", "replicate"])


def test_images_that_succeed_are_kept(service: FakeService, make_engine: MakeEngine) -> None:
    """If one of several calls fails, only its image raises the error."""
    service.faults.append(Reply(400, {"detail": "Wrong parameter."}))
    response = call_engine(make_engine(seed=1), make_request(3))
    failures = [image.failure for image in response.data]
    assert [failure is None for failure in failures].count(True) == 2
    [failed] = [image for image in response.data if image.failure is not None]
    with pytest.raises(InvalidRequestError, match="Wrong parameter"):
        failed.read()


def test_a_foreign_error_costs_one_image(service: FakeService, make_engine: MakeEngine) -> None:
    """If a hook of http_client fails in one call, the images of the other calls are kept."""
    faults = iter([KeyError("hook")])

    def fail_once(request: httpx.Request) -> None:
        for fault in faults:
            raise fault

    with httpx.Client(event_hooks={"request": [fail_once]}) as client:
        engine = make_engine(seed=1, http_client=client)
        response = call_engine(engine, make_request(3))
    [failure] = [image.failure for image in response.data if image.failure is not None]
    assert type(failure) is EngineError
    assert "failed with KeyError" in failure.message


def test_too_few_images_are_kept(recraft: FakeRecraft, open_engine: OpenEngine) -> None:
    """If Recraft makes one of three images, it is kept, and reading the others is an error."""
    recraft.faults.append(recraft_answer())
    first, *others = call_engine(open_engine("recraft", recraft), make_request(3)).data
    assert SquarePNG(first.read()).side == 256
    for other in others:
        with pytest.raises(EngineResponseError, match="only 1 of 3 images"):
            other.read()


def test_a_lost_answer_is_not_paid_twice(service: FakeService, make_engine: MakeEngine) -> None:
    """After a job whose answer was lost, no second one is paid for unless `resend_lost` is set."""
    service.lost_answers = 1
    with pytest.raises(EngineConnectionError, match="may have been billed"):
        call_engine(make_engine(), make_request())
    assert len(service.paths("POST")) == 1
    service.lost_answers = 1
    call_engine(make_engine(resend_lost=True), make_request())
    assert len(service.paths("POST")) == 3


@pytest.mark.parametrize(
    ("status", "error_class"),
    [(502, EngineConnectionError), (504, EngineTimeoutError), (524, EngineError)],
)
def test_a_gateway_error_is_not_paid_twice(
    service: FakeService, make_engine: MakeEngine, status: int, error_class: type[EngineError]
) -> None:
    """If a gateway has no answer, the service may be drawing, so the job is not sent again."""
    service.faults.append(Reply(status, {"detail": "Gateway error."}, {"retry-after": "0.01"}))
    with pytest.raises(error_class):
        call_engine(make_engine(max_billed_calls=1), make_request())
    assert len(service.received) == 1


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_refused_calls_count_once(
    service: FakeService, make_engine: MakeEngine, status: int
) -> None:
    """A call that the service itself refuses is sent again, and counted once."""
    service.faults.append(Reply(status, {"detail": "Not now."}, {"retry-after": "0.01"}))
    response = call_engine(make_engine(max_billed_calls=1), make_request())
    assert SquarePNG(response.data[0].read()).side == 256
    assert len(service.paths("POST")) == 2


@JOBS
def test_lost_polls_are_repeated(service: FakeService, make_engine: MakeEngine) -> None:
    """Asking again how far a job is costs nothing, so a gateway that gives up does no harm."""
    service.polls_until_done = 1
    service.faults_after_post = [
        Reply(504, {"detail": "Gateway timeout."}, {"retry-after": "0.01"})
    ]
    response = call_engine(make_engine(), make_request())
    assert SquarePNG(response.data[0].read()).side == 256
    assert len(service.paths("POST")) == 1


OUTAGE = [
    Reply(0),
    *[
        Reply(status, {"detail": "Try again."}, {"retry-after": "0.01"})
        for status in (429, 500, 502, 503, 504)
    ],
]
"""How a service answers for a while. There are more answers than `max_retries` allows."""


@JOBS
@pytest.mark.parametrize("part", ["status", "result"])
def test_an_outage_does_not_cost_a_job(
    name: str, service: FakeService, make_engine: MakeEngine, part: str
) -> None:
    """A job that was accepted is asked for until the service answers again, and not cancelled."""
    outage = iter(OUTAGE)
    answer = service.answer
    service.polls_until_done = 1

    def answer_after_outage(request: Received) -> Reply:
        # Replicate answers both requests at the same path.
        if request.method == "GET" and (part == "status" or "/status" not in request.path):
            return next(outage, None) or answer(request)
        return answer(request)

    service.answer = answer_after_outage  # type: ignore[method-assign]  # The fake is the test's own.
    response = call_engine(make_engine(), make_request())
    assert SquarePNG(response.data[0].read()).side == 256
    assert next(outage, None) is None
    assert (len(service.paths("POST")), service.cancelled) == (1, [])


@JOBS
def test_an_outage_is_raised_at_the_deadline(service: FakeService, make_engine: MakeEngine) -> None:
    """If an outage lasts beyond the deadline, its error is raised in time to cancel the job."""
    answer = service.answer
    delays = iter(["0.01"] * 4)

    def refuse_polls(request: Received) -> Reply:
        if request.method == "GET":
            return Reply(503, b"busy", {"retry-after": next(delays, "60")})
        return answer(request)

    service.polls_until_done = 1
    service.answer = refuse_polls  # type: ignore[method-assign]  # As above.
    with pytest.raises(ServiceUnavailableError):
        call_engine(make_engine(deadline=30), make_request())
    assert len(service.paths("GET")) == 5
    assert len(service.cancelled) == 1


def refuse_files(replicate: FakeReplicate, replies: Iterator[Reply]) -> None:
    """Let a service answer requests for files with these replies, as long as there are any."""
    answer = replicate.answer

    def answer_after_outage(request: Received) -> Reply:
        return (request.parts[0] == "files" and next(replies, None)) or answer(request)

    replicate.answer = answer_after_outage  # type: ignore[method-assign]  # As above.


@ASYNC_TOO
def test_an_outage_does_not_cost_a_result(
    replicate: FakeReplicate, open_engine: OpenEngine, call: Call
) -> None:
    """A result is downloaded again until its host answers, more often than calls are repeated."""
    refuse_files(replicate, iter(OUTAGE))
    response = call(open_engine("replicate", replicate), make_request())
    assert SquarePNG(response.data[0].read()).side == 256
    assert len([path for path in replicate.paths("GET") if path.startswith("/files/")]) == 7
    assert len(replicate.paths("POST")) == 1


def test_a_download_is_repeated_until_the_deadline(
    replicate: FakeReplicate, open_engine: OpenEngine
) -> None:
    """If the outage lasts, the error is the usual one, and the other results are kept."""
    refuse_files(replicate, iter([Reply(503, b"busy", {"retry-after": "60"})]))
    response = call_engine(open_engine("replicate", replicate, deadline=30), make_request(2))
    [failure] = [image.failure for image in response.data if image.failure is not None]
    assert type(failure) is DownloadError
    assert failure.message == "127.0.0.1 answered with status 503."
    assert failure.retry_after == 60


@pytest.mark.parametrize("status", [401, 404, 410, 501])
def test_a_lasting_refusal_is_not_repeated(
    replicate: FakeReplicate, open_engine: OpenEngine, status: int
) -> None:
    """A result that its host refuses is not asked for again."""
    refuse_files(replicate, iter([Reply(status, b"no")]))
    [image] = call_engine(open_engine("replicate", replicate), make_request()).data
    assert type(image.failure) is DownloadError


def test_an_interrupt_stops_all_calls(
    name: str, service: FakeService, make_engine: MakeEngine
) -> None:
    """After an interrupt, no call and no job continues, and the finished images are kept."""
    service.endless_seeds = set(range(2, 11))

    def interrupt(progress: Progress) -> None:
        if progress.finished == 1:
            # Recraft cannot cancel, and answers in the end.
            service.is_stopping.set()
            raise KeyboardInterrupt

    engine = make_engine(seed=1, max_billed_calls=10)
    with pytest.raises(CallInterrupt) as caught:
        call_engine(engine, make_request(10), progress=interrupt)
    assert not [one for one in threading.enumerate() if one.name == "image-variation-call"]
    sent = len(service.paths("POST")) - len(service.cancelled) * (name == "replicate")
    assert sent <= 5
    response = caught.value.response
    finished = [image for image in response.data if image.failure is None]
    assert response.data[0] is finished[0]
    assert len(finished) == sent - len(service.cancelled)
    assert len(response.data) == 10
    assert {SquarePNG(image.read()).side for image in finished} == {256}
    assert (name == "recraft") == (not service.cancelled)
    assert f"Took {sent} billed calls to " in (response.note or "")
    # Calls that were not sent are not counted.
    call_engine(engine.with_options(seed=1), make_request(1))


@JOBS
def test_an_interrupt_without_images_is_a_plain_one(
    name: str, service: FakeService, make_engine: MakeEngine
) -> None:
    """If nothing is finished, `KeyboardInterrupt` is raised as usual, and the job is cancelled."""
    service.endless_seeds = {1}
    answer = service.answer

    def interrupt(request: Received) -> Reply:
        if request.method == "GET" and not service.is_stopping.is_set():
            service.is_stopping.set()
            os.kill(os.getpid(), signal.SIGINT)
        return answer(request)

    service.answer = interrupt  # type: ignore[method-assign]  # As above.
    with pytest.raises(KeyboardInterrupt) as caught:
        call_engine(make_engine(seed=1), make_request())
    assert type(caught.value) is KeyboardInterrupt
    assert len(service.cancelled) == 1


def test_a_cancelled_call_hangs_up(recraft: FakeRecraft, open_engine: OpenEngine) -> None:
    """A cancelled call does not wait until Recraft answers."""
    recraft.endless_seeds = {1}
    engine = open_engine("recraft", recraft, seed=1)

    async def main() -> None:
        task = asyncio.create_task(
            call_engine_async(engine, make_request(), wait_when_cancelled=True)
        )
        while not recraft.received:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert recraft.most_at_once == 1
    assert not recraft.is_stopping.is_set()


def test_calls_share_the_byte_limit(service: FakeService, make_engine: MakeEngine) -> None:
    """Each of two calls may receive half of `max_answer_bytes`."""
    service.faults.extend([Reply(200, {"data": "x" * 60_000})] * 2)
    with pytest.raises(EngineResponseError, match="limit of 50,000 bytes"):
        call_engine(make_engine(seed=1, max_answer_bytes=100_000), make_request(2))


@JOBS
def test_values_beyond_json_are_refused(name: str) -> None:
    """A parameter that cannot be sent is refused before anything is paid for."""
    for value in (float("nan"), [float("inf")], {"a": 10**5000}):
        with pytest.raises(InvalidRequestError, match="JSON") as caught:
            load_engine(name, api_key=KEY, extra_input={"guidance": value})
        assert caught.value.param == "extra_input"


@JOBS
def test_later_changes_of_input_do_nothing(service: FakeService, make_engine: MakeEngine) -> None:
    """A list in `extra_input` that the caller changes later is sent as it was."""
    values = [1]
    engine = make_engine(extra_input={"loras": values})
    values.append(2)
    call_engine(engine, make_request())
    body = service.received[0].json
    assert body.get("input", body)["loras"] == [1]


def test_results_count_the_billed_calls(
    name: str, service: FakeService, make_engine: MakeEngine
) -> None:
    """The response counts the billed calls and what they cost, and says so in words."""
    response = call_engine(make_engine(seed=1), make_request(3))
    assert response.model is not None
    title = {"fal": "fal.ai", "recraft": "Recraft", "replicate": "Replicate"}[name]
    credits = {"recraft": 120}.get(name)
    charge = "" if credits is None else " Recraft charged 120 credits."
    assert response.note == f"Took 3 billed calls to {title}.{charge}"
    assert response.model_extra is not None
    assert response.model_extra["billed_calls"] == 3
    assert response.model_extra.get("credits") == credits
    assert "billed_calls" not in response.to_json()


def test_failed_calls_are_counted(service: FakeService, make_engine: MakeEngine) -> None:
    """The note says how many of the calls failed."""
    service.faults.append(Reply(400, {"detail": "Wrong parameter."}))
    response = call_engine(make_engine(seed=1), make_request(2))
    assert response.note is not None
    assert "Took 2 billed calls to " in response.note
    assert "One of them failed, so it may not be billed." in response.note


@pytest.mark.parametrize("credits", [None, "40", True, -1, float("inf"), 10_000_000, [40]])
def test_odd_credits_are_ignored(
    recraft: FakeRecraft, open_engine: OpenEngine, credits: object
) -> None:
    """A charge that is not a plausible number is not shown, and costs no image."""
    recraft.faults.append(recraft_answer(credits=credits))
    response = call_engine(open_engine("recraft", recraft), make_request())
    assert response.note == "Took 1 billed call to Recraft."
    assert SquarePNG(response.data[0].read()).side == 256


def test_errors_name_the_address_of_the_service(
    name: str, service: FakeService, make_engine: MakeEngine
) -> None:
    """An answer of another kind of server raises doubts about base_url, and names the real one."""
    service.faults.append(Reply(200, b"<html>hello</html>"))
    with pytest.raises(EngineResponseError) as caught:
        call_engine(make_engine(), make_request())
    address = {
        "fal": "https://queue.fal.run.",
        "recraft": "https://external.api.recraft.ai/v1.",
        "replicate": "https://api.replicate.com/v1.",
    }[name]
    assert caught.value.message.endswith(f"Is base_url right? The service is at {address}")


FORK = """
import os, sys
from langchain_image_variation import load_engine
from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.call import call_engine
from tests.hosted.services.requesting import make_request

engine = load_engine("replicate", base_url=sys.argv[1], api_key=sys.argv[2], seed=1)
call_engine(engine, make_request())
child = os.fork()
seed = 200 if child else 100
for number in range(5):
    call_engine(engine.with_options(seed=seed + number), make_request())
if child:
    _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_a_fork_has_its_own_connections(replicate: FakeReplicate) -> None:
    """A forked process sends nothing on the connections of its parent."""
    subprocess.run([sys.executable, "-c", FORK, replicate.url, KEY], check=True)
    ports: dict[bool, set[int]] = {False: set(), True: set()}
    for request in replicate.received:
        if request.method == "POST":
            ports[100 <= request.json["input"]["seed"] < 200].add(request.port)
    assert ports[False].isdisjoint(ports[True])


FORK_AND_COUNT = """
import os, sys, time
import httpx
from langchain_image_variation import load_engine
from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.call import call_engine
from tests.hosted.services.requesting import make_request

opened = []

class CountedClient(httpx.Client):
    def __init__(self, **options):
        opened.append(os.getpid())
        time.sleep(0.2)  # So that all threads of a request are here at the same time.
        super().__init__(**options)

httpx.Client = CountedClient
engine = load_engine("replicate", base_url=sys.argv[1], api_key=sys.argv[2], seed=1)
child = os.fork()
if not child:
    if sys.argv[3] == "close":
        engine.close()
    else:
        call_engine(engine, make_request(4))
        engine.close()
    print(opened.count(os.getpid()), flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
@pytest.mark.parametrize(("action", "opened"), [("call", 1), ("close", 0)])
def test_a_fork_opens_one_client_if_any(replicate: FakeReplicate, action: str, opened: int) -> None:
    """The threads of a forked process share one new client, and closing the engine opens none."""
    command = [sys.executable, "-c", FORK_AND_COUNT, replicate.url, KEY, action]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert output.split() == [str(opened)]


def recraft_answer(**extras: object) -> Reply:
    """Return an answer of Recraft with one image."""
    image = base64.b64encode(drawn_image(1, 1024)).decode()
    return Reply(200, {"created": 1, "data": [{"b64_json": image}], **extras})
