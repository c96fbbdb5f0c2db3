"""The fixtures, the marker and their strictness, in suites of their own."""

import os

import pytest

from pytest_image_variation.scenarios import SCENARIOS
from tests.conftest import Run

ASYNCIO = (
    *("-p", "pytest_asyncio.plugin", "-o", "asyncio_mode=auto"),
    *("-o", "asyncio_default_fixture_loop_scope=function"),
)


# The cassettes...


def test_the_marker_plays_cassettes_to_the_vendors_sdk(run: Run) -> None:
    """The environment names them before a client exists, and the SDK's warning fails nothing."""
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


def test_the_marker_alone_is_enough(run: Run) -> None:
    """For any HTTP client, at any address, without any fixture in the test."""
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


def test_the_marker_of_a_parametrized_case_is_the_nearest(run: Run) -> None:
    """It wins over that of its function; one without scenarios only adds what it allows."""
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


def test_the_cassette_fixture(run: Run) -> None:
    """Scenarios may be asked for as the test goes, and its journal read."""
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


# The server...


def test_the_server_fixture(run: Run) -> None:
    """Faults, then the app's own answers; the journal tells both."""
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


def test_the_marker_asks_the_server_too(run: Run) -> None:
    """In a test that has the server, its scenarios are played there."""
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


def test_a_server_for_a_fixture_of_wider_scope(run: Run) -> None:
    """`image_variation_loopback` gives views to modules and sessions."""
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


def test_without_a_marker_clients_ask_the_server(run: Run) -> None:
    """The environment, both clients and the tool."""
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


def test_the_clients_and_the_tool_are_played_cassettes_to(run: Run) -> None:
    """The same fixtures, with a marker."""
    result = run(
        """
        import pytest

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
            assert "limit has been reached" in image_variation_tool.invoke({"image": "square.png"})
        """,
        *ASYNCIO,
    )
    result.assert_outcomes(passed=3)


def test_a_proxy_of_the_environment_is_not_asked(run: Run) -> None:
    """The server is on this machine, whatever proxy a company's machines name."""
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


def test_the_shared_server_is_asked_directly_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its views come from the fixture of the session, as those of the conformance kit do."""
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


def test_markers_of_one_place_are_one_marker(run: Run) -> None:
    """Of several in one list, which would be played cannot be told; those of a base are others."""
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


def test_the_sdks_own_warning_fails_no_test_that_opens_a_door_as_it_runs(run: Run) -> None:
    """Its text is "deprecated"; any other warning is the suite's own affair."""
    result = run(
        """
        import openai, pytest, warnings

        DOORS = ["image_variation_cassette", "image_variation_server"]

        def ask(door, png):
            door.scenario("success_url_n1")
            with openai.OpenAI(base_url=door.base_url, api_key="k") as client:
                client.images.create_variation(image=png)

        @pytest.fixture(params=DOORS)
        def door(request):
            return request.getfixturevalue(request.param)

        def test_by_fixture(door, square_png):
            ask(door, square_png)

        @pytest.mark.parametrize("name", DOORS)
        def test_by_name(request, name, square_png):
            ask(request.getfixturevalue(name), square_png)

        def test_another(image_variation_server):
            with pytest.raises(DeprecationWarning):
                warnings.warn("deprecated since", DeprecationWarning)
        """
    )
    result.assert_outcomes(passed=5)


def test_a_suite_with_a_square_png_of_its_own(run: Run) -> None:
    """The tool's folder has ours all the same."""
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


def test_faults_of_cassettes_are_scenarios(run: Run) -> None:
    """The mistake is told with what to call instead."""
    result = run(
        """
        import pytest

        def test_it(image_variation_cassette):
            with pytest.raises(ValueError, match=r"in order: scenario.'rate_limit'."):
                image_variation_cassette.fail_next("rate_limit")
        """
    )
    result.assert_outcomes(passed=1)


