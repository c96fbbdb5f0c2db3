"""The fixtures and the marker, each in a separate test suite."""

import os

import pytest

from pytest_image_variation.scenarios import SCENARIOS
from tests.conftest import Run

ASYNCIO = (
    *("-p", "pytest_asyncio.plugin", "-o", "asyncio_mode=auto"),
    *("-o", "asyncio_default_fixture_loop_scope=function"),
)


# Cassettes...


def test_marker_replays_to_the_vendor_sdk(run: Run) -> None:
    """The marker sets the environment before a client exists, and no SDK warning fails a test."""
    result = run(
        """
        import openai, pytest

        @pytest.mark.image_variation("success_b64_n2")
        def test_it(image_variation_env, square_png, assert_images_response):
            with openai.OpenAI() as client:
                response = client.images.create_variation(
                    image=square_png, n=2, response_format="b64_json")
            assert_images_response(response, n=2, response_format="b64_json")
        """
    )
    result.assert_outcomes(passed=1)


def test_marker_alone_is_enough(run: Run) -> None:
    """The marker works for any HTTP client and any address, without a fixture in the test."""
    result = run(
        """
        import httpx, pytest, requests

        URL = "https://api.example.com/v1/images/variations"

        @pytest.mark.image_variation("rate_limit", "endpoint_removed")
        def test_it():
            assert httpx.post(URL).status_code == 429
            assert requests.post(URL).status_code == 404

        class TestClass:
            pytestmark = pytest.mark.image_variation("server_error")

            def test_inherited(self):
                assert httpx.post(URL).status_code == 500

            @pytest.mark.image_variation("unavailable")
            def test_nearest_wins(self):
                assert httpx.post(URL).status_code == 503

        @pytest.mark.image_variation("endpoint_removed")
        class TestDerived(TestClass):
            def test_inherited(self):
                assert httpx.post(URL).status_code == 404
        """
    )
    result.assert_outcomes(passed=5)


def test_marker_of_a_parameter_takes_precedence(run: Run) -> None:
    """A parameter's marker overrides the scenarios of the function's marker, if it has any."""
    result = run(
        """
        import httpx, pytest

        mark = pytest.mark.image_variation

        @mark("rate_limit")
        @pytest.mark.parametrize("status", [
            429,
            pytest.param(404, marks=mark("endpoint_removed")),
            pytest.param(0, marks=mark(allow_unused=True)),
        ])
        def test_it(status):
            if status:
                assert httpx.post("https://x.example/v1/images/variations").status_code == status
        """
    )
    result.assert_outcomes(passed=3)


def test_cassette_fixture_names_scenarios_late(run: Run) -> None:
    """A test can name scenarios while it runs, and read the journal."""
    result = run(
        """
        import httpx

        def test_it(image_variation_cassette, square_png):
            cassette = image_variation_cassette
            cassette.scenario("success_url_n1", times=2)
            for _ in range(2):
                answer = httpx.post(
                    cassette.base_url + "/images/variations",
                    files={"image": ("a.png", square_png)})
                (entry,) = answer.json()["data"]
                assert httpx.get(entry["url"]).content.startswith(b"\\x89PNG")
            first = cassette.journal[0]
            assert first.scenario == "success_url_n1"
            assert (first.image.size, first.image.mode) == ((64, 64), "RGB")
        """
    )
    result.assert_outcomes(passed=1)


# Server...


def test_server_fixture_plays_faults_first(run: Run) -> None:
    """The server plays faults, then responds itself, and the journal has both."""
    result = run(
        """
        def test_it(image_variation_server, image_variation_client, square_png):
            server = image_variation_server
            assert server.base_url.startswith("http://127.0.0.1:")
            server.fail_next("rate_limit", times=2)
            response = image_variation_client.images.create_variation(
                image=square_png, n=2, size="256x256")
            assert len(response.data) == 2
            asked = [e for e in server.journal if e.method == "POST"]
            assert [e.status for e in asked] == [429, 429, 200]
            assert asked[2].fields["n"] == "2"
            assert asked[2].image.size == (64, 64)

        def test_another(image_variation_server):
            assert image_variation_server.journal == ()
        """
    )
    result.assert_outcomes(passed=2)


