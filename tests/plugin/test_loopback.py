import asyncio
import gc
import hashlib
import socket
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

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
from pytest_image_variation.forms import Form, Part
from pytest_image_variation.loopback import Loopback
from pytest_image_variation.loopback_session import LoopbackSession
from pytest_image_variation.samples import non_square_png, square_png
from pytest_image_variation.scenarios import SCENARIOS, Scenario
from tests.plugin.scenario_requests import Reply, check, key_header, scenario_image

PNG = square_png(8)


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    """One client for all tests."""
    with httpx.Client() as client:
        yield client


def send_scenario(client: httpx.Client, view: LoopbackSession, scenario: Scenario) -> Reply:
    """Send the request of a scenario."""
    data = scenario_image(scenario)
    parts = [(name, (None, value)) for name, value in scenario.fields.items()]
    files: list[tuple[str, tuple[str | None, str | bytes]]] = list(parts)
    if data is not None:
        files.append(("image", ("a.png", data)))
    response = client.post(
        f"{view.base_url}/images/variations",
        files=files,
        headers=key_header(scenario),
    )
    return Reply(response.status_code, response.headers, response.content)


def post_image(
    client: httpx.Client, view: LoopbackSession, data: bytes = PNG, **fields: str
) -> httpx.Response:
    """Request variations."""
    return client.post(
        f"{view.base_url}/images/variations",
        data=fields,
        files={"image": ("a.png", data, "image/png")},
    )


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name != "cut_body"])
def test_server_plays_each_scenario(
    loopback: Loopback, view: LoopbackSession, client: httpx.Client, name: str
) -> None:
    """The response has the scenario's status and content, and uses the scenario up."""
    scenario = SCENARIOS[name]
    view.scenario(name)
    for answer in scenario.answers:
        for url in check(scenario, answer, send_scenario(client, view, scenario)):
            download = client.get(url)
            assert download.status_code == (403 if name == "url_expired" else 200)
    assert view.expectations.problems() == []
    assert {e.scenario for e in view.journal if e.method == "POST"} == {name}


def test_cut_body_closes_the_connection(view: LoopbackSession, client: httpx.Client) -> None:
    """The connection closes in the middle of the body, for any client."""
    view.fail_next("cut_body")
    with pytest.raises(httpx.RemoteProtocolError, match="complete message body"):
        post_image(client, view)
    with ImageVariationClient(base_url=view.base_url, max_retries=0) as ours:
        view.fail_next("cut_body")
        with pytest.raises(EngineResponseError):
            ours.images.create_variation(image=PNG)


def test_app_answers_without_a_scenario(view: LoopbackSession, client: httpx.Client) -> None:
    """Legal requests get images, others their errors, and neither is a problem."""
    assert len(post_image(client, view, n="3", size="512x512").json()["data"]) == 3
    error = post_image(client, view, non_square_png()).json()["error"]
    assert error["param"] == "image"
    assert client.get(f"{view.base_url}/models").status_code == 200
    assert view.expectations.problems() == []


def test_journal_has_fields_and_image_facts(view: LoopbackSession, client: httpx.Client) -> None:
    """The journal has each request's fields and facts about its image, and no key."""
    post_image(client, view, n="2", user="me")
    client.get(f"{view.base_url}/models", headers={"authorization": "Bearer sk-secret"})
    post, listing = view.journal
    assert (post.method, post.path) == ("POST", "/v1/images/variations")
    assert post.fields == {"n": "2", "user": "me"}
    assert post.image is not None
    assert (post.image.size, post.image.mode) == ((8, 8), "RGB")
    assert post.image.sha256 == hashlib.sha256(PNG).hexdigest()
    assert (post.status, post.scenario) == (200, None)
    assert (listing.method, listing.path, listing.image) == ("GET", "/v1/models", None)
    assert "secret" not in f"{listing!r}{listing.headers}"


def test_request_that_matches_no_scenario_gets_a_400(
    view: LoopbackSession, client: httpx.Client
) -> None:
    """The 400 and the test's problems explain the mismatch with the same text."""
    view.scenario("success_b64_n2_256")
    response = post_image(client, view, n="3", size="256x256", prompt="a cat")
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


