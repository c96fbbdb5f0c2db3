"""The kit as users run it: options, lists, outcomes and reports."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from langchain_image_variation.contract import (
    SIZES,
    CreateImageVariationRequest,
    ImagesResponse,
)
from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.images.png import SquarePNG
from langchain_image_variation.server import create_app
from pytest_image_variation.conformance import Capabilities, Server
from pytest_image_variation.conformance.probe_request import BOUNDARY, Field, File, ProbeRequest
from pytest_image_variation.conformance.rule import Rule, Violation
from pytest_image_variation.conformance.server_probe import ServerProbe
from pytest_image_variation.conformance.server_tests import SERVER_RULES
from pytest_image_variation.forms import Form
from pytest_image_variation.samples import square_png
from tests.conftest import Run
from tests.http.raw_server import raw_server, response
from tests.server.serving import serving

KEY = "sk-of-the-kit"
COUNT = len(SERVER_RULES)


class BlindEngine(InstantEngine):
    """An engine that does not look at the source, so that the server breaks one rule."""

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Return flat images."""
        source = SquarePNG(square_png(8))
        return super().create_variation(request.model_copy(update={"image": source}))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of our app on a real socket. Its engine accepts corrupt pixels."""
    app = create_app(BlindEngine(), api_key=KEY, store_dir=tmp_path_factory.mktemp("store"))
    with serving(app) as root:
        yield f"{root}/v1"


@pytest.fixture
def kit(run: Run, address: str) -> Run:
    """Run the kit's command line against the app."""

    def kit(*arguments: str) -> pytest.RunResult:
        return run(
            "",
            *("--pyargs", "pytest_image_variation.conformance"),
            *(f"--image-variation-url={address}", f"--image-variation-api-key={KEY}"),
            *arguments,
        )

    return kit


def test_without_a_url_everything_is_skipped(run: Run) -> None:
    """Without a URL, every rule is skipped, and the reason says which option to pass."""
    result = run("", "--pyargs", "pytest_image_variation.conformance", "-rs")
    result.assert_outcomes(skipped=COUNT)
    result.stdout.fnmatch_lines(
        ["*No server to check. Pass --image-variation-url http://HOST:PORT/v1, *"]
    )


def test_the_command_line_reports_each_failure(kit: Run, pytester: pytest.Pytester) -> None:
    """A failure has the rule, what was found and how to repeat it, and a table has the counts."""
    result = kit("--image-variation-report=reports/kit.json", "-k", "broken-pixels or n-zero")
    result.assert_outcomes(failed=1, passed=1, deselected=COUNT - 2)
    result.stdout.fnmatch_lines(
        [
            "SHOULD refuse-broken-pixels: A PNG whose pixels cannot be decompressed is *",
            "got: 200 {*",
            "* -m pytest_image_variation.conformance.images broken-pixels.png | curl -i *",
            "* conformance of image variations *",
            "*passed*failed*xfailed*skipped*error*",
            "MUST *1 *0 *0 *0 *0",
            "SHOULD *0 *1 *0 *0 *0",
            "SHOULD failed: refuse-broken-pixels: *",
        ]
    )
    report = json.loads((pytester.path / "reports" / "kit.json").read_text())
    assert report["target"].startswith("http://127.0.0.1:")
    zeros = {"passed": 0, "failed": 0, "xfailed": 0, "skipped": 0, "error": 0}
    assert report["summary"]["SHOULD"] == {**zeros, "failed": 1}
    passed, failed = report["rules"]
    assert (passed["id"], passed["outcome"], passed["curl"]) == ("refuse-n-zero", "passed", [])
    assert (failed["id"], failed["level"], failed["outcome"]) == (
        "refuse-broken-pixels",
        "SHOULD",
        "failed",
    )
    assert "$IMAGE_VARIATION_API_KEY" in failed["curl"][0]
    assert KEY not in json.dumps(report) + str(result.stdout)


def test_weaker_level_xfails(kit: Run) -> None:
    """A broken rule of a weaker level xfails, and the summary still lists it."""
    result = kit("--image-variation-level=must", "-k", "broken-pixels")
    result.assert_outcomes(xfailed=1, deselected=COUNT - 1)
    result.stdout.fnmatch_lines(["SHOULD xfailed: refuse-broken-pixels: *"])