def test_marker_works_with_the_server(run: Run) -> None:
    """If a test uses the server, the server plays the marker's scenarios."""
    result = run(
        """
        import pytest

        @pytest.mark.image_variation("server_error_then_success")
        def test_it(image_variation_server, image_variation_client, square_png):
            response = image_variation_client.images.create_variation(
                image=square_png, response_format="b64_json")
            assert [e.status for e in image_variation_server.journal] == [500, 200]
        """
    )
    result.assert_outcomes(passed=1)


def test_a_module_fixture_can_have_a_view(run: Run) -> None:
    """`image_variation_loopback` gives views to fixtures of modules and sessions."""
    result = run(
        """
        import httpx, pytest

        @pytest.fixture(scope="module")
        def server(image_variation_loopback):
            with image_variation_loopback.view() as view:
                yield view

        def test_first(server, square_png):
            httpx.post(server.base_url + "/images/variations", files={"image": ("a", square_png)})

        def test_second(server):
            assert len(server.journal) == 1
            server.scenario("rate_limit")
            assert "'rate_limit' expects 1 request" in server.expectations.problems()[0]
        """
    )
    result.assert_outcomes(passed=2)


def test_clients_use_the_server_without_a_marker(run: Run) -> None:
    """Without a marker, the clients, the environment and the tool use the server."""
    result = run(
        """
        import asyncio, os

        def test_env(image_variation_env, monkeypatch):
            assert os.environ["OPENAI_BASE_URL"] == image_variation_env.base_url
            assert os.environ["OPENAI_API_KEY"] == image_variation_env.api_key

        def test_afterwards():
            assert "OPENAI_BASE_URL" not in os.environ

        def test_client(image_variation_client, square_png, assert_images_response):
            answer = image_variation_client.images.create_variation(image=square_png, n=3)
            assert_images_response(answer, n=3)

        async def test_async(image_variation_async_client, square_png, assert_images_response):
            calls = [image_variation_async_client.images.create_variation(image=square_png)
                     for _ in range(3)]
            for answer in await asyncio.gather(*calls):
                assert_images_response(answer)

        def test_tool(image_variation_tool, image_variation_server):
            call = {"name": "image_variation", "args": {"image": "square.png", "n": 2},
                    "id": "1", "type": "tool_call"}
            message = image_variation_tool.invoke(call)
            assert [item["width"] for item in message.artifact["images"]] == [1024, 1024]
            assert image_variation_server.journal[0].fields["n"] == "2"
        """,
        *ASYNCIO,
    )
    result.assert_outcomes(passed=5)


def test_clients_use_cassettes_with_a_marker(run: Run) -> None:
    """With a marker, the clients, the environment and the tool use cassettes."""
    result = run(
        """
        import pytest
        from langchain_image_variation.exceptions import BillingLimitError

        @pytest.mark.image_variation("success_url_n2")
        def test_client(image_variation_client, square_png, assert_images_response):
            answer = image_variation_client.images.create_variation(image=square_png, n=2)
            assert_images_response(answer, n=2)

        @pytest.mark.image_variation("success_url_n2")
        async def test_async(image_variation_async_client, square_png, assert_images_response):
            answer = await image_variation_async_client.images.create_variation(
                image=square_png, n=2)
            assert_images_response(answer, n=2)

        @pytest.mark.image_variation("budget_exhausted")
        def test_tool(image_variation_tool):
            with pytest.raises(BillingLimitError) as caught:
                image_variation_tool.invoke({"image": "square.png"})
            assert "limit has been reached" in str(caught.value.__cause__)
        """,
        *ASYNCIO,
    )
    result.assert_outcomes(passed=3)


