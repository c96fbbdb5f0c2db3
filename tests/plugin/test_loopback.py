import asyncio
import gc
import hashlib
import socket
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from langchain_image_variation.exceptions import (
    EndpointRemovedError,
    EngineResponseError,
    ExpiredURLError,
    RateLimitError,
)
from langchain_image_variation.hosted.client import ImageVariationClient
from pytest_image_variation.loopback import Loopback, View
from pytest_image_variation.samples import non_square_png, square_png
from pytest_image_variation.scenarios import SCENARIOS, Scenario
from tests.plugin.asking import Got, check, key_header, picture

PNG = square_png(8)


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    """One client for all tests."""
    with httpx.Client() as client:
        yield client


def ask(client: httpx.Client, view: View, scenario: Scenario) -> Got:
    """Send what a scenario asks."""
    data = picture(scenario)
    parts = [(name, (None, value)) for name, value in scenario.fields.items()]
    files: list[tuple[str, tuple[str | None, str | bytes]]] = list(parts)
    if data is not None:
        files.append(("image", ("a.png", data)))
    response = client.post(
        f"{view.base_url}/images/variations",
        files=files,
        headers=key_header(scenario),
    )
    return Got(response.status_code, response.headers, response.content)


def pictures(client: httpx.Client, view: View, data: bytes = PNG, **fields: str) -> httpx.Response:
    """Ask for variations."""
    return client.post(
        f"{view.base_url}/images/variations",
        data=fields,
        files={"image": ("a.png", data, "image/png")},
    )


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name != "cut_body"])
def test_each_scenario_is_answered_as_the_table_says(
    loopback: Loopback, view: View, client: httpx.Client, name: str
) -> None:
    """With its status, error or pictures, and used up then."""
    scenario = SCENARIOS[name]
    view.scenario(name)
    for answer in scenario.answers:
        for url in check(scenario, answer, ask(client, view, scenario)):
            got = client.get(url)
            assert got.status_code == (403 if name == "url_expired" else 200)
    assert view.expectations.problems() == []
    assert {e.scenario for e in view.journal if e.method == "POST"} == {name}


def test_a_cut_body_ends_the_connection(view: View, client: httpx.Client) -> None:
    """In the middle of what was announced, for any client."""
    view.fail_next("cut_body")
    with pytest.raises(httpx.RemoteProtocolError, match="complete message body"):
        pictures(client, view)
    with ImageVariationClient(base_url=view.base_url, max_retries=0) as ours:
        view.fail_next("cut_body")
        with pytest.raises(EngineResponseError):
            ours.images.create_variation(image=PNG)


def test_without_a_scenario_the_app_answers(view: View, client: httpx.Client) -> None:
    """Legal requests get pictures, others their errors, and nothing is held against the test."""
    assert len(pictures(client, view, n="3", size="512x512").json()["data"]) == 3
    error = pictures(client, view, non_square_png()).json()["error"]
    assert error["param"] == "image"
    assert client.get(f"{view.base_url}/models").status_code == 200
    assert view.expectations.problems() == []


def test_the_journal(view: View, client: httpx.Client) -> None:
    """Each request with its fields and the facts of its picture, and no key."""
    pictures(client, view, n="2", user="me")
    client.get(f"{view.base_url}/models", headers={"authorization": "Bearer sk-secret"})
    asked, listed = view.journal
    assert (asked.method, asked.path) == ("POST", "/v1/images/variations")
    assert asked.fields == {"n": "2", "user": "me"}
    assert asked.image is not None
    assert (asked.image.size, asked.image.mode) == ((8, 8), "RGB")
    assert asked.image.sha256 == hashlib.sha256(PNG).hexdigest()
    assert (asked.status, asked.scenario) == (200, None)
    assert (listed.method, listed.path, listed.image) == ("GET", "/v1/models", None)
    assert "secret" not in f"{listed!r}{listed.headers}"


def test_a_request_that_fits_no_scenario(view: View, client: httpx.Client) -> None:
    """It is answered with how it differs, and the test is told the same."""
    view.scenario("success_b64_n2_256")
    response = pictures(client, view, n="3", size="256x256", prompt="a cat")
    assert response.status_code == 400
    message = response.json()["error"]["message"]
    assert message == (
        "POST /v1/images/variations matches no scenario. The closest is 'success_b64_n2_256': n: "
        "expected '2', got '3'; response_format: expected 'b64_json', got 'url'; prompt: expected "
        "no such field, got 'a cat'. Add a scenario for it, or mark the test "
        "@pytest.mark.image_variation(allow_unexpected=True)."
    )
    assert view.expectations.problems(unused=False) == [message]
    assert len(view.expectations.problems(unexpected=False)) == 1


