import asyncio
import json
import re
import socket
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_image_variation.exceptions import (
    AuthenticationError,
    EngineConnectionError,
    EngineTimeoutError,
    ImageVariationError,
    InvalidRequestError,
)
from langchain_image_variation.hosted.client import AsyncImageVariationClient, ImageVariationClient
from tests.calling import BASE_URL, PNG, answering, ok, parts, success
from tests.http.raw_server import raw_server, response, stall

pytestmark = pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")

FIELDS: dict[str, Any] = {
    "image": ("image.png", PNG),
    "model": "dall-e-2",
    "n": 2,
    "response_format": "b64_json",
    "size": "256x256",
    "user": "u1",
}


CLIENTS_HEADERS = {"host", "connection", "accept-encoding", "content-type", "content-length"}


@dataclass(frozen=True)
class Sent:
    """A request as a server received it."""

    target: str
    headers: dict[str, str]
    fields: list[tuple[str, str]]

    def callers_headers(self) -> dict[str, str]:
        """Return the headers that the caller can set."""
        headers = {
            name: value
            for name, value in self.headers.items()
            if not name.startswith("x-stainless") and name not in CLIENTS_HEADERS
        }
        if not re.fullmatch("mine|k-1", headers.get("idempotency-key", "")):
            headers.pop("idempotency-key", None)
        if headers["user-agent"] != "mine":
            del headers["user-agent"]
        return headers

    @classmethod
    def from_bytes(cls, request: bytes) -> "Sent":
        """Parse the bytes that came over the socket."""
        head, _, content = request.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        method, target, _ = first.split(" ")
        form = parts(httpx.Request(method, "http://x", headers=headers, content=content))
        return cls(
            target,
            {name.lower(): value for name, value in headers.items()},
            [(name, value.decode()) for name, _, value in form if name != "image"],
        )


Use = Callable[[Any], Any]


def send(
    client_classes: tuple[Any, Any], kind: str, settings: Mapping[str, Any], use: Use
) -> list[Sent]:
    """Use a client, sync or async, and return the requests that arrived at a server."""
    with raw_server(response(200, success())) as server:
        options = {"base_url": server.base_url, "api_key": "sk-1", "max_retries": 0, **settings}
        if kind == "sync":
            with client_classes[0](**options) as client:
                use(client)
        else:

            async def main() -> None:
                async with client_classes[1](**options) as client:
                    await use(client)

            asyncio.run(main())
        return [Sent.from_bytes(request) for request in server.requests]


OURS = (ImageVariationClient, AsyncImageVariationClient)
SDK = (openai.OpenAI, openai.AsyncOpenAI)


def call(**options: Any) -> Use:
    """Return a function that makes one call with options."""
    return lambda client: client.images.create_variation(**{**FIELDS, **options})


