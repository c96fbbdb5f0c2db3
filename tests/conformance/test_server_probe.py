"""How the probe sends requests, and how rules handle strange responses."""

import json
import re
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from langchain_image_variation.hosted.budget import MAX_ANSWER_BYTES
from pytest_image_variation.conformance import Capabilities, Server
from pytest_image_variation.conformance.rule import Violation
from pytest_image_variation.conformance.server_probe import ServerProbe
from pytest_image_variation.conformance.server_tests import SERVER_RULES
from pytest_image_variation.samples import square_png
from tests.conformance.broken_copies import broken_rules
from tests.conftest import Run
from tests.http.raw_server import hang_up, raw_server, response, stall, trickle

KEY = "sk-of-the-asker"
COUNT = len(SERVER_RULES)
ERROR = {"message": "No.", "type": "invalid_request_error", "param": None, "code": None}


def constant_server(content: object, status: int = 200, **headers: str) -> Server:
    """Return a server that gives every request the same response."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    kind = {"content-type": "application/json"}
    others = {name.replace("_", "-"): value for name, value in headers.items()}

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, content=body, headers={**kind, **others})

    return Server("http://strange/v1", KEY, transport=httpx.MockTransport(answer))


def violation_of(rule: str, server: Server) -> str:
    """Return what a broken rule reports."""
    with pytest.raises(Violation) as caught:
        SERVER_RULES[rule].check(ServerProbe(server))
    return caught.value.got


@pytest.mark.slow
def test_hanging_server_gets_one_request(run: Run) -> None:
    """If a server hangs, one test fails after the timeout, and the others do not wait again."""
    with raw_server(stall) as server:
        result = run(
            "",
            *("--pyargs", "pytest_image_variation.conformance"),
            *(f"--image-variation-url={server.base_url}", "--image-variation-timeout=0.1"),
        )
        result.assert_outcomes(failed=1, skipped=COUNT - 1)
        result.stdout.fnmatch_lines(["got: no response: *Timeout after 0.1 seconds"])
        assert server.connections == 1


def test_timeout_covers_the_whole_response() -> None:
    """The timeout covers the whole response, even if a byte arrives now and then."""
    body = response(200, b" " * 1000)
    with raw_server(trickle(body, head_length=len(body) - 1000)) as server:
        violation = violation_of("answer-status", Server(server.base_url, timeout=0.1))
    assert re.fullmatch("no response: [A-Z][a-z]+Timeout after 0.1 seconds", violation)


def test_endless_response_is_cut_off() -> None:
    """A response without end is cut off."""
    piece = b" " * 2**24
    sizes = []

    class Endless(httpx.SyncByteStream):
        def __iter__(self) -> Any:
            while True:
                sizes.append(len(piece))
                yield piece

    transport = httpx.MockTransport(lambda request: httpx.Response(200, stream=Endless()))
    assert "more than 268,435,456 bytes" in violation_of(
        "answer-status", Server("http://strange/v1", transport=transport)
    )
    assert sum(sizes) <= MAX_ANSWER_BYTES + len(piece)


@pytest.mark.parametrize(
    ("reaction", "expected"),
    [
        (hang_up, "RemoteProtocolError. The connection was closed, or the response is not HTTP."),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "RemoteProtocolError. The connection was closed, *"),
    ],
    ids=["hang up", "no HTTP"],
)
def test_missing_response_is_explained(reaction: Any, expected: str) -> None:
    """A missing response is explained in our own words, not in a library's."""
    with raw_server(reaction) as server:
        violation = violation_of("answer-status", Server(server.base_url))
    assert violation.startswith(f"no response: {expected.rstrip('*')}")


def test_missing_tls_is_explained() -> None:
    """A server without TLS gets another message than one that is not running."""

    def talk(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1)
            connection.sendall(response(400))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=talk, args=(listener,))
        thread.start()
        violation = violation_of(
            "answer-status", Server(f"https://127.0.0.1:{listener.getsockname()[1]}/v1")
        )
        thread.join(5)
    assert violation.endswith("The certificate is not trusted, or the server does not speak TLS.")