def test_the_nearest_scenario_is_named(view: View, client: httpx.Client) -> None:
    """Of two, the one that differs in fewer fields."""
    view.scenario("success_url_n10_512")
    view.scenario("success_b64_n2_256")
    got = pictures(client, view, n="3", response_format="b64_json", size="256x256").json()
    assert (
        got["error"]["message"]
        .partition(". Add a scenario")[0]
        .endswith("'success_b64_n2_256': n: expected '2', got '3'")
    )


def test_a_scenario_answers_as_often_as_it_was_asked_for(view: View, client: httpx.Client) -> None:
    """The next request is one too many."""
    view.scenario("success_url_n1", times=2)
    statuses = [pictures(client, view).status_code for _ in range(3)]
    assert statuses == [200, 200, 400]
    (problem,) = view.expectations.problems()
    assert "every scenario has been used up" in problem


def test_a_scenario_that_was_not_used_up(view: View, client: httpx.Client) -> None:
    """A client that did not try again is found out."""
    view.scenario("rate_limit_then_success")
    pictures(client, view, response_format="b64_json")
    assert view.expectations.problems() == [
        "The scenario 'rate_limit_then_success' expects 2 requests, and got 1. If it may stay "
        "unused, mark the test @pytest.mark.image_variation(allow_unused=True)."
    ]


def test_fail_next_comes_before_scenarios_and_the_app(view: View, client: httpx.Client) -> None:
    """Whatever is asked; afterwards things are as they were."""
    view.scenario("success_url_n2")
    view.fail_next("server_error")
    view.fail_next("unavailable", times=2)
    statuses = [pictures(client, view, n="2").status_code for _ in range(4)]
    assert statuses == [500, 503, 503, 200]
    assert view.expectations.problems() == []


@pytest.mark.parametrize("order", ["fail_next", "scenario"])
def test_an_address_cannot_expire_that_is_not_asked_for(
    view: View, client: httpx.Client, order: str
) -> None:
    """Else a picture would come, and the fault would count as played."""
    getattr(view, order)("url_expired")
    assert pictures(client, view, response_format="b64_json").status_code == 400
    assert "b64_json" in view.expectations.problems()[0]
    assert pictures(client, view).status_code == 200


def test_the_journal_has_no_keys(view: View, client: httpx.Client) -> None:
    """Under whatever header they are sent, nor who pays."""
    names = ("api-key", "x-api-key", "authorization", "openai-organization", "openai-project")
    client.get(f"{view.base_url}/models", headers=dict.fromkeys((*names, "x-mine"), "secret"))
    (exchange,) = view.journal
    assert [name for name, value in exchange.headers.items() if value == "secret"] == ["x-mine"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda view: view.fail_next("not_png"), "not a fault but a refusal"),
        (lambda view: view.fail_next("nope"), "Unknown scenario 'nope'"),
        (lambda view: view.scenario("not_png", times=0), "times must be a positive integer"),
        (lambda view: view.scenario("not_png", times=True), "times must be a positive integer"),
        (lambda view: view.delay(-1), "from 0 to 3600"),
        (lambda view: view.delay(float("nan")), "from 0 to 3600"),
        (lambda view: view.delay("1"), "must be a number, got str"),
    ],
)
def test_mistakes_in_calls(view: View, call: object, message: str) -> None:
    """Each is a ValueError that says what is wrong."""
    assert callable(call)
    with pytest.raises(ValueError, match=message):
        call(view)


def test_a_delay_outlasts_a_client_that_does_not_wait(view: View) -> None:
    """And ends with `delay(0)`."""
    view.delay(60)
    with httpx.Client(timeout=0.2) as client:
        with pytest.raises(httpx.ReadTimeout):
            pictures(client, view)
        view.delay(0)
        assert pictures(client, view).status_code == 200


