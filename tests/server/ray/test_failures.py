"""Processes and nodes that die, and applications that are replaced or removed, under load."""

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import httpx
import pytest

from tests.server.ray.calls import expected_images, images, post
from tests.server.ray.conftest import RayServe
from tests.server.ray.noted_engine import wait_until

pytestmark = pytest.mark.slow
CLIENTS = 4
"""Fewer than one server holds, so that none gets a 429."""


def put_under_load(
    deployed: RayServe, count: int, event: Callable[[], None]
) -> dict[int, httpx.Response | httpx.TransportError]:
    """Send requests from several clients, and return the outcome of each by its seed.

    Args:
        deployed: The application.
        count: The number of requests.
        event: Called once a quarter of them has been answered.
    """
    outcomes: dict[int, httpx.Response | httpx.TransportError] = {}

    def ask(seed: int) -> None:
        try:
            outcomes[seed] = post(deployed.address, seed=str(seed))
        except httpx.TransportError as error:
            outcomes[seed] = error

    with ThreadPoolExecutor(CLIENTS) as pool:
        pending = [pool.submit(ask, seed) for seed in range(count)]
        wait_until(lambda: len(outcomes) >= count // 4)
        event()
        for future in pending:
            future.result()
    return outcomes


def failures(outcomes: dict[int, httpx.Response | httpx.TransportError]) -> list[object]:
    """Check that every answer is the engine's own, and return the outcomes that are not answers."""
    answers = {
        seed: outcome
        for seed, outcome in outcomes.items()
        if isinstance(outcome, httpx.Response) and outcome.status_code == 200
    }
    for seed, answer in answers.items():
        assert images(answer) == expected_images(seed)
    return [outcome for seed, outcome in outcomes.items() if seed not in answers]


def test_a_killed_replica_loses_nothing(deployed: RayServe) -> None:
    """If a replica of the engine is killed under load, all requests are still answered."""

    def kill() -> None:
        os.kill(min(deployed.notes.processes()), signal.SIGKILL)

    assert failures(put_under_load(deployed, 60, kill)) == []


def test_a_killed_server_cancels_its_calls(deployed: RayServe) -> None:
    """If the server that a request waits for dies, the engine stops and takes the next request."""
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(post, deployed.address, user="held", seed="50")
        wait_until(lambda: deployed.notes.read("started"))
        deployed.kill_servers()
        assert answer.result().status_code >= 500
    wait_until(lambda: deployed.notes.read("cancelled"))
    assert [seed for _, seed in deployed.notes.read("cancelled")] == [50]
    wait_until(lambda: post(deployed.address, seed="51").status_code == 200)


def test_a_killed_node_loses_what_it_had(deployed: RayServe) -> None:
    """If a node is killed under load, only requests in progress are lost. No answer is wrong."""
    wait_until(deployed.has_replica_on_second, 120)
    try:
        lost = failures(put_under_load(deployed, 60, deployed.nodes.kill_second))
        assert len(lost) <= CLIENTS
        for outcome in lost:
            assert isinstance(outcome, httpx.Response)
            assert outcome.status_code >= 500
        assert images(post(deployed.address, seed="7")) == expected_images(7)
    finally:
        deployed.nodes.restart_second()


def test_a_killed_node_spares_other_calls(deployed: RayServe) -> None:
    """If a node is killed, only calls of the servers there are lost. The engine's are repeated."""
    wait_until(deployed.has_replica_on_second, 120)
    with ThreadPoolExecutor(CLIENTS) as pool:
        pending = [
            pool.submit(post, deployed.address, user="held", seed=str(seed))
            for seed in range(CLIENTS)
        ]
        # They wait in the servers until they are released, so the numbers do not change.
        wait_until(lambda: sum(deployed.count_calls_of_servers().values()) == CLIENTS)
        calls_on_second = deployed.count_calls_of_servers().get(deployed.nodes.second_id, 0)
        try:
            deployed.nodes.kill_second()
            deployed.notes.release()
            answers = [future.result() for future in pending]
        finally:
            deployed.nodes.restart_second()
    for seed, answer in enumerate(answers):
        if answer.status_code == 200:
            assert images(answer) == expected_images(seed)
        else:
            assert answer.status_code >= 500
    assert sum(answer.status_code != 200 for answer in answers) <= calls_on_second


def test_a_new_version_loses_nothing(deployed: RayServe) -> None:
    """If the application is replaced under load, all requests are answered, and URLs still work."""
    (entry,) = post(deployed.address, seed="3", response_format="url").json()["data"]
    old_processes = deployed.notes.processes()

    def replace() -> None:
        deployed.replace(engine_options={"seconds": 0.06})

    assert failures(put_under_load(deployed, 100, replace)) == []
    deployed.notes.clear()
    (image,) = expected_images(3)
    assert httpx.get(entry["url"]).content == image
    post(deployed.address)
    assert not deployed.notes.processes() & old_processes


def test_a_removed_application_finishes_its_calls(deployed: RayServe) -> None:
    """If the application is removed, calls in progress are finished, and the others get a 503."""
    with ThreadPoolExecutor(4) as pool:
        pending = [
            pool.submit(post, deployed.address, user="held", seed=str(seed)) for seed in range(4)
        ]
        wait_until(lambda: deployed.notes.read("started"))
        remover = threading.Thread(target=deployed.remove)
        remover.start()
        wait_until(lambda: httpx.get(f"{deployed.address}/healthz").status_code != 200)
        # A request that waits for a replica gets its answer before those that the engine works on.
        # If one server got all requests, the others wait in its queue, and nothing is answered.
        wait(pending, timeout=10, return_when=FIRST_COMPLETED)
        deployed.notes.release()
        answers = [future.result() for future in pending]
        # A call may start late.
        started = {seed for _, seed in deployed.notes.read("started")}
        for seed, answer in enumerate(answers):
            if seed in started:
                assert images(answer) == expected_images(seed)
            else:
                assert answer.status_code == 503
                assert "shutting down" in answer.json()["error"]["message"]
        assert started
        remover.join(60)
    assert not remover.is_alive()
