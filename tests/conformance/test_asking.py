"""How the kit asks a server, and what it makes of strange answers."""

import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from langchain_image_variation.hosted.answer import MAX_ANSWER_BYTES
from pytest_image_variation.conformance import Capabilities, Server
from pytest_image_variation.conformance.rule import Violation
from pytest_image_variation.conformance.server_probe import ServerProbe
from pytest_image_variation.conformance.server_tests import SERVER_RULES
from pytest_image_variation.samples import square_png
from tests.conformance.in_process import broken_rules
from tests.conftest import Run
from tests.http.raw_server import hang_up, raw_server, response, stall, trickle

KEY = "sk-of-the-asker"
COUNT = len(SERVER_RULES)
ERROR = {"message": "No.", "type": "invalid_request_error", "param": None, "code": None}


def answering(content: object, status: int = 200, **headers: str) -> Server:
    """Return a server that answers everything with the same."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    kind = {"content-type": "application/json"}
    given = {name.replace("_", "-"): value for name, value in headers.items()}

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, content=body, headers={**kind, **given})

    return Server("http://strange/v1", KEY, transport=httpx.MockTransport(answer))


def got(rule: str, server: Server) -> str:
    """Return what a broken rule says was found."""
    with pytest.raises(Violation) as caught:
        SERVER_RULES[rule].check(ServerProbe(server))
    return caught.value.got


def test_a_server_that_hangs_is_asked_once(run: Run) -> None:
    """One failure says so after the time it was given, and nothing waits for it again."""
    with raw_server(stall) as server:
        result = run(
            "",
            *("--pyargs", "pytest_image_variation.conformance"),
            *(f"--image-variation-url={server.base_url}", "--image-variation-timeout=0.1"),
        )
        result.assert_outcomes(failed=1, skipped=COUNT - 1)
        result.stdout.fnmatch_lines(["got: no response: ReadTimeout after 0.1 seconds"])
        assert server.connections == 1


def test_a_byte_now_and_then_is_no_answer() -> None:
    """The time is for the whole answer."""
    body = response(200, b" " * 1000)
    with raw_server(trickle(body, at_once=len(body) - 1000)) as server:
        told = got("answer-status", Server(server.base_url, timeout=0.1))
    assert told == "no response: ReadTimeout after 0.1 seconds"


def test_an_answer_has_an_end() -> None:
    """A server may send without end."""
    piece = b" " * 2**24
    sent = []

    class Endless(httpx.SyncByteStream):
        def __iter__(self) -> Any:
            while True:
                sent.append(len(piece))
                yield piece

    transport = httpx.MockTransport(lambda request: httpx.Response(200, stream=Endless()))
    assert "more than 268,435,456 bytes" in got(
        "answer-status", Server("http://strange/v1", transport=transport)
    )
    assert sum(sent) <= MAX_ANSWER_BYTES + len(piece)


@pytest.mark.parametrize(
    ("reaction", "told"),
    [
        (hang_up, "RemoteProtocolError. The connection was closed, or the response is not HTTP."),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "RemoteProtocolError. The connection was closed, *"),
    ],
    ids=["hang up", "no HTTP"],
)
def test_why_there_is_no_answer(reaction: Any, told: str) -> None:
    """It is said, without what a library says."""
    with raw_server(reaction) as server:
        found = got("answer-status", Server(server.base_url))
    assert found.startswith(f"no response: {told.rstrip('*')}")


def test_tls_where_there_is_none() -> None:
    """It is told from a server that is not there."""

    def talk(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1)
            connection.sendall(response(400))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=talk, args=(listener,))
        thread.start()
        found = got("answer-status", Server(f"https://127.0.0.1:{listener.getsockname()[1]}/v1"))
        thread.join(5)
    assert found.endswith("The certificate is not trusted, or the server does not speak TLS.")


def test_no_cookie_is_sent_back() -> None:
    """Else a question without a key might be let in by the session of another."""
    answer = response(200, b'{"data": [{}]}', set_cookie="session=1; Path=/")
    with raw_server(answer) as server:
        probe = ServerProbe(Server(server.base_url, KEY))
        probe.variation()
        probe.variation(n="1")
        assert len(server.requests) == 2
        assert not [head for head in server.requests if b"\r\ncookie:" in head.lower()]


@pytest.mark.parametrize("seconds", ["nan", "-1", "soon", "0"])
def test_the_kit_waits_whatever_the_header_says(
    seconds: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is no number of seconds is a second."""
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    answers = iter([httpx.Response(429, headers={"retry-after": seconds}), httpx.Response(200)])
    transport = httpx.MockTransport(lambda request: next(answers))
    ServerProbe(Server("http://strange/v1", transport=transport)).variation().require_success()
    assert waits == [0.0 if seconds in ("0", "-1") else 1.0]