def test_cookies_are_not_sent_back() -> None:
    """Cookies are not sent back, since a session could admit a request without a key."""
    answer = response(200, b'{"data": [{}]}', set_cookie="session=1; Path=/")
    with raw_server(answer) as server:
        probe = ServerProbe(Server(server.base_url, KEY))
        probe.variation()
        probe.variation(n="1")
        assert len(server.requests) == 2
        assert not [head for head in server.requests if b"\r\ncookie:" in head.lower()]


@pytest.mark.parametrize("seconds", ["nan", "-1", "soon", "0"])
def test_invalid_retry_after_waits_a_second(seconds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An invalid retry-after means one second, and any other value the number of seconds."""
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    answers = iter([httpx.Response(429, headers={"retry-after": seconds}), httpx.Response(200)])
    transport = httpx.MockTransport(lambda request: next(answers))
    ServerProbe(Server("http://strange/v1", transport=transport)).variation().require_success()
    assert waits == [0.0 if seconds in ("0", "-1") else 1.0]


def test_endless_rate_limit_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate limit without end breaks only the rule that a legal request is answered."""
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    assert broken_rules(constant_server({"error": ERROR}, 429, retry_after="30")) == {
        "answer-status"
    }
    assert waits == [30.0] * 5


STRANGE = {
    "deep": b"[" * 100_000,
    "huge": b'{"created": 1' + b"0" * 400 + b', "data": [{"b64_json": "AAAA"}]}',
    "bracket": {"created": 1, "data": [{"url": "http://[bad"}]},
    "no host": {"created": 1, "data": [{"url": "http://", "b64_json": 7}]},
    "no port": {"created": 1, "data": [{"url": "https://strange:99999/1.png?a"}]},
    "surrogate": b'{"created": "\\ud800", "data": [{"url": "\\ud800"}], "\\ud800": 1}',
    "other encoding": json.dumps({"created": 1, "data": [{}]}).encode("utf-16"),
    "odd error": {"error": {"message": [], "type": {}, "param": 7, "code": [None]}, "\x1b[31m": 1},
    "terminal": b"\x1b[31m\r\n\x07 red",
}


@pytest.mark.parametrize(
    ("status", "claims"),
    [(200, Capabilities()), (200, Capabilities(b64_json=False)), (400, Capabilities())],
    ids=["200", "200 url", "400"],
)
@pytest.mark.parametrize("content", STRANGE.values(), ids=STRANGE)
def test_strange_responses_get_an_outcome(
    content: object, status: int, claims: Capabilities
) -> None:
    """Whatever the response is, each rule gets an outcome and a short message."""
    server = constant_server(
        content, status, x_request_id="\x1b[2J" if status == 400 else "r" * 5000
    )
    server = Server(server.base_url, KEY, None, claims, server.transport)
    probe = ServerProbe(server)
    for id in broken_rules(server):
        with pytest.raises(Violation) as caught:
            SERVER_RULES[id].check(probe)
        assert caught.value.got.isprintable()
        assert len(caught.value.got) < 500


@pytest.mark.parametrize(
    ("rule", "content", "status"),
    [
        ("answer-status", {"error": f"{KEY} is wrong"}, 401),
        ("answer-status", b" " * 280 + f"{'.' * 285} {KEY}".encode(), 401),
        ("error-type", {"error": {**ERROR, "type": f"no {KEY}"}}, 400),
        ("answer-created", {"created": KEY, "data": [{}]}, 200),
        ("answer-keys", {"created": 1, "data": [{}], KEY: 1}, 200),
        ("url-absolute", {"data": [{"url": f"/f?{'a' * 70}={KEY}"}]}, 200),
        ("url-picture", {"data": [{"url": f"http://strange/f.png?key={KEY}"}]}, 200),
    ],
)
def test_violations_never_show_the_key(rule: str, content: object, status: int) -> None:
    """No violation shows the key, even if the server repeats it where the text is cut off."""

    def answer(request: httpx.Request) -> httpx.Response:
        plain = request.method == "GET" or b'name="n"' not in request.read()
        good = {"created": 1, "data": [{"b64_json": "AAAA"}]}
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        if rule == "error-type" and plain:
            return httpx.Response(200, json=good)
        return httpx.Response(status, content=body)

    server = Server("http://strange/v1", KEY, transport=httpx.MockTransport(answer))
    with pytest.raises(Violation) as caught:
        SERVER_RULES[rule].check(ServerProbe(server))
    message = f"{caught.value.got}{caught.value.curl}"
    assert not [length for length in range(4, len(KEY)) if KEY[:length] in message]


HINTS = {
    401: "Check the API key.",
    404: "Check the URL http://strange/v1, which must include the /v1.",
    307: "The server redirects to '/there'. Pass the final URL, as redirects are ignored.",
    422: "If the server requires a model, pass --image-variation-model.",
}


@pytest.mark.parametrize("status", HINTS)
def test_a_hint_names_the_options_to_check(status: int) -> None:
    """If a server responds without images, the message says which options to check."""
    assert violation_of(
        "answer-status", constant_server(b"No", status, location="/there")
    ).endswith(f"({HINTS[status]})")


def test_server_without_images_has_one_failure() -> None:
    """If a server returns no images, rules about errors are skipped."""
    assert broken_rules(constant_server({"error": ERROR}, 401, x_request_id="1")) == {
        "answer-status"
    }
    page = constant_server(b"<html>Welcome</html>", content_type="text/html", x_request_id="1")
    assert broken_rules(page) & {id for id in SERVER_RULES if not id.startswith("answer-")} == set()
    assert "answer-object" in broken_rules(page)


def test_success_without_images_is_a_violation() -> None:
    """A response with the status 200 and without images is a violation."""

    def answer(request: httpx.Request) -> httpx.Response:
        rgba = b"user" in request.read()
        data = [] if rgba else [{"b64_json": "AAAA"}]
        return httpx.Response(200, json={"created": 1, "data": data})

    server = Server("http://strange/v1", transport=httpx.MockTransport(answer))
    assert "no images: 200" in violation_of("accept-user", server)


@pytest.mark.parametrize(
    ("url", "base_url"),
    [
        (" HTTP://Strange:80/v1/ ", "http://strange/v1"),
        ("http://strange/v1/images/variations", "http://strange/v1"),
        ("http://strange/gw/v1#part", "http://strange/gw/v1"),
        ("http://strange", "http://strange"),
    ],
)
def test_base_urls_are_normalized(url: str, base_url: str) -> None:
    """Base URLs are normalized as in our own client."""
    assert Server(url).base_url.rstrip("/") == base_url


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_url": "http://[::1/v1"}, "base_url must be an http or https URL"),
        ({"base_url": "http://strange:99999/v1"}, "base_url must be an http or https URL"),
        ({"base_url": "http://me:pw@strange/v1"}, "must not contain a user name"),
        ({"base_url": "http://strange/v1?api-version=1"}, "base_url must not have a query"),
        ({"api_key": "sk-\u00e9"}, "api_key must consist of printable ASCII"),
        ({"api_key": "sk-1\n"}, "api_key must consist of printable ASCII"),
        ({"timeout": float("nan")}, "timeout must be more than 0 and at most 86,400 seconds"),
    ],
)
def test_invalid_servers_are_refused(settings: dict[str, Any], message: str) -> None:
    """Invalid settings of a server are refused at once."""
    with pytest.raises(ValueError, match=message):
        Server(**{"base_url": "http://strange/v1", **settings})