QUERY = {"a": 1, "b": [1, "two"], "c": {"d": True}, "e": None, "f": "x y&z=ü", "g": 0.5, "h": []}
BODY = {**QUERY, "nested": {"x": [{"y": False}]}, "n": 3, "user": "u2", "same": ["1", "1"]}
CALLS: dict[str, tuple[dict[str, Any], Use]] = {
    "headers of a call": ({}, call(extra_headers={"X-Trace": "1", "User-Agent": "mine"})),
    "a key in a call": ({}, call(extra_headers={"authorization": "Bearer other"})),
    "another scheme in a call": ({}, call(extra_headers={"AUTHORIZATION": "Basic eDp5"})),
    "headers of a client": ({"default_headers": {"X-Team": "a", "Accept": "*/*"}}, call()),
    "a key in headers": ({"default_headers": {"Authorization": "Bearer other"}}, call()),
    "the call's headers count": (
        {"default_headers": {"X-A": "1", "X-B": "1", "Authorization": "Bearer one"}},
        call(extra_headers={"x-a": "2", "Authorization": "Bearer two"}),
    ),
    "an organization": ({"organization": "org-1", "project": "proj-1"}, call()),
    "an organization in headers": (
        {"organization": "org-1", "project": "proj-1"},
        call(extra_headers={"OpenAI-Organization": "org-2", "openai-project": "proj-2"}),
    ),
    "an idempotency key": ({}, call(extra_headers={"Idempotency-Key": "k-1"})),
    "a query": ({}, call(extra_query=QUERY)),
    "a query of a client": ({"default_query": QUERY}, call()),
    "the call's query counts": (
        {"default_query": {"a": [1, 2], "b": {"c": 1}, "d": 1}},
        call(extra_query={"a": 3, "b": "x"}),
    ),
    "a body": ({}, call(extra_body=BODY)),
    "a body without a field": ({}, call(user=None, extra_body={"style": "x"})),
    "everything": (
        {"default_headers": {"X-A": "1"}, "default_query": {"a": 1}},
        call(extra_headers={"X-B": "2"}, extra_query={"b": 2}, extra_body={"c": 3}, timeout=9.0),
    ),
    "options": (
        {"default_headers": {"X-A": "1", "X-B": "1"}, "default_query": {"a": 1, "b": 1}},
        lambda client: call()(
            client.with_options(
                api_key="sk-2", default_headers={"X-B": "2"}, default_query={"b": 2}, timeout=9.0
            )
        ),
    ),
    "new options": (
        {"default_headers": {"X-A": "1"}, "default_query": {"a": 1}, "organization": "org-1"},
        lambda client: call()(
            client.copy(set_default_headers={"X-B": "2"}, set_default_query={"b": 2}, max_retries=1)
        ),
    ),
    "no options": (
        {"default_headers": {"X-A": "1"}, "project": "proj-1"},
        lambda client: call()(client.copy()),
    ),
}


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("name", CALLS)
def test_a_call_arrives_as_from_the_sdk(kind: str, name: str) -> None:
    """The same code sends the same target, headers and form through both clients."""
    settings, use = CALLS[name]
    (sdk_request,) = send(SDK, kind, settings, use)
    (our_request,) = send(OURS, kind, settings, use)
    assert our_request.target == sdk_request.target
    assert our_request.fields == sdk_request.fields
    assert our_request.callers_headers() == sdk_request.callers_headers()


def test_a_query_of_base_url_is_kept() -> None:
    """Parameters are added to the query of `base_url` and replace those of the same name."""
    handler, requests = answering(ok())
    with httpx.Client(transport=httpx.MockTransport(handler)) as http_client:
        client = ImageVariationClient(
            base_url="https://x.example/v1?tenant=7&a=%2F", http_client=http_client
        )
        client.images.create_variation(image=PNG)
        client.images.create_variation(image=PNG, extra_query={"tenant": 8, "b": 1})
    assert requests[0].url.raw_path == b"/v1/images/variations?tenant=7&a=%2F"
    assert dict(requests[1].url.params) == {"tenant": "8", "a": "/", "b": "1"}


def test_extra_body_comes_before_extra_fields() -> None:
    """The options of a call take precedence over the settings of the client."""
    handler, requests = answering(ok())
    with httpx.Client(transport=httpx.MockTransport(handler)) as http_client:
        client = ImageVariationClient(
            base_url=BASE_URL,
            http_client=http_client,
            model="flux",
            extra_fields={"steps": 4, "style": "a"},
        )
        client.images.create_variation(image=PNG, extra_body={"steps": 8, "model": "other"})
    fields = {name: value for name, _, value in parts(requests[0])}
    assert (fields["steps"], fields["style"], fields["model"]) == (b"8", b"a", b"other")


# Timeouts...


@pytest.mark.mostly_slow("client-0.05-sync", "call-timeout1-async", "options-timeout2-sync")
@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("timeout", [0.05, httpx.Timeout(0.05), openai.Timeout(0.05)])
@pytest.mark.parametrize("scope", ["client", "call", "options"])
def test_a_timeout_of_any_class_is_kept(kind: str, timeout: Any, scope: str) -> None:
    """A client, a call and a copy accept seconds, httpx's class and the SDK's own."""
    settings: dict[str, Any] = {"timeout": timeout} if scope == "client" else {}
    options: dict[str, Any] = {"timeout": timeout} if scope == "call" else {}

    def use(client: Any) -> Any:
        return call(**options)(client.copy(timeout=timeout) if scope == "options" else client)

    for classes, error in ((SDK, openai.APITimeoutError), (OURS, EngineTimeoutError)):
        with raw_server(stall) as server, pytest.raises(error):
            _run(classes, kind, {"base_url": server.base_url, **settings}, use)