def test_levels_are_markers(kit: Run) -> None:
    """You can select the rules of one level."""
    result = kit("-m", "image_variation_may", "--collect-only", "-q")
    of_level = sum(rule.level == "MAY" for rule in SERVER_RULES.values())
    result.stdout.fnmatch_lines([f"{of_level}/{COUNT} tests collected *"])


def test_listed_rules_are_skipped_or_expected_to_fail(kit: Run, pytester: pytest.Pytester) -> None:
    """Listed rules are skipped or expected to fail, and one that passes unexpectedly fails."""
    skips = "\ufeffrefuse-n-zero  # too dear\r\n\r\n# Ours.\r\n"
    (pytester.path / "skips.txt").write_bytes(skips.encode())
    (pytester.path / "xfails.txt").write_text("refuse-broken-pixels\nrefuse-n-word # known\n")
    result = kit(
        *("--image-variation-skips=skips.txt", "--image-variation-xfails=xfails.txt"),
        *("-k", "n-zero or refuse-n-word or broken-pixels", "-rs"),
    )
    result.assert_outcomes(skipped=1, xfailed=1, failed=1, deselected=COUNT - 3)
    result.stdout.fnmatch_lines(
        [
            "*XPASS(strict)*known*",
            "MUST *1 *0 *0 *1 *0",
            "SHOULD *0 *0 *1 *0 *0",
            "SHOULD xfailed: refuse-broken-pixels: *",
            "*too dear*",
        ]
    )
    result.stdout.no_fnmatch_line("*failed: refuse-n-word*")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--image-variation-skips=wrong.txt", "*wrong.txt, line 2: unknown rule id 'n-zero'.*"),
        ("--image-variation-xfails=wrong.txt", "* Did you mean 'refuse-n-zero'?*"),
        ("--image-variation-xfails=none.txt", "*Cannot read the list 'none.txt'.*"),
        ("--image-variation-report=wrong.txt/kit.json", "*cannot write 'kit.json' there.*"),
        ("--image-variation-report=.", "* cannot write * there.*"),
        (
            "--image-variation-capabilities=n=4",
            "*Unknown capability 'n'. The capabilities are: url, *",
        ),
        ("--image-variation-capabilities=max_n=four", "*Invalid value 'four' for max_n.*"),
        ("--image-variation-capabilities=max_n=11", "*max_n must be an integer from 1 to 10*"),
    ],
)
def test_invalid_options_end_the_run(
    kit: Run, pytester: pytest.Pytester, option: str, message: str
) -> None:
    """An invalid option ends the run at once, with a message."""
    (pytester.path / "wrong.txt").write_text("refuse-n-zero\nn-zero\n")
    result = kit(option, "-p", "xdist.plugin", "-n", "2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


BESIDE_RULES = """
import pytest
from pytest_image_variation.conformance import ServerConformanceTests

class TestMine(ServerConformanceTests):
    @pytest.fixture
    def server(self):
        raise OSError("did not start")

    @pytest.mark.image_variation_must
    def test_of_my_own(self):
        pass
"""


def test_crash_is_not_a_violation(run: Run, pytester: pytest.Pytester) -> None:
    """A crash is reported as an error that no list excuses, and not as a violation."""
    (pytester.path / "xfails.txt").write_text("answer-status\n")
    options = ("--image-variation-xfails=xfails.txt", "--image-variation-report=kit.json")
    result = run(BESIDE_RULES, *options, "-k", "answer-status or my_own")
    result.assert_outcomes(passed=1, errors=1, deselected=COUNT - 1)
    report = json.loads((pytester.path / "kit.json").read_text())
    (row,) = report["rules"]
    assert (row["outcome"], row["got"]) == ("error", "OSError: did not start")
    assert report["exit_status"] == 1


def test_undeclared_capabilities_are_skipped(kit: Run) -> None:
    """Rules about undeclared capabilities are skipped, and the reason says so."""
    result = kit(
        "--image-variation-capabilities=url=no max_n=1 sizes=512x512,768x768",
        *("-k", "url-read or n-two or size-256x256", "-rs"),
    )
    result.assert_outcomes(skipped=3, deselected=COUNT - 3)
    result.stdout.fnmatch_lines_random(
        [
            "*url is not among the server's capabilities.",
            "*n=2 is not among the server's capabilities.",
            "*The size 256x256 is not among the server's capabilities.",
        ]
    )


def test_collect_only_writes_no_report(kit: Run, pytester: pytest.Pytester) -> None:
    """With `--collect-only`, no report is written, and an earlier one stays."""
    (pytester.path / "kit.json").write_text("{}")
    kit("--image-variation-report=kit.json", "--collect-only", "-q")
    assert (pytester.path / "kit.json").read_text() == "{}"
    assert [path.name for path in pytester.path.glob("kit*")] == ["kit.json"]


INTERRUPTING = """
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    if "answer-object" in item.name:
        pytest.exit("enough")
"""


def test_an_interrupted_run_is_reported(kit: Run, pytester: pytest.Pytester) -> None:
    """An interrupted run reports the rules checked so far, and pytest's exit status."""
    pytester.makepyfile(interrupting=INTERRUPTING)
    pytester.syspathinsert()
    kit("--image-variation-report=kit.json", "-p", "interrupting", "-k", "answer-")
    report = json.loads((pytester.path / "kit.json").read_text())
    assert report["exit_status"] == pytest.ExitCode.INTERRUPTED
    assert [row["id"] for row in report["rules"]] == ["answer-status", "answer-content-type"]


@pytest.mark.slow
def test_xdist_reports_all_workers(kit: Run, pytester: pytest.Pytester) -> None:
    """With xdist, the summary and the report cover all workers."""
    result = kit(
        *("-p", "xdist.plugin", "-n", "2", "--image-variation-report=kit.json"),
        *("-k", "refuse-n or refuse-broken"),
    )
    result.assert_outcomes(failed=1, passed=9)
    result.stdout.fnmatch_lines(["SHOULD failed: refuse-broken-pixels: *"])
    report = json.loads((pytester.path / "kit.json").read_text())
    assert len(report["rules"]) == 10
    assert [row["id"] for row in report["rules"] if row["curl"]] == ["refuse-broken-pixels"]


def test_unreachable_server_has_one_failure(run: Run) -> None:
    """An unreachable server causes one failure, and the other rules are skipped."""
    result = run(
        "",
        *("--pyargs", "pytest_image_variation.conformance"),
        "--image-variation-url=http://127.0.0.1:9/v1",
    )
    result.assert_outcomes(failed=1, skipped=COUNT - 1)
    result.stdout.fnmatch_lines(
        ["MUST answer-status: *", "got: no response: ConnectError. Check that *"]
    )


def test_unreachable_server_fails_any_selection(run: Run) -> None:
    """An unreachable server fails the run even if the rule that reports it is not selected."""
    result = run(
        "",
        *("--pyargs", "pytest_image_variation.conformance", "-m", "image_variation_may"),
        "--image-variation-url=http://127.0.0.1:9/v1",
    )
    of_level = sum(rule.level == "MAY" for rule in SERVER_RULES.values())
    result.assert_outcomes(failed=1, skipped=of_level - 1, deselected=COUNT - of_level)


SUBCLASSES = """
import pytest
from langchain_image_variation.contract import Image, ImagesResponse
from langchain_image_variation.engines.instant import InstantEngine
from pytest_image_variation.conformance import (
    Capabilities, ClientConformanceTests, EngineConformanceTests, Server, ServerConformanceTests)

class TestServer(ServerConformanceTests):
    @pytest.fixture
    def server(self, image_variation_loopback):
        with image_variation_loopback.view() as view:
            yield Server(view.base_url, capabilities=Capabilities(max_n=2))

class TestClient(ClientConformanceTests):
    @pytest.fixture
    def create_variation(self):
        return lambda base_url, api_key, image, **fields: [image]

class TestNoClient(ClientConformanceTests):
    pass

class Short(InstantEngine):
    def create_variation(self, request):
        return ImagesResponse(created=1, data=super().create_variation(request).data[:1])

class TestEngine(EngineConformanceTests):
    @pytest.fixture
    def engine(self):
        return Short()
"""


def test_each_class_works_in_a_subclass(run: Run) -> None:
    """Each class of the kit works in a subclass that provides its one fixture."""
    selection = "(TestServer and n-one) or client-asks or client-raises-rate or engine-n"
    result = run(SUBCLASSES, "-k", selection, "-rs")
    result.assert_outcomes(passed=3, failed=3, skipped=2, deselected=count_of_subclass_tests() - 8)
    result.stdout.fnmatch_lines(
        [
            "MUST client-asks: It sends POST /images/variations below the base URL.",
            "got: it sent nothing",
            "got: it returned 1 images",
            "got: 1 for n=10",
            "request: model=dall-e-2 n=10 response_format=b64_json size=256x256 image=64x64",
            "*Give the subclass a fixture `create_variation` *",
        ]
    )


ALONE = """
import asyncio, gc, time, weakref
import httpx, pytest
from langchain_image_variation.engines.instant import InstantEngine
from pytest_image_variation.conformance import (
    Capabilities, EngineConformanceTests, Server, ServerConformanceTests)

class One(httpx.MockTransport):
    # Equal transports: two servers with the same URL, one after the other.
    def __eq__(self, other):
        return True
    __hash__ = None

class TestFirst(ServerConformanceTests):
    @pytest.fixture
    def server(self):
        return Server("http://one/v1", transport=One(lambda request: httpx.Response(201)))

class TestSecond(ServerConformanceTests):
    @pytest.fixture
    def server(self):
        return Server("http://one/v1", transport=One(lambda request: httpx.Response(418)))

@pytest.fixture(scope="session")
def shared():
    return InstantEngine()

class TestAll(EngineConformanceTests):
    @pytest.fixture
    def engine(self, shared):
        return shared

class TestDeterministic(EngineConformanceTests):
    deterministic = True

    @pytest.fixture
    def engine(self, shared):
        return shared

class OfOneLoop:
    loop = None

    async def create_variation(self, request):
        self.loop = self.loop or asyncio.get_running_loop()
        assert self.loop is asyncio.get_running_loop()
        return InstantEngine().create_variation(request)

class TestOneLoop(EngineConformanceTests):
    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls):
        return OfOneLoop()

alive = weakref.WeakSet()

class Large(InstantEngine):
    def __init__(self):
        gc.collect()
        alive.add(self)
        assert len(alive) < 3

class TestLarge(EngineConformanceTests):
    @pytest.fixture
    def engine(self):
        return Large()

class Mixing:
    def create_variation(self, request):
        self.request = request
        time.sleep(0.02)
        mixed = self.request.model_copy(update={"n": request.n})
        return InstantEngine().create_variation(mixed)

class TestMixing(EngineConformanceTests):
    deterministic = True

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls):
        return Mixing()

class TestOtherSize(EngineConformanceTests):
    capabilities = Capabilities(sizes=("768x768",))

    @pytest.fixture
    def engine(self):
        return InstantEngine()
"""


@pytest.mark.slow
def test_classes_do_not_share_responses(run: Run) -> None:
    """Classes with equal servers or the same engine are separate, and engines are released."""
    selection = (
        "answer-status or (TestAll and same-again) or (TestDeterministic and same-again) "
        "or (TestOneLoop and size) or (TestLarge and takes) or (TestMixing and at-once) "
        "or (TestOtherSize and returns)"
    )
    result = run(ALONE, "-k", selection, "-rs")
    result.assert_outcomes(failed=4, passed=10, skipped=1, deselected=2 * COUNT + 6 * 26 - 15)
    result.stdout.fnmatch_lines(
        [
            "got: 201",
            "got: 418",
            "got: request * of 4 got other images than when sent alone",
            "An engine's sizes must include one of 256x256, 512x512, 1024x1024.",
            "SKIPPED * The engine is not declared deterministic.",
        ]
    )


def count_of_subclass_tests() -> int:
    """Return how many tests the subclasses have."""
    from pytest_image_variation.conformance.client_tests import CLIENT_RULES
    from pytest_image_variation.conformance.engine_tests import ENGINE_RULES

    return COUNT + 2 * len(CLIENT_RULES) + len(ENGINE_RULES)


def test_ids_are_unique_and_texts_are_sentences() -> None:
    """In all three tables, ids are unique and texts are sentences."""
    from pytest_image_variation.conformance import rule_lists
    from pytest_image_variation.conformance.client_rules import RULES as CLIENT
    from pytest_image_variation.conformance.engine_rules import RULES as ENGINE

    rules: list[Rule[Any]] = [*SERVER_RULES.values(), *CLIENT, *ENGINE]
    assert len({rule.id for rule in rules}) == len(rules) == len(rule_lists.IDS)
    assert all(rule.text.endswith(".") and len(rule.text) < 140 for rule in rules)


def test_ids_can_be_searched_for() -> None:
    """Each id that a report shows is written in full in one of the modules of rules."""
    from pytest_image_variation.conformance import rule_lists

    folder = Path(rule_lists.__file__).parent
    source = "".join(path.read_text("utf-8") for path in folder.glob("*_rules.py"))
    assert not [id for id in rule_lists.IDS if f'"{id}"' not in source]


def test_each_size_has_a_rule_for_servers_and_one_for_engines() -> None:
    """The sizes of the contract have one rule each, for servers and for engines."""
    from pytest_image_variation.conformance import rule_lists

    ids = {f"{prefix}size-{size}" for prefix in ("", "engine-") for size in SIZES}
    assert ids <= {*rule_lists.IDS}


REQUESTS = {
    "form": ProbeRequest(
        parts=(
            File("rgb.png", file_name="b\u00e4r.PNG", content_type="application/octet-stream"),
            Field("n", "2"),
            Field("user", "it's \u00e9 $HOME; @x <y"),
        )
    ),
    "two": ProbeRequest(parts=(File("rgb.png"), File("rgb.png"))),
    "text": ProbeRequest(body="--a\r\nb: 'c'\\\r\n\r\n", content_type="multipart/form-data"),
    "unclosed": ProbeRequest(parts=(File("rgb.png"), Field("n", "2")), is_closed=False),
    "none": ProbeRequest(),
    "wrong": ProbeRequest(body="{}", content_type="application/json", key="wrong"),
    "get": ProbeRequest("GET", "/models", headers=(("range", "bytes=0-7"),), key="none"),
}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("probe_request", REQUESTS.values(), ids=REQUESTS)
def test_curl_sends_the_same_request(
    probe_request: ProbeRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Curl and the kit send the same as far as a server is concerned.

    The kit's Python need not be the one on the shell's path.
    """
    (tmp_path / "python").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("IMAGE_VARIATION_API_KEY", KEY)
    with raw_server(*[response(200, b"{}")] * 2) as server:
        ServerProbe(Server(server.base_url, KEY)).send(probe_request)
        command = probe_request.curl(server.base_url, with_key=True)
        subprocess.run(["bash", "-o", "pipefail", "-c", command], check=True, timeout=120)
        kit, curl = (parse_request(received) for received in server.requests)
    assert curl == kit


def parse_request(request: bytes) -> dict[str, object]:
    """Return the parts of a request that a server looks at."""
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    kind = headers.get("content-type", "")
    headers_read = {k: headers.get(k) for k in ("authorization", "range", "host")}
    form = Form.parse(kind, body)
    if form.parts:
        kind, body = kind.partition(";")[0], b""
    return {"first": first, **headers_read, "type": kind, "form": form, "body": body}


@pytest.mark.slow
def test_server_checks_need_no_extra_server() -> None:
    """Checks of a server need neither the extra `server` nor vcrpy."""
    code = (
        "import sys\n"
        "for name in ('starlette', 'uvicorn', 'vcr'): sys.modules[name] = None\n"
        "import pytest_image_variation.conformance.rule_lists\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_images_do_not_contain_the_boundary() -> None:
    """No image contains the boundary of the form, which would break it."""
    from pytest_image_variation.conformance.images import IMAGES, make_image

    assert not [name for name in IMAGES if BOUNDARY.encode() in make_image(name)]


def test_capabilities_round_trip() -> None:
    """Capabilities survive as text, which has only values that differ from the defaults."""
    text = "url=no max_n=4 sizes=512x512,768x768 url_ttl=2.5"
    assert str(Capabilities.parse(text)) == text
    assert str(Capabilities()) == ""
    assert Capabilities.parse(text).response_format == "b64_json"
    with pytest.raises(ValueError, match="At least one of url and b64_json"):
        Capabilities(url=False, b64_json=False)


def test_rate_limit_is_waited_for() -> None:
    """A rate limit is waited for, and is not a violation."""
    busy = response(429, b"{}", retry_after="0")
    with raw_server(busy, busy, response(200, b'{"data": [{}]}')) as server:
        probe = ServerProbe(Server(server.base_url))
        probe.variation().require_success()
        assert len(server.requests) == 3


def test_violation_does_not_show_the_key() -> None:
    """A violation does not show the key, even if the server repeats it."""
    with raw_server(response(400, f"the key {KEY}".encode())) as server:
        with pytest.raises(Violation) as caught:
            ServerProbe(Server(server.base_url, KEY)).variation().require_success()
    assert KEY not in f"{caught.value.got}{caught.value.curl}"
    assert "the key ***" in caught.value.got