def test_an_odd_environment_does_no_harm(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invalid proxies and certificates do not matter for a server on this machine."""
    monkeypatch.setenv("NO_PROXY", "[::1")
    monkeypatch.setenv("HTTPS_PROXY", "foo://proxy.invalid")
    monkeypatch.setenv("SSL_CERT_FILE", "missing.pem")
    result = run(
        """
        def test_client(image_variation_client, square_png, assert_images_response):
            answer = image_variation_client.images.create_variation(image=square_png)
            assert_images_response(answer)

        async def test_async(image_variation_async_client, square_png, assert_images_response):
            answer = await image_variation_async_client.images.create_variation(image=square_png)
            assert_images_response(answer)
        """,
        *ASYNCIO,
    )
    result.assert_outcomes(passed=2)


def test_environment_proxy_is_bypassed(run: Run) -> None:
    """A proxy in the environment is bypassed, since the server is on this machine."""
    result = run(
        """
        import httpx, os, pytest, requests

        @pytest.fixture(autouse=True)
        def proxy(monkeypatch):
            for name in ("HTTP_PROXY", "http_proxy"):
                monkeypatch.setenv(name, "http://127.0.0.1:9")
            monkeypatch.setenv("NO_PROXY", "x.example")

        def test_any(image_variation_server):
            for library in (httpx, requests):
                url = image_variation_server.base_url + "/models"
                assert library.get(url).status_code == 200
            assert os.environ["NO_PROXY"] == "x.example,127.0.0.1"

        def test_ours(image_variation_client, square_png):
            image_variation_client.images.create_variation(image=square_png)

        async def test_async(image_variation_async_client, square_png):
            await image_variation_async_client.images.create_variation(image=square_png)

        def test_cassettes_change_nothing(image_variation_cassette):
            assert os.environ["NO_PROXY"] == "x.example"
        """,
        *ASYNCIO,
    )
    result.assert_outcomes(passed=4)


def test_shared_server_bypasses_the_proxy(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The views of the session fixture, as in the conformance kit, bypass a proxy."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "x.example")
    monkeypatch.delenv("no_proxy", raising=False)
    result = run(
        """
        import httpx

        def test_view(image_variation_loopback):
            with image_variation_loopback.view() as view:
                assert httpx.get(view.base_url + "/models").status_code == 200
        """
    )
    result.assert_outcomes(passed=1)
    assert os.environ["NO_PROXY"] == "x.example"


def test_one_place_has_one_marker_with_scenarios(run: Run) -> None:
    """Several markers in one list are ambiguous, while those of a base class are not."""
    result = run(
        """
        import pytest

        n2, n3 = map(pytest.mark.image_variation, ["success_b64_n2", "success_b64_n3"])

        class TestList:
            pytestmark = [n2, n3]

            def test_it(self):
                pass

        class TestBase:
            pytestmark = n2

            def test_it(self, image_variation_cassette):
                image_variation_cassette.scenario("success_url_n1")

        class TestOver(TestBase):
            pytestmark = [n3, pytest.mark.image_variation(allow_unused=True)]
        """
    )
    result.assert_outcomes(errors=1, failed=1, passed=1)
    result.stdout.fnmatch_lines(
        ["*Several image_variation markers in one place name scenarios. Name all of them in*"]
    )


def test_sdk_warning_is_ignored_for_late_fixtures(run: Run) -> None:
    """Only the SDK's warning "deprecated" is ignored, even for a fixture requested late."""
    result = run(
        """
        import openai, pytest, warnings

        FIXTURES = ["image_variation_cassette", "image_variation_server"]

        def ask(session, png):
            session.scenario("success_url_n1")
            with openai.OpenAI(base_url=session.base_url, api_key="k") as client:
                client.images.create_variation(image=png)

        @pytest.fixture(params=FIXTURES)
        def session(request):
            return request.getfixturevalue(request.param)

        def test_by_fixture(session, square_png):
            ask(session, square_png)

        @pytest.mark.parametrize("name", FIXTURES)
        def test_by_name(request, name, square_png):
            ask(request.getfixturevalue(name), square_png)

        def test_another(image_variation_server):
            with pytest.raises(DeprecationWarning):
                warnings.warn("deprecated since", DeprecationWarning)
        """
    )
    result.assert_outcomes(passed=5)


def test_suite_can_override_square_png(run: Run) -> None:
    """If a suite overrides `square_png`, the tool's folder still contains ours."""
    result = run(
        """
        import pytest

        @pytest.fixture
        def square_png(tmp_path):
            return tmp_path / "mine.png"

        def test_it(image_variation_tool):
            assert image_variation_tool.invoke({"image": "square.png"})
        """
    )
    result.assert_outcomes(passed=1)


def test_cassettes_cannot_fail_next(run: Run) -> None:
    """`fail_next` fails with cassettes, and the error names the method to call instead."""
    result = run(
        """
        import pytest

        def test_it(image_variation_cassette):
            with pytest.raises(ValueError, match=r"in order: scenario.'rate_limit'."):
                image_variation_cassette.fail_next("rate_limit")
        """
    )
    result.assert_outcomes(passed=1)


def test_model_option_sets_the_requested_model(run: Run) -> None:
    """Our client and the tool request the model of the option."""
    result = run(
        """
        def test_it(image_variation_server, image_variation_client, image_variation_tool,
                    square_png):
            image_variation_client.images.create_variation(image=square_png)
            image_variation_tool.invoke({"image": "square.png"})
            asked = [e for e in image_variation_server.journal if e.method == "POST"]
            assert [e.fields["model"] for e in asked] == ["instant", "instant"]
        """,
        "--image-variation-model=instant",
    )
    result.assert_outcomes(passed=1)


def test_samples_are_what_their_names_say(run: Run) -> None:
    """Each sample is what its name says."""
    result = run(
        """
        from langchain_image_variation import SquarePNG
        from langchain_image_variation.exceptions import InvalidImageError
        import pytest

        def test_valid(square_png, corrupt_png):
            assert SquarePNG(square_png).side == 64
            SquarePNG(corrupt_png)  # only its pixels are broken

        @pytest.mark.parametrize("name", ["non_square_png", "oversized_png", "truncated_png",
                                          "jpeg"])
        def test_invalid(request, name):
            with pytest.raises(InvalidImageError):
                SquarePNG(request.getfixturevalue(name))
        """
    )
    result.assert_outcomes(passed=5)


# Failures...


@pytest.mark.parametrize("session", ["image_variation_cassette", "image_variation_server"])
def test_unused_scenario_fails_the_test(run: Run, session: str) -> None:
    """An unused scenario fails the test, unless a marker allows it."""
    result = run(
        f"""
        import pytest

        def test_fails({session}):
            {session}.scenario("success_b64_n2")

        @pytest.mark.image_variation(allow_unused=True)
        def test_allowed({session}):
            {session}.scenario("success_b64_n2")

        def test_that_fails_anyway({session}):
            {session}.scenario("success_b64_n2")
            assert 1 == 2

        def test_that_is_skipped({session}):
            {session}.scenario("success_b64_n2")
            pytest.skip("why")
        """
    )
    result.assert_outcomes(failed=2, passed=1, skipped=1)
    messages = [
        line for line in result.outlines if line.startswith("The scenario 'success_b64_n2'")
    ]
    assert len(messages) == 1 and "expects 1 request, and got none. " in messages[0]


@pytest.mark.parametrize("session", ["image_variation_cassette", "image_variation_server"])
def test_unexpected_request_fails_the_test(run: Run, session: str) -> None:
    """An unexpected request fails the test even if the program ignores the error."""
    result = run(
        f"""
        import httpx, pytest

        def ask({session}, png, n):
            return httpx.post({session}.base_url + "/images/variations",
                              data={{"n": str(n), "response_format": "b64_json"}},
                              files={{"image": ("a.png", png)}})

        def test_fails({session}, square_png):
            {session}.scenario("success_b64_n2")
            assert ask({session}, square_png, 3).status_code == 400
            assert ask({session}, square_png, 2).status_code == 200

        @pytest.mark.image_variation(allow_unexpected=True)
        def test_allowed({session}, square_png):
            {session}.scenario("success_b64_n2")
            assert ask({session}, square_png, 3).status_code == 400
            assert ask({session}, square_png, 2).status_code == 200
        """
    )
    result.assert_outcomes(failed=1, passed=1)
    nearest = "*The closest is 'success_b64_n2': n: expected '2', got '3'.*"
    result.stdout.fnmatch_lines([nearest])


def test_late_request_is_an_error(run: Run) -> None:
    """A request from another fixture's teardown is reported."""
    result = run(
        """
        import httpx, pytest

        @pytest.fixture
        def late(image_variation_server):
            yield
            httpx.post(image_variation_server.base_url + "/images/variations")

        @pytest.mark.image_variation("endpoint_removed")
        def test_it(image_variation_server, late):
            httpx.post(image_variation_server.base_url + "/images/variations")
        """
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*every scenario has been used up*"])


@pytest.mark.parametrize(
    ("marker", "signature", "message"),
    [
        ("", "image_variation_env", "*names no scenario. Name one, such as *"),
        ('"rate_limits"', "", "*Unknown scenario 'rate_limits'. Did you mean 'rate_limit'*"),
        ('"rate_limit", strict=False', "", "*allow_unused and allow_unexpected, not strict.*"),
        ('"rate_limit", allow_unused="no"', "", "*allow_unused *must be True or False, got 'no'.*"),
        (
            '"rate_limit")\n        @pytest.mark.image_variation("endpoint_removed"',
            "",
            "*Name all of them in one marker, in the order*",
        ),
        (
            '"rate_limit"',
            "image_variation_server, image_variation_cassette",
            "*image_variation_server or image_variation_cassette, but not both*",
        ),
    ],
)
def test_mistakes_fail_with_a_message(run: Run, marker: str, signature: str, message: str) -> None:
    """A mistake fails the test with a message and without a traceback."""
    result = run(
        f"""
        import pytest

        @pytest.mark.image_variation({marker})
        def test_it({signature}):
            pass
        """
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([message])
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*During handling*")


@pytest.mark.parametrize("signature", ["", "image_variation_env"])
def test_second_session_is_refused(run: Run, signature: str) -> None:
    """A test cannot have a second session, even if it requests one by name while it runs."""
    result = run(
        f"""
        import httpx, pytest

        @pytest.mark.image_variation("rate_limit")
        def test_it(request, {signature}):
            assert httpx.post("https://x.example/v1/images/variations").status_code == 429
            request.getfixturevalue("image_variation_server")
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*image_variation_server or image_variation_cassette, but not both*"]
    )
    result.stdout.no_fnmatch_line("*KeyError*")


def test_failed_test_shows_unexpected_requests(run: Run) -> None:
    """A failed test shows unexpected requests, which the program may have swallowed."""
    result = run(
        """
        import httpx, pytest

        @pytest.mark.image_variation("success_b64_n2")
        def test_it(square_png):
            answer = httpx.post("https://x.example/v1/images/variations", data={
                "n": "3", "response_format": "b64_json"}, files={"image": ("a.png", square_png)})
            assert len(answer.json().get("data", [])) == 2
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["E *assert 0 == 2", "*image variations*", "*: n: expected '2', got '3'.*"]
    )


def test_rerun_starts_fresh(run: Run, pytester: pytest.Pytester) -> None:
    """Problems of a test's first run do not fail its second run."""
    pytester.makeconftest(
        """
        import pytest
        from _pytest.runner import runtestprotocol

        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_protocol(item, nextitem):
            for log in (False, True):
                reports = runtestprotocol(item, log=False, nextitem=nextitem)
            for report in reports:
                item.ihook.pytest_runtest_logreport(report=report)
            return True
        """
    )
    result = run(
        """
        import httpx

        RUNS = []

        def test_it(image_variation_server):
            RUNS.append(1)
            image_variation_server.scenario("endpoint_removed")
            if len(RUNS) > 1:
                httpx.post(image_variation_server.base_url + "/images/variations")
        """
    )
    result.assert_outcomes(passed=1)


def test_marker_works_in_unittest_classes(run: Run) -> None:
    """Scenarios of a TestCase's methods are checked too."""
    result = run(
        """
        import unittest, httpx, pytest

        class TestIt(unittest.TestCase):
            @pytest.mark.image_variation("endpoint_removed")
            def test_used(self):
                assert httpx.post("https://x.example/v1/images/variations").status_code == 404

            @pytest.mark.image_variation("endpoint_removed")
            def test_unused(self):
                pass
        """
    )
    result.assert_outcomes(passed=1, failed=1)


def test_help_documents_everything(run: Run) -> None:
    """Each fixture has a docstring, and the marker and each option have a line."""
    fixtures = run("", "--fixtures").stdout.str()
    assert "no docstring available" not in fixtures
    for name in ("server", "cassette", "env", "client", "async_client", "tool", "loopback"):
        assert f"image_variation_{name}" in fixtures
    run("", "--markers").stdout.fnmatch_lines(["@pytest.mark.image_variation(*scenarios*"])
    run("", "--help").stdout.fnmatch_lines(["*--image-variation-url=URL*"])


def test_every_scenario_can_be_named(run: Run) -> None:
    """Cassettes and the server know every scenario."""
    result = run(
        f"""
        import pytest

        @pytest.mark.image_variation(*{list(SCENARIOS)}, allow_unused=True)
        def test_cassettes(image_variation_cassette):
            pass

        @pytest.mark.image_variation(*{list(SCENARIOS)}, allow_unused=True)
        def test_server(image_variation_server):
            pass
        """
    )
    result.assert_outcomes(passed=2)