@pytest.mark.mostly_slow("options-async")
@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("scope", ["call", "options"])
def test_no_timeout_is_not_the_default(kind: str, scope: str) -> None:
    """A timeout of None removes the client's limit, and leaving it out keeps it."""

    def answer_slowly(connection: socket.socket) -> None:
        time.sleep(0.3)
        connection.sendall(response(200, success()))

    def call_without_limit(client: Any) -> Any:
        if scope == "call":
            return call(timeout=None)(client)
        return call()(client.with_options(timeout=None))

    for classes, error in ((SDK, openai.APITimeoutError), (OURS, EngineTimeoutError)):
        with raw_server(answer_slowly) as server:
            settings = {"base_url": server.base_url, "timeout": 0.1}
            _run(classes, kind, settings, call_without_limit)
        with raw_server(stall) as server, pytest.raises(error):
            _run(classes, kind, {"base_url": server.base_url, "timeout": 0.1}, call())


def _run(classes: tuple[Any, Any], kind: str, settings: Mapping[str, Any], use: Use) -> None:
    options = {"api_key": "sk-1", "max_retries": 0, **settings}
    if kind == "sync":
        with classes[0](**options) as client:
            use(client)
        return

    async def main() -> None:
        async with classes[1](**options) as client:
            await use(client)

    asyncio.run(main())


@pytest.mark.parametrize(
    "timeout", [0, -1, "5", True, float("nan"), httpx.Timeout(-1), httpx.Timeout(5, read=0)]
)
def test_a_timeout_out_of_range_is_refused(timeout: Any) -> None:
    """The client, a call and a copy refuse a timeout out of range before anything is sent."""
    client = ImageVariationClient(base_url=BASE_URL)
    for use in (call(timeout=timeout), lambda client: client.copy(timeout=timeout)):
        with pytest.raises(InvalidRequestError, match="timeout") as caught:
            use(client)
        assert caught.value.param == "timeout"
    with pytest.raises(InvalidRequestError, match="timeout"):
        ImageVariationClient(base_url=BASE_URL, timeout=timeout)


# Refusals...

FRAMING = [
    *("Host", "Content-Length", "Transfer-Encoding", "Content-Type", "Connection", "TE"),
    *("Trailer", "Upgrade", "Expect", "Keep-Alive", "Proxy-Connection", "Accept-Encoding"),
    *("Content-Encoding", "hOsT", "CONTENT-LENGTH"),
]
UNSENDABLE: list[dict[Any, Any]] = [
    {"X-A": "a\r\nX-B: b"},
    {"X-A": "a\nb"},
    {"X-A": "a\r"},
    {"X-A": "\x00"},
    {"X-A": "ü"},
    {"X-A": " a"},
    {"X-A": "a\t"},
    {"X-A": 1},
    {"X-A": None},
    {"X-A": b"a"},
    {"X-A": openai.omit},
    {"X-A\r\nX-B": "a"},
    {"X A": "a"},
    {"X-A:": "a"},
    {"": "a"},
    {"Ä": "a"},
    {1: "a"},
]


def refusals(headers: Any) -> list[InvalidRequestError]:
    """Pass headers in every possible way, and return the errors."""
    handler, requests = answering(ok())
    errors = []
    with httpx.Client(transport=httpx.MockTransport(handler)) as http_client:
        settings: dict[str, Any] = {"base_url": BASE_URL, "http_client": http_client}
        client = ImageVariationClient(**settings)
        for param, use in (
            ("default_headers", lambda: ImageVariationClient(**settings, default_headers=headers)),
            ("extra_headers", lambda: call(extra_headers=headers)(client)),
            ("default_headers", lambda: client.copy(default_headers=headers)),
            ("set_default_headers", lambda: client.copy(set_default_headers=headers)),
        ):
            with pytest.raises(InvalidRequestError) as caught:
                use()
            assert caught.value.param == param
            errors.append(caught.value)
    assert requests == []
    return errors