def test_runs_use_different_idempotency_keys() -> None:
    """Each run uses other idempotency keys, since a server may remember those of an earlier run."""
    keys: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers.get("idempotency-key", ""))
        return httpx.Response(200, json={"created": 1, "data": [{"b64_json": "AAAA"}]})

    for _ in range(2):
        server = Server("http://strange/v1", transport=httpx.MockTransport(answer))
        probe = ServerProbe(server)
        for id in ("accept-idempotency-key", "idempotent"):
            SERVER_RULES[id].check(probe)
    first, second = (set(filter(None, half)) for half in (keys[:4], keys[4:]))
    assert len(first) == len(second) == 2
    assert not first & second


def test_more_than_declared_is_not_a_violation() -> None:
    """A server may support more than it declares, but not return too few images."""

    def serving(most: int) -> Callable[[httpx.Request], httpx.Response]:
        def answer(request: httpx.Request) -> httpx.Response:
            n = 5 if b'name="n"' in request.read() else 1
            data = [{"b64_json": "AAAA"}] * min(n, most)
            return httpx.Response(200, json={"created": 1, "data": data})

        return answer

    claims = Capabilities(max_n=4)
    whole, cut = (
        Server("http://strange/v1", None, None, claims, httpx.MockTransport(serving(most)))
        for most in (5, 4)
    )
    SERVER_RULES["refuse-n-above"].check(ServerProbe(whole))
    assert violation_of("refuse-n-above", cut).startswith("200 ")