def test_an_answer_that_nobody_waits_for_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Else the log of another test would have the traceback of its end."""
    with Loopback() as server, server.view() as view:
        view.delay(60)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{view.base_url}/images/variations", timeout=0.05)
    assert [r for r in caplog.records if r.name.startswith("uvicorn")] == []


def test_our_client_knows_the_faults(view: View) -> None:
    """As it knows those of the vendor, and tries again where that helps."""
    with ImageVariationClient(base_url=view.base_url) as client:
        view.fail_next("rate_limit")
        view.fail_next("image_rate_limit")
        assert len(client.images.create_variation(image=PNG, size="256x256").data) == 1
        view.fail_next("rate_limit", times=3)
        with pytest.raises(RateLimitError):
            client.images.create_variation(image=PNG)
        view.fail_next("endpoint_removed")
        with pytest.raises(EndpointRemovedError):
            client.images.create_variation(image=PNG)
        view.fail_next("url_expired")
        with pytest.raises(ExpiredURLError):
            client.images.create_variation(image=PNG).data[0].read()


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_the_vendors_sdk_knows_the_faults(view: View) -> None:
    """The empty 404 is its NotFoundError, a used-up budget its BadRequestError."""
    with openai.OpenAI(base_url=view.base_url, api_key="x") as sdk:
        view.fail_next("rate_limit")
        view.fail_next("server_error")
        assert len(sdk.images.create_variation(image=PNG, n=2).data or []) == 2
        view.fail_next("endpoint_removed")
        with pytest.raises(openai.NotFoundError):
            sdk.images.create_variation(image=PNG)
        view.fail_next("budget_exhausted")
        with pytest.raises(openai.BadRequestError) as refused:
            sdk.images.create_variation(image=PNG)
        assert refused.value.code == "billing_hard_limit_reached"


def test_tests_in_threads_see_nothing_of_each_other(loopback: Loopback) -> None:
    """Each view has its own faults, journal and addresses, on one server."""
    barrier = threading.Barrier(8)

    def run(number: int) -> tuple[list[int], int]:
        with loopback.view() as view, httpx.Client() as client:
            barrier.wait(30)
            view.fail_next("server_error", times=number)
            got = [pictures(client, view, user=str(number)).status_code for _ in range(8)]
            assert {exchange.fields["user"] for exchange in view.journal} == {str(number)}
            return got, len(view.journal)

    with ThreadPoolExecutor(8) as pool:
        for number, (statuses, requests) in zip(
            range(1, 9), pool.map(run, range(1, 9)), strict=True
        ):
            assert statuses == [500] * number + [200] * (8 - number)
            assert requests == 8


async def test_many_requests_at_once(view: View) -> None:
    """None is lost, and none is answered with a 429 that nobody asked for."""
    view.fail_next("server_error", times=10)
    async with httpx.AsyncClient() as client:
        calls = [
            client.post(f"{view.base_url}/images/variations", files={"image": ("a.png", PNG)})
            for _ in range(60)
        ]
        answers = await asyncio.gather(*calls)
    assert sorted(answer.status_code for answer in answers) == [200] * 50 + [500] * 10
    assert len(view.journal) == 60


def test_a_client_that_is_never_closed_leaves_no_socket(view: View) -> None:
    """In a suite that makes warnings errors, it would fail whichever test comes next."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        client = httpx.Client()
        assert pictures(client, view).status_code == 200
        del client
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


def test_an_address_ends_with_its_test(loopback: Loopback, client: httpx.Client) -> None:
    """A straggler is told so, and does not land in another test's journal."""
    with loopback.view() as view:
        pass
    assert "has ended" in pictures(client, view).text


def test_a_picture_that_was_just_fetched_is_closed(client: httpx.Client) -> None:
    """Though the server ends in the same moment."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(10):
            with Loopback() as server, server.view() as view:
                (entry,) = pictures(client, view, size="256x256").json()["data"]
                client.get(entry["url"])
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


def test_a_server_that_is_closed_leaves_nothing_behind() -> None:
    """No thread, no socket, no folder; whatever was still going on."""
    before = threading.active_count()
    server = Loopback()
    folder = server._apps._folder
    with server.view() as view:
        view.delay(60)
        with httpx.Client(timeout=0.2) as client, pytest.raises(httpx.ReadTimeout):
            pictures(client, view)
        address = httpx.URL(view.base_url)
    server.close()
    assert not folder.exists()
    assert threading.active_count() <= before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.host, address.port or 0), timeout=5)