def test_closest_scenario_is_named(view: LoopbackSession, client: httpx.Client) -> None:
    """The closest scenario is the one that differs in the fewest fields."""
    view.scenario("success_url_n10_512")
    view.scenario("success_b64_n2_256")
    content = post_image(client, view, n="3", response_format="b64_json", size="256x256").json()
    assert (
        content["error"]["message"]
        .partition(". Add a scenario")[0]
        .endswith("'success_b64_n2_256': n: expected '2', got '3'")
    )


@pytest.mark.parametrize("expected", [True, False])
@pytest.mark.parametrize(
    "headers", [{"host": "evil.example"}, {"host": ""}, {"origin": "http://evil.example"}]
)
def test_foreign_web_page_is_refused(
    view: LoopbackSession, client: httpx.Client, headers: dict[str, str], expected: bool
) -> None:
    """A page under another name or of another origin gets a 403, and the journal stays empty."""
    if expected:
        view.scenario("rate_limit")
    own_path = httpx.URL(f"{view.base_url}/images/variations")
    for url in (own_path, own_path.copy_with(path="/"), own_path.copy_with(path="/0123abcd/v1")):
        for method in ("GET", "OPTIONS", "POST"):
            response = client.request(method, url, headers=headers)
            assert response.status_code == 403
            assert "its own base URL" in response.json()["error"]["message"]
    assert view.journal == ()


def test_form_that_is_cut_off_is_refused(view: LoopbackSession, client: httpx.Client) -> None:
    """A form without its closing boundary is refused, and matches no scenario for a form."""
    form = Form((Part("image", PNG, "a.png"), Part("response_format", b"b64_json")))
    content = replace(form, is_closed=False).encode("x")
    headers = {"content-type": "multipart/form-data; boundary=x"}
    url = f"{view.base_url}/images/variations"
    response = client.post(url, content=content, headers=headers)
    assert response.status_code == 400
    assert "closing boundary" in response.json()["error"]["message"]
    view.scenario("success_b64_n1")
    message = client.post(url, content=content, headers=headers).json()["error"]["message"]
    assert "form: expected a complete one, got one without its closing boundary" in message


def test_scenario_is_played_as_often_as_expected(
    view: LoopbackSession, client: httpx.Client
) -> None:
    """A scenario is played as often as expected, and one more request is unexpected."""
    view.scenario("success_url_n1", times=2)
    statuses = [post_image(client, view).status_code for _ in range(3)]
    assert statuses == [200, 200, 400]
    (problem,) = view.expectations.problems()
    assert "every scenario has been used up" in problem


def test_scenario_that_is_not_used_up_is_a_problem(
    view: LoopbackSession, client: httpx.Client
) -> None:
    """A scenario that is not used up is a problem, which reveals a client that did not retry."""
    view.scenario("rate_limit_then_success")
    post_image(client, view, response_format="b64_json")
    assert view.expectations.problems() == [
        "The scenario 'rate_limit_then_success' expects 2 requests, and got 1. If it may stay "
        "unused, mark the test @pytest.mark.image_variation(allow_unused=True)."
    ]


def test_fail_next_takes_precedence(view: LoopbackSession, client: httpx.Client) -> None:
    """A fault is played before scenarios, whatever the request is."""
    view.scenario("success_url_n2")
    view.fail_next("server_error")
    view.fail_next("unavailable", times=2)
    statuses = [post_image(client, view, n="2").status_code for _ in range(4)]
    assert statuses == [500, 503, 503, 200]
    assert view.expectations.problems() == []


@pytest.mark.parametrize("order", ["fail_next", "scenario"])
def test_url_expired_needs_a_url_request(
    view: LoopbackSession, client: httpx.Client, order: str
) -> None:
    """`url_expired` needs a request for URLs, since others would get an image."""
    getattr(view, order)("url_expired")
    assert post_image(client, view, response_format="b64_json").status_code == 400
    assert "b64_json" in view.expectations.problems()[0]
    assert post_image(client, view).status_code == 200


def test_journal_has_no_keys(view: LoopbackSession, client: httpx.Client) -> None:
    """Headers with keys, organizations and projects are not in the journal."""
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
def test_invalid_arguments_are_value_errors(
    view: LoopbackSession, call: object, message: str
) -> None:
    """An invalid argument is a ValueError that names the mistake."""
    assert callable(call)
    with pytest.raises(ValueError, match=message):
        call(view)