def test_created_is_compared_with_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    """`created` is compared with the arrival of the response, however late the rule is checked."""
    now = time.time()
    probe = ServerProbe(constant_server({"created": int(now), "data": [{"b64_json": "AAAA"}]}))
    probe.variation()
    monkeypatch.setattr("time.time", lambda: now + 3600)
    SERVER_RULES["answer-created-now"].check(probe)


@pytest.mark.parametrize("status", [401, 403, 404, 409])
def test_unsigned_url_may_get_any_client_error(status: int) -> None:
    """A URL without its signature may get any client error, such as Azure's 409."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200 if request.url.query else status)
        data = [{"url": "http://strange/f.png?sig=1"}]
        return httpx.Response(200, json={"created": 1, "data": data})

    server = Server("http://strange/v1", transport=httpx.MockTransport(answer))
    SERVER_RULES["url-signed"].check(ServerProbe(server))


def test_conflicting_request_always_differs() -> None:
    """The conflicting request differs even if neither n nor the format can differ."""
    bodies: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(request.read())
        data = [{"url": "http://strange/f.png"}]
        is_conflict = request.headers.get("idempotency-key") and bodies[-1] != bodies[-2]
        return httpx.Response(409 if is_conflict else 200, json={"created": 1, "data": data})

    claims = Capabilities(b64_json=False, max_n=1)
    server = Server("http://strange/v1", None, None, claims, httpx.MockTransport(answer))
    probe = ServerProbe(server)
    SERVER_RULES["idempotent-conflict"].check(probe)
    assert len(set(bodies)) == len(bodies) == 3


def test_short_lived_url_can_be_checked() -> None:
    """All downloads of a URL come first, before anything that may take longer."""
    urls: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            part = request.headers.get("range")
            content = square_png(256)[: 8 if part else None]
            is_expired = str(request.url) != urls[-1]
            return httpx.Response(403 if is_expired else 206 if part else 200, content=content)
        urls.append(f"http://strange/{len(urls)}.png?sig=1")
        return httpx.Response(200, json={"created": 1, "data": [{"url": urls[-1]}]})

    claims = Capabilities(b64_json=False, max_n=1)
    server = Server("http://strange/v1", None, None, claims, httpx.MockTransport(answer))
    probe = ServerProbe(server)
    for id in ("url-read", "url-again", "accept-user", "url-signed", "url-part"):
        SERVER_RULES[id].check(probe)
    assert len(urls) > 1


def test_failed_images_are_a_hint() -> None:
    """If a server says that images failed, the violation of their number says so."""
    content = {"created": 1, "data": [{"url": "https://images.example/a.png"}]}
    server = constant_server(content, x_failed_images="1")
    assert violation_of("n-two", server).startswith("1 entries (X-Failed-Images: 1): 200")
    assert violation_of("n-two", constant_server(content)).startswith("1 entries: 200")