def test_the_model_option(run: Run) -> None:
    """What our client and the tool ask for, then."""
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


def test_the_samples(run: Run) -> None:
    """Each is what its name says."""
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


# What fails a test...


@pytest.mark.parametrize("door", ["image_variation_cassette", "image_variation_server"])
def test_a_scenario_that_was_never_used_fails_the_test(run: Run, door: str) -> None:
    """Unless a marker allows it."""
    result = run(
        f"""
        import pytest

        def test_fails({door}):
            {door}.scenario("success_b64_n2")

        @pytest.mark.image_variation(allow_unused=True)
        def test_allowed({door}):
            {door}.scenario("success_b64_n2")

        def test_that_fails_anyway({door}):
            {door}.scenario("success_b64_n2")
            assert 1 == 2

        def test_that_is_skipped({door}):
            {door}.scenario("success_b64_n2")
            pytest.skip("why")
        """
    )
    result.assert_outcomes(failed=2, passed=1, skipped=1)
    told = [line for line in result.outlines if line.startswith("The scenario 'success_b64_n2'")]
    assert len(told) == 1 and "expects 1 request, and got none. " in told[0]


@pytest.mark.parametrize("door", ["image_variation_cassette", "image_variation_server"])
def test_a_request_that_no_scenario_expects_fails_the_test(run: Run, door: str) -> None:
    """Though the program swallowed the error; unless a marker allows it."""
    result = run(
        f"""
        import httpx, pytest

        def ask({door}, png, n):
            return httpx.post({door}.base_url + "/images/variations",
                              data={{"n": str(n), "response_format": "b64_json"}},
                              files={{"image": ("a.png", png)}})

        def test_fails({door}, square_png):
            {door}.scenario("success_b64_n2")
            assert ask({door}, square_png, 3).status_code == 400
            assert ask({door}, square_png, 2).status_code == 200

        @pytest.mark.image_variation(allow_unexpected=True)
        def test_allowed({door}, square_png):
            {door}.scenario("success_b64_n2")
            assert ask({door}, square_png, 3).status_code == 400
            assert ask({door}, square_png, 2).status_code == 200
        """
    )
    result.assert_outcomes(failed=1, passed=1)
    nearest = "*The closest is 'success_b64_n2': n: expected '2', got '3'.*"
    result.stdout.fnmatch_lines([nearest])


def test_what_comes_after_the_test_fails_it_too(run: Run) -> None:
    """A request of another fixture's teardown is an error there."""
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
def test_mistakes_are_told(run: Run, marker: str, signature: str, message: str) -> None:
    """In one sentence, without a traceback."""
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
def test_a_second_door_is_refused_however_it_is_opened(run: Run, signature: str) -> None:
    """Also by name, as the test runs."""
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


def test_a_test_that_fails_for_its_own_reason_shows_ours_too(run: Run) -> None:
    """An app that swallows a refusal leaves nothing else to go by."""
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


def test_a_test_that_is_run_again_begins_anew(run: Run, pytester: pytest.Pytester) -> None:
    """What failed its first run is not held against the second."""
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


def test_unittest_classes_are_held_to_it_too(run: Run) -> None:
    """A marker on a method of a TestCase works as elsewhere."""
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


def test_help_and_fixtures_are_documented(run: Run) -> None:
    """Each fixture has a docstring, the marker and the options a line."""
    fixtures = run("", "--fixtures").stdout.str()
    assert "no docstring available" not in fixtures
    for name in ("server", "cassette", "env", "client", "async_client", "tool", "loopback"):
        assert f"image_variation_{name}" in fixtures
    run("", "--markers").stdout.fnmatch_lines(["@pytest.mark.image_variation(*scenarios*"])
    run("", "--help").stdout.fnmatch_lines(["*--image-variation-url=URL*"])


def test_each_scenario_can_be_asked_for_at_each_door(run: Run) -> None:
    """By its name in a marker."""
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