@pytest.mark.parametrize("name", FRAMING)
def test_headers_that_frame_the_request_are_refused(name: str) -> None:
    """Headers that frame the request are refused, because the client sets them."""
    for error in refusals({"X-A": "1", name: "5"}):
        assert f"must not set {name}: the client sets it" in error.message


@pytest.mark.parametrize("headers", UNSENDABLE, ids=range(len(UNSENDABLE)))
def test_headers_that_cannot_be_sent_are_refused(headers: dict[Any, Any]) -> None:
    """Headers with line breaks, outer blanks, other characters or other types are refused."""
    for error in refusals(headers):
        assert "\n" not in error.message
        assert "X-B: b" not in error.message


def test_headers_must_be_a_mapping() -> None:
    """The error for headers that are not a mapping names the argument."""
    for error in refusals([("X-A", "1")]):
        assert "must be a mapping" in error.message


def test_an_idempotency_key_belongs_to_a_call() -> None:
    """A default idempotency key is refused, since every call would get the first answer."""
    with pytest.raises(InvalidRequestError, match="pass it to the call in extra_headers"):
        ImageVariationClient(base_url=BASE_URL, default_headers={"idempotency-key": "k"})


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3))
def test_any_header_is_sent_as_it_is_or_refused(headers: dict[str, str]) -> None:
    """No name and no value turns into another header."""
    handler, requests = answering(ok())
    with httpx.Client(transport=httpx.MockTransport(handler)) as http_client:
        client = ImageVariationClient(base_url=BASE_URL, http_client=http_client, api_key="")
        client.images.create_variation(image=PNG)
        try:
            client.images.create_variation(image=PNG, extra_headers=headers)
        except InvalidRequestError:
            assert len(requests) == 1
            return
    expected = {name.lower(): value for name, value in headers.items()}
    assert requests[1].headers.keys() == requests[0].headers.keys() | expected.keys()
    assert {name: requests[1].headers[name] for name in expected} == expected


DEEP: Any = 1
for _ in range(10):
    DEEP = [DEEP]


@pytest.mark.parametrize("argument", ["extra_query", "extra_body", "default_query"])
@pytest.mark.parametrize(
    "values", [[("a", 1)], {1: "a"}, {"a": b"x"}, {"a": {1, 2}}, {"a": "\ud800"}, {"a": DEEP}]
)
def test_parameters_out_of_range_are_refused(argument: str, values: Any) -> None:
    """The error for a parameter out of range names the argument."""
    client = ImageVariationClient(base_url=BASE_URL)
    with pytest.raises(InvalidRequestError) as caught:
        if argument == "default_query":
            client.copy(default_query=values)
        else:
            call(**{argument: values})(client)
    assert caught.value.param == argument


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"image": "x"}, "extra_body"),
        ({"n": 11}, "n"),
        ({"size": "2x2"}, "size"),
        ({"n": "2"}, "n"),
    ],
)
def test_fields_of_the_contract_stay_legal(body: dict[str, Any], param: str) -> None:
    """`extra_body` may set fields of the contract, within its limits."""
    handler, requests = answering(ok())
    with httpx.Client(transport=httpx.MockTransport(handler)) as http_client:
        client = ImageVariationClient(base_url=BASE_URL, http_client=http_client)
        with pytest.raises(InvalidRequestError) as caught:
            client.images.create_variation(image=PNG, extra_body=body)
    assert caught.value.param == param
    assert requests == []


