"""What a request that is interrupted keeps, and what it says about the rest."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from types import NoneType
from typing import Any

import pytest

from langchain_image_variation.contract import ImagesResponse
from langchain_image_variation.engines.call import call_engine
from langchain_image_variation.engines.call_interrupt import CallInterrupt
from langchain_image_variation.engines.context import Progress
from langchain_image_variation.hosted.stop_errors import RunningCallError, UnsentCallError
from tests.hosted.services.fakes import FakeRecraft, FakeService, Received, Reply
from tests.hosted.services.requesting import make_request

MakeEngine = Callable[..., Any]
OpenEngine = Callable[..., Any]

JOBS = pytest.mark.parametrize("name", ["fal", "replicate"])
TITLES = {"fal": "fal.ai", "replicate": "Replicate"}


def interrupt_after_one(engine: Any, n: int) -> ImagesResponse:
    """Return what a request keeps that is interrupted once its first image is finished."""

    def interrupt(progress: Progress) -> None:
        if progress.finished == 1:
            raise KeyboardInterrupt

    with pytest.raises(CallInterrupt) as caught:
        call_engine(engine, make_request(n), progress=interrupt)
    return caught.value.response


@JOBS
def test_a_job_that_ends_before_it_is_cancelled_is_kept(
    name: str, service: FakeService, make_engine: MakeEngine
) -> None:
    """If a job ends just before the request to cancel it arrives, its image is kept."""
    service.endless_seeds = {2}
    answer = service.answer

    def answer_too_late(request: Received) -> Reply:
        if not request.path.endswith("/cancel"):
            return answer(request)
        service.endless_seeds.clear()
        if name == "fal":
            return Reply(400, {"status": "ALREADY_COMPLETED"})
        # Replicate answers with the prediction as it is.
        return answer(replace(request, method="GET", path=request.path.removesuffix("/cancel")))

    service.answer = answer_too_late  # type: ignore[method-assign]  # The fake is the test's own.
    response = interrupt_after_one(make_engine(seed=1), 2)
    assert [image.failure for image in response.data] == [None, None]
    assert response.note == f"Took 2 billed calls to {TITLES[name]}."


@JOBS
def test_a_job_that_cannot_be_cancelled_is_probably_billed(
    name: str, service: FakeService, make_engine: MakeEngine
) -> None:
    """If a service does not cancel a job, nobody reads that it may not be billed."""
    service.endless_seeds = {2}
    answer = service.answer
    cancellations: list[str] = []

    def refuse(request: Received) -> Reply:
        if request.path.endswith("/cancel"):
            cancellations.append(request.path)
            return Reply(500, {"detail": "Out of order."})
        return answer(request)

    service.answer = refuse  # type: ignore[method-assign]  # As above.
    response = interrupt_after_one(make_engine(seed=1, max_retries=0), 2)
    assert response.data[0].failure is None
    title = TITLES[name]
    assert str(response.data[1].failure) == (
        f"Interrupted: a call to {title} could not be stopped, so it is probably billed."
    )
    assert response.note == (
        f"Took 2 billed calls to {title}. "
        "One of them could not be stopped, so it is probably billed."
    )
    assert len(cancellations) == 1


def test_a_second_interrupt_ends_the_wait(recraft: FakeRecraft, open_engine: OpenEngine) -> None:
    """It keeps what is finished. Calls that go on count as billed, and calls not sent do not."""
    recraft.endless_seeds = set(range(2, 11))
    engine = open_engine("recraft", recraft, seed=1, max_billed_calls=10)

    def interrupt_again() -> None:
        while len(recraft.paths("POST")) < 5:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        # If both signals arrive at the same time, they are one, and the call waits longer.
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt_again)
    thread.start()
    with pytest.raises(CallInterrupt) as caught:
        call_engine(engine, make_request(10))
    thread.join()
    response = caught.value.response
    assert response.note == (
        "Took 5 billed calls to Recraft. "
        "4 of them could not be stopped, so they are probably billed. "
        "Recraft charged 40 credits."
    )
    failures = Counter(type(image.failure) for image in response.data)
    assert failures == {NoneType: 1, RunningCallError: 4, UnsentCallError: 5}
    assert response.model_extra is not None
    assert response.model_extra["billed_calls"] == 5