def test_a_limit_that_does_not_end_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It breaks no rule but that a legal request is answered."""
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    assert broken_rules(answering({"error": ERROR}, 429, retry_after="30")) == {"answer-status"}
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
def test_strange_answers(content: object, status: int, claims: Capabilities) -> None:
    """Whatever a server answers, each rule is kept, broken or not seen, and says so in short."""
    server = answering(content, status, x_request_id="\x1b[2J" if status == 400 else "r" * 5000)
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
def test_the_key_is_nowhere(rule: str, content: object, status: int) -> None:
    """Even if the server repeats it, and even where what it says is cut off."""

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
    told = f"{caught.value.got}{caught.value.curl}"
    assert not [length for length in range(4, len(KEY)) if KEY[:length] in told]


HINTS = {
    401: "Check the API key.",
    404: "Check the URL http://strange/v1, which must include the /v1.",
    307: "The server redirects to '/there'. Pass the final URL, as redirects are ignored.",
    422: "If the server requires a model, pass --image-variation-model.",
}


@pytest.mark.parametrize("status", HINTS)
def test_what_may_be_wrong_with_the_call(status: int) -> None:
    """It is said where the server answers, but not with pictures."""
    assert got("answer-status", answering(b"No", status, location="/there")).endswith(
        f"({HINTS[status]})"
    )


def test_where_nothing_is_served_one_failure_says_so() -> None:
    """Nothing is said of errors that are about something else than what was asked."""
    assert broken_rules(answering({"error": ERROR}, 401, x_request_id="1")) == {"answer-status"}
    page = answering(b"<html>Welcome</html>", content_type="text/html", x_request_id="1")
    assert broken_rules(page) & {id for id in SERVER_RULES if not id.startswith("answer-")} == set()
    assert "answer-object" in broken_rules(page)


def test_an_answer_without_pictures_serves_nothing() -> None:
    """Though it is a 200."""

    def answer(request: httpx.Request) -> httpx.Response:
        rgba = b"user" in request.read()
        data = [] if rgba else [{"b64_json": "AAAA"}]
        return httpx.Response(200, json={"created": 1, "data": data})

    server = Server("http://strange/v1", transport=httpx.MockTransport(answer))
    assert "no images: 200" in got("accept-user", server)


@pytest.mark.parametrize(
    ("given", "base_url"),
    [
        (" HTTP://Strange:80/v1/ ", "http://strange/v1"),
        ("http://strange/v1/images/variations", "http://strange/v1"),
        ("http://strange/gw/v1#part", "http://strange/gw/v1"),
        ("http://strange", "http://strange"),
    ],
)
def test_addresses(given: str, base_url: str) -> None:
    """They are asked as a client of ours would ask them."""
    assert Server(given).base_url.rstrip("/") == base_url


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_url": "http://[::1/v1"}, "base_url must be an http or https address"),
        ({"base_url": "http://strange:99999/v1"}, "base_url must be an http or https address"),
        ({"base_url": "http://me:pw@strange/v1"}, "must not hold a user name"),
        ({"base_url": "http://strange/v1?api-version=1"}, "base_url must not have a query"),
        ({"api_key": "sk-\u00e9"}, "api_key has a character that no header takes"),
        ({"api_key": "sk-1\n"}, "api_key has a character that no header takes"),
        ({"timeout": float("nan")}, "timeout must be more than 0 and at most 86,400 seconds"),
    ],
)
def test_wrong_servers(settings: dict[str, Any], message: str) -> None:
    """They are refused at once."""
    with pytest.raises(ValueError, match=message):
        Server(**{"base_url": "http://strange/v1", **settings})


def test_a_second_run_is_another_run() -> None:
    """A server that remembers keys of requests may have been asked for something else before."""
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("idempotency-key", ""))
        return httpx.Response(200, json={"created": 1, "data": [{"b64_json": "AAAA"}]})

    for _ in range(2):
        server = Server("http://strange/v1", transport=httpx.MockTransport(answer))
        probe = ServerProbe(server)
        for id in ("accept-idempotency-key", "idempotent"):
            SERVER_RULES[id].check(probe)
    first, second = (set(filter(None, half)) for half in (seen[:4], seen[4:]))
    assert len(first) == len(second) == 2
    assert not first & second


def test_more_than_is_claimed_is_no_breach() -> None:
    """Unless fewer pictures come than were asked for."""

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
    assert got("refuse-n-above", cut).startswith("200 ")


def test_an_answer_does_not_age(monkeypatch: pytest.MonkeyPatch) -> None:
    """When it was made is compared with when it came, however late that is looked at."""
    now = time.time()
    probe = ServerProbe(answering({"created": int(now), "data": [{"b64_json": "AAAA"}]}))
    probe.variation()
    monkeypatch.setattr("time.time", lambda: now + 3600)
    SERVER_RULES["answer-created-now"].check(probe)


@pytest.mark.parametrize("status", [401, 403, 404, 409])
def test_an_address_without_its_query_may_be_refused_in_any_way(status: int) -> None:
    """Azure answers 409 where nothing is public."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200 if request.url.query else status)
        data = [{"url": "http://strange/f.png?sig=1"}]
        return httpx.Response(200, json={"created": 1, "data": data})

    server = Server("http://strange/v1", transport=httpx.MockTransport(answer))
    SERVER_RULES["url-signed"].check(ServerProbe(server))


