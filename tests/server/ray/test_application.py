"""The application on Ray Serve, called as clients call it."""

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from random import Random
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from langchain_image_variation.engines.loading import load_engine
from langchain_image_variation.server import create_app
from tests.server.ray.calls import PHOTO, expected_images, images, post
from tests.server.ray.conftest import RayServe
from tests.server.ray.noted_engine import wait_until
from tests.server.serving import serving

pytestmark = pytest.mark.slow


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_the_official_sdk_works_unchanged(address: str) -> None:
    """The SDK gets the engine's own images, in base64 and as URLs."""
    with openai.OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0) as sdk:
        for form in ("b64_json", "url"):
            response = sdk.images.create_variation(
                image=PHOTO, n=2, size="256x256", response_format=form, extra_body={"seed": 7}
            )
            assert response.data is not None
            for image, expected in zip(response.data, expected_images(7, 2), strict=True):
                if image.b64_json:
                    assert base64.b64decode(image.b64_json) == expected
                else:
                    assert image.url is not None
                    assert httpx.get(image.url).content == expected


def test_answers_are_those_of_one_process(address: str, tmp_path: Path) -> None:
    """Errors keep their status, body and headers, also those that a replica raises."""
    requests: list[dict[str, Any]] = [
        *({"user": user} for user in ("odd", "limited", "late", "field")),
        *({"n": "11"}, {"seed": "-1"}, {"seed": "1000001"}, {"strength": "1"}, {"model": "null"}),
    ]
    with serving(create_app(load_engine("noted"), store_dir=tmp_path)) as plain:
        for fields in requests:
            ours, theirs = post(address, **fields), post(plain, **fields)
            assert ours.status_code == theirs.status_code
            if theirs.status_code == 200:
                assert images(ours) == images(theirs)
            else:
                assert ours.content == theirs.content
            for name in ("content-type", "retry-after", "openai-version"):
                assert ours.headers.get(name) == theirs.headers.get(name)
        for path in ("/healthz", "/v1/nothing", "/v1/models/nothing", "/openapi.json"):
            assert httpx.get(address + path).content == httpx.get(plain + path).content


@pytest.mark.parametrize("user", ["bug", "refused"])
def test_internals_stay_in_the_log(address: str, deployed: RayServe, user: str) -> None:
    """A bug in the engine, or a wrong key for it, is a 500 that shows only the request's ID.

    The log of the server's replica has the ID, and the error in full.
    """
    answer = post(address, user=user)
    assert answer.status_code == 500
    (request_id,) = answer.headers.get_list("x-request-id")
    assert answer.json()["error"]["message"].endswith(f"in the log, under {request_id}.")

    def has_traceback() -> bool:
        lines = deployed.read_logs_of_servers().splitlines()
        starts = [number for number, line in enumerate(lines) if request_id in line]
        return any("Traceback (most" in line for number in starts for line in lines[number:][:3])

    wait_until(has_traceback)


def test_a_wrong_image_is_named_in_the_log(address: str, deployed: RayServe) -> None:
    """If one of two images has the wrong size, the request fails, and the log names the image."""
    answer = post(address, n="2", user="small")
    assert answer.status_code == 500
    fault = "Noted.create_variation returned image 2 of 2 with 64x64 pixels for size=256x256"
    wait_until(lambda: fault in deployed.read_logs_of_servers())


def test_the_id_of_the_client_is_the_requests(address: str) -> None:
    """A client's own X-Request-ID comes back once, unless the log could not show it."""
    url = f"{address}/healthz"
    for request_id in ("mine-1", "x" * 200):
        answer = httpx.get(url, headers={"x-request-id": request_id})
        assert answer.headers.get_list("x-request-id") == [request_id]


def test_a_client_that_leaves_cancels_its_call(address: str, deployed: RayServe) -> None:
    """If the client disconnects, the engine stops, and its replica takes the next request."""
    request = httpx.Request(
        "POST",
        f"{address}/v1/images/variations",
        files={"image": ("a.png", PHOTO, "image/png")},
        data={"size": "256x256", "user": "held", "seed": "40"},
    )
    with closing(HTTPConnection(request.url.netloc.decode(), timeout=60)) as connection:
        connection.request("POST", request.url.path, request.read(), dict(request.headers))
        wait_until(lambda: deployed.notes.read("started"))
    wait_until(lambda: deployed.notes.read("cancelled"))
    assert [seed for _, seed in deployed.notes.read("cancelled")] == [40]
    assert images(post(address, seed="41")) == expected_images(41)


def test_replicas_follow_the_queue_and_429s_end_it(address: str, deployed: RayServe) -> None:
    """Requests that wait start another replica. Those that find the queue full get a 429."""
    with ThreadPoolExecutor(24) as pool:
        pending = [pool.submit(post, address, user="held", seed=str(seed)) for seed in range(24)]
        wait_until(lambda: len(deployed.notes.processes()) == 2, 120)
        deployed.notes.release()
        answers = [future.result() for future in pending]
    statuses = [answer.status_code for answer in answers]
    # A server holds five requests, two that are sent to replicas and three in its queue. The proxy
    # may send all of them to the server on its own node.
    assert 5 <= statuses.count(200) <= 10
    assert statuses.count(429) == 24 - statuses.count(200)
    for seed, answer in enumerate(answers):
        if answer.status_code == 200:
            assert images(answer) == expected_images(seed)
        else:
            assert answer.json()["error"]["code"] == "rate_limit_exceeded"
            assert int(answer.headers["retry-after"]) >= 1


def test_progress_is_that_of_the_replica(address: str, deployed: RayServe) -> None:
    """A client can follow a request, although another process works on it."""
    fields: dict[str, Any] = {"user": "halfway", "n": "4", "seed": "5"}
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(post, address, client_id="follow-me", **fields)
        wait_until(lambda: httpx.get(f"{address}/progress/follow-me").json().get("finished") == 2)
        deployed.notes.release()
        assert images(answer.result()) == expected_images(5, 4)


def test_a_deadly_request_ends(address: str, deployed: RayServe) -> None:
    """A request that kills replicas kills two of them and gets a 502. Later ones are answered."""
    answer = post(address, user="deadly")
    assert answer.status_code == 502
    assert "process of the engine died" in answer.json()["error"]["message"]
    assert len(deployed.notes.read("started")) == 2
    assert images(post(address, seed="8")) == expected_images(8)


def test_large_uploads_and_answers_pass(address: str) -> None:
    """An upload of almost 4 MB, and ten large images, arrive whole. A longer body is refused."""
    noise = Image.frombytes("RGB", (1100, 1100), Random(1).randbytes(3 * 1100**2))
    file = io.BytesIO()
    noise.save(file, "PNG")
    photo = file.getvalue()
    answer = post(address, photo, n="10", size="1024x1024", seed="9")
    assert images(answer) == expected_images(9, 10, "1024x1024", photo)
    answer = httpx.post(f"{address}/v1/images/variations", content=bytes(9_000_000), timeout=30)
    assert answer.status_code in (400, 413)
    assert answer.json()["error"]["type"] == "invalid_request_error"