def test_delay_exceeds_a_client_timeout(view: LoopbackSession) -> None:
    """A delay can exceed a client's timeout, and `delay(0)` ends it."""
    view.delay(60)
    with httpx.Client(timeout=0.2) as client:
        with pytest.raises(httpx.ReadTimeout):
            post_image(client, view)
        view.delay(0)
        assert post_image(client, view).status_code == 200


def test_abandoned_response_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """An abandoned response logs no traceback, which would appear in another test's log."""
    with Loopback() as server, server.view() as view:
        view.delay(60)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{view.base_url}/images/variations", timeout=0.05)
    assert [r for r in caplog.records if r.name.startswith("uvicorn")] == []


def test_our_client_raises_for_faults(view: LoopbackSession) -> None:
    """Our client handles these faults like the vendor's, and retries where that helps."""
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
def test_vendor_sdk_raises_for_faults(view: LoopbackSession) -> None:
    """The vendor's SDK raises the class of exception that fits each fault."""
    with openai.OpenAI(base_url=view.base_url, api_key="x") as sdk:
        view.fail_next("rate_limit")
        view.fail_next("server_error")
        assert len(sdk.images.create_variation(image=PNG, n=2).data or []) == 2
        view.fail_next("endpoint_removed")
        with pytest.raises(openai.NotFoundError):
            sdk.images.create_variation(image=PNG)
        view.fail_next("budget_exhausted")
        with pytest.raises(openai.BadRequestError) as caught:
            sdk.images.create_variation(image=PNG)
        assert caught.value.code == "billing_hard_limit_reached"


def test_views_in_threads_are_isolated(loopback: Loopback) -> None:
    """On one server, each view has its own faults, journal and URLs."""
    barrier = threading.Barrier(8)

    def run(number: int) -> tuple[list[int], int]:
        with loopback.view() as view, httpx.Client() as client:
            barrier.wait(30)
            view.fail_next("server_error", times=number)
            statuses = [post_image(client, view, user=str(number)).status_code for _ in range(8)]
            assert {exchange.fields["user"] for exchange in view.journal} == {str(number)}
            return statuses, len(view.journal)

    with ThreadPoolExecutor(8) as pool:
        for number, (statuses, requests) in zip(
            range(1, 9), pool.map(run, range(1, 9)), strict=True
        ):
            assert statuses == [500] * number + [200] * (8 - number)
            assert requests == 8


async def test_no_concurrent_request_is_lost(view: LoopbackSession) -> None:
    """No concurrent request is lost, or gets a 429 that the test did not order."""
    view.fail_next("server_error", times=10)
    async with httpx.AsyncClient() as client:
        calls = [
            client.post(f"{view.base_url}/images/variations", files={"image": ("a.png", PNG)})
            for _ in range(60)
        ]
        answers = await asyncio.gather(*calls)
    assert sorted(answer.status_code for answer in answers) == [200] * 50 + [500] * 10
    assert len(view.journal) == 60


def test_unclosed_client_leaves_no_socket(view: LoopbackSession) -> None:
    """An unclosed client leaves no socket that would cause a warning in the next test."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        client = httpx.Client()
        assert post_image(client, view).status_code == 200
        del client
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


def test_url_ends_with_its_test(loopback: Loopback, client: httpx.Client) -> None:
    """A late request gets an explanation, and does not enter another test's journal."""
    with loopback.view() as view:
        pass
    assert "has ended" in post_image(client, view).text


def test_downloaded_file_is_closed_at_shutdown(client: httpx.Client) -> None:
    """Stopping the server right after a download leaves no file open."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(10):
            with Loopback() as server, server.view() as view:
                (entry,) = post_image(client, view, size="256x256").json()["data"]
                client.get(entry["url"])
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


def test_closed_server_leaves_nothing_behind() -> None:
    """Even with a response in progress, a closed server leaves no thread, socket or folder."""
    before = threading.active_count()
    server = Loopback()
    folder = server._apps._folder
    with server.view() as view:
        view.delay(60)
        with httpx.Client(timeout=0.2) as client, pytest.raises(httpx.ReadTimeout):
            post_image(client, view)
        address = httpx.URL(view.base_url)
    server.close()
    assert not folder.exists()
    assert threading.active_count() <= before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.host, address.port or 0), timeout=5)