def test_another_request_is_another_one_whatever_is_claimed() -> None:
    """Even where neither n nor the form of the pictures can differ."""
    bodies: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(request.read())
        data = [{"url": "http://strange/f.png"}]
        again = request.headers.get("idempotency-key") and bodies[-1] != bodies[-2]
        return httpx.Response(409 if again else 200, json={"created": 1, "data": data})

    claims = Capabilities(b64_json=False, max_n=1)
    server = Server("http://strange/v1", None, None, claims, httpx.MockTransport(answer))
    probe = ServerProbe(server)
    SERVER_RULES["idempotent-conflict"].check(probe)
    assert len(set(bodies)) == len(bodies) == 3


def test_an_address_that_ends_soon_can_be_read() -> None:
    """What is asked of it is asked before anything else, which may take longer."""
    made: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            part = request.headers.get("range")
            content = square_png(256)[: 8 if part else None]
            gone = str(request.url) != made[-1]
            return httpx.Response(403 if gone else 206 if part else 200, content=content)
        made.append(f"http://strange/{len(made)}.png?sig=1")
        return httpx.Response(200, json={"created": 1, "data": [{"url": made[-1]}]})

    claims = Capabilities(b64_json=False, max_n=1)
    server = Server("http://strange/v1", None, None, claims, httpx.MockTransport(answer))
    probe = ServerProbe(server)
    for id in ("url-read", "url-again", "accept-user", "url-signed", "url-part"):
        SERVER_RULES[id].check(probe)
    assert len(made) > 1