# Keys in headers...


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Authorization", "Bearer {}"),
        ("authorization", "Basic {}"),
        ("api-key", "{}"),
        ("X-Api-Key", "{}"),
        ("Cookie", "session={}"),
        ("X-Auth-Token", "{}"),
        ("X-Client-Secret", "{}"),
    ],
)
@pytest.mark.parametrize("argument", ["extra_headers", "default_headers", "set_default_headers"])
@pytest.mark.parametrize("status", [200, 401])
def test_a_key_in_a_header_is_shown_nowhere(
    name: str, value: str, argument: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """No log, error, repr or variable of a traceback shows it, even if the server echoes it."""
    key = "verysecret0123456789"
    echo = {"message": f"Wrong key {value.format(key)}: {key}", "code": key}
    handler, requests = answering(httpx.Response(status, content=json.dumps({"error": echo})))
    headers: Any = {name: value.format(key)}
    caplog.set_level(0)
    with httpx.Client(transport=httpx.MockTransport(handler)) as http_client:
        client = ImageVariationClient(base_url=BASE_URL, http_client=http_client)
        of_call: Any = {}
        if argument == "extra_headers":
            of_call = headers
        elif argument == "default_headers":
            client = client.copy(default_headers=headers)
        else:
            client = client.copy(set_default_headers=headers)
        with pytest.raises(ImageVariationError) as caught:
            client.images.create_variation(image=PNG, extra_headers=of_call)
    assert requests[0].headers[name] == value.format(key)
    summary = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    our_frames = [
        frame for frame in summary.stack if "langchain_image_variation/" in frame.filename
    ]
    texts = [text for frame in our_frames for text in (frame.locals or {}).values()]
    texts += [caplog.text, repr(caught.value), repr(vars(caught.value)), repr(client)]
    texts += [repr(vars(client)), repr(client._flow.endpoint)]
    assert our_frames
    assert not [text for text in texts if "verysec" in text]


@pytest.mark.parametrize("name", ["api_key", "access-token", "sig", "code", "Password"])
@pytest.mark.parametrize("place", ["base_url", "default_query", "extra_query"])
def test_a_key_in_a_query_is_not_repeated(name: str, place: str) -> None:
    """An error shows no key of the query, whether the server repeats it decoded or encoded."""
    key = "very+secret/0123"

    def echo(request: httpx.Request) -> httpx.Response:
        texts = [str(request.url), request.url.params[name], quote(key, safe="")]
        return httpx.Response(401, json={"error": {"message": f"No: {' '.join(texts)}"}})

    with httpx.Client(transport=httpx.MockTransport(echo)) as http_client:
        query: Any = {name: key, "api-version": "2026-01-01"}
        address = f"{BASE_URL}?{urlencode(query)}" if place == "base_url" else BASE_URL
        client = ImageVariationClient(base_url=address, http_client=http_client)
        if place == "default_query":
            client = client.copy(default_query=query)
        with pytest.raises(ImageVariationError, match="No: ") as caught:
            client.images.create_variation(
                image=PNG, extra_query=query if place == "extra_query" else None
            )
    assert "0123" not in str(caught.value)
    assert "2026-01-01" in str(caught.value)


def test_of_two_keys_that_begin_alike_no_rest_is_shown() -> None:
    """An error shows nothing of either, whichever of them is sent first."""
    headers = {"X-Api-Key": "tenant", "X-Auth-Token": "tenant-verysecret"}
    echo = {"message": f"Wrong keys: {', '.join(headers.values())}"}
    handler, _ = answering(httpx.Response(401, content=json.dumps({"error": echo})))
    with httpx.Client(transport=httpx.MockTransport(handler)) as http_client:
        client = ImageVariationClient(base_url=BASE_URL, http_client=http_client)
        for names in (sorted(headers), sorted(headers, reverse=True)):
            with pytest.raises(ImageVariationError, match=r"^Wrong keys: …, …$"):
                client.images.create_variation(
                    image=PNG, extra_headers={name: headers[name] for name in names}
                )


def test_a_download_gets_no_default_headers() -> None:
    """A download of a result gets no default headers, and so no key."""
    body = json.dumps({"created": 1, "data": [{"url": f"{BASE_URL}/a.png"}]}).encode()
    handler, requests = answering(ok(body), httpx.Response(200, content=PNG))
    with httpx.Client(transport=httpx.MockTransport(handler)) as http_client:
        client = ImageVariationClient(
            base_url=BASE_URL, http_client=http_client, default_headers={"api-key": "secret"}
        )
        assert client.images.create_variation(image=PNG).data[0].read() == PNG
    assert ["api-key" in request.headers for request in requests] == [True, False]


def test_the_fingerprint_distinguishes_servers() -> None:
    """A header is part of the fingerprint, since it may select a model, but a key is not."""
    client = ImageVariationClient(base_url=BASE_URL, api_key="sk-1")
    equal_client = client.copy(api_key="sk-2", default_headers={"api-key": "k"}, timeout=5)
    assert equal_client.fingerprint == client.fingerprint
    variants = {
        client.fingerprint,
        client.copy(default_headers={"X-Variant": "b"}).fingerprint,
        client.copy(default_query={"variant": "b"}).fingerprint,
        client.copy(organization="org-1").fingerprint,
        client.copy(project="org-1").fingerprint,
        client.copy(model="flux").fingerprint,
    }
    assert len(variants) == 6


# Copies...


def test_a_copy_shares_the_connections() -> None:
    """A copy and its original use one connection, and closing the copy closes it."""
    with raw_server(response(200, success())) as server:
        client = ImageVariationClient(base_url=server.base_url)
        copy = client.with_options(max_retries=0)
        call()(client)
        call()(copy)
        assert server.connections == 1
        copy.close()
        with pytest.raises(EngineConnectionError, match="is the client closed"):
            call()(client)


def test_a_copy_does_not_change_the_original() -> None:
    """A copy inherits the settings that you do not pass, and the original keeps its own."""
    handler, requests = answering(ok())
    with httpx.Client(transport=httpx.MockTransport(handler)) as http_client:
        client = ImageVariationClient(
            base_url=BASE_URL,
            http_client=http_client,
            api_key="sk-1",
            organization="org-1",
            model="flux",
            default_headers={"X-A": "1"},
            extra_fields={"style": "a"},
            deadline=None,
        )
        assert client.images is client.images
        fingerprint = client.fingerprint
        client.copy(
            base_url="https://other.example/v1",
            api_key="",
            organization="",
            model="other",
            default_headers={"X-B": "1"},
            extra_fields={"steps": 1},
            deadline=5,
        ).images.create_variation(image=PNG)
        client.copy().images.create_variation(image=PNG)
        client.images.create_variation(image=PNG)
    assert client.fingerprint == fingerprint
    changed_request, inherited_request, original_request = requests
    assert changed_request.url.host == "other.example"
    assert not {"authorization", "openai-organization"} & changed_request.headers.keys()
    assert (changed_request.headers["x-a"], changed_request.headers["x-b"]) == ("1", "1")
    assert {name: value for name, _, value in parts(changed_request)}["model"] == b"other"
    assert parts(inherited_request) == parts(original_request)
    for request in (inherited_request, original_request):
        assert request.headers["authorization"] == "Bearer sk-1"
        assert request.headers["openai-organization"] == "org-1"
        assert request.headers["x-a"] == "1"
        assert "x-b" not in request.headers


async def test_an_async_copy_for_another_host() -> None:
    """An async copy for another host opens its own connections, and closes them."""
    with raw_server(response(200, success())) as server:
        other_url = server.base_url.replace("127.0.0.1", "localhost")
        async with AsyncImageVariationClient(base_url=server.base_url) as client:
            async with client.copy(base_url=other_url, resend_lost=True, normalize=True) as copy:
                await call()(copy)
            await call()(client)
        assert server.connections == 2


@pytest.mark.parametrize("setting", ["default_headers", "default_query"])
def test_a_copy_adds_or_replaces(setting: str) -> None:
    """A copy adds headers or replaces them, and like the SDK refuses both at once."""
    client = ImageVariationClient(base_url=BASE_URL)
    options: dict[str, Any] = {setting: {"x-a": "1"}, f"set_{setting}": {"x-b": "1"}}
    with pytest.raises(InvalidRequestError, match=f"set_{setting}") as caught:
        client.copy(**options)
    assert caught.value.param == setting


def test_a_copy_checks_its_settings() -> None:
    """A copy has the errors of the constructor, which do not show the key."""
    client = ImageVariationClient(base_url=BASE_URL)
    with pytest.raises(InvalidRequestError, match="max_retries"):
        client.copy(max_retries=-1)
    with pytest.raises(AuthenticationError) as caught:
        client.copy(api_key="sk-\n1")
    assert "sk-" not in str(caught.value)
