import asyncio
import base64
import io
import json
import traceback
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image as PILImage

from langchain_image_variation.client import AsyncImageVariationClient, ImageVariationClient
from langchain_image_variation.contract import CreateImageVariationRequest
from langchain_image_variation.engines import AsyncVariationEngine, VariationEngine
from langchain_image_variation.exceptions import (
    AuthenticationError,
    BillingLimitError,
    ConflictError,
    ContentPolicyError,
    DownloadError,
    EndpointRemovedError,
    EngineConnectionError,
    EngineError,
    EngineResponseError,
    EngineTimeoutError,
    ExpiredURLError,
    ImageVariationError,
    InvalidImageError,
    InvalidRequestError,
    ModelNotFoundError,
    NotFoundError,
    OutputError,
    PayloadTooLargeError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitError,
    ServiceUnavailableError,
    SourceError,
)
from langchain_image_variation.http.fetch import URLPolicy
from langchain_image_variation.png import SquarePNG
from langchain_image_variation.source import load_source
from pytest_image_variation.samples import jpeg
from tests.calling import BASE_URL, KINDS, PNG, Caller, answering, b64, failure, success

EXPIRED = (
    b"\xef\xbb\xbf<?xml version='1.0'?><Error><Code>AuthenticationFailed</Code><Message>Server "
    b"failed to authenticate the request.</Message><AuthenticationErrorDetail>Signature not valid "
    b"in the specified time frame: Start [a] - Expiry [b] - Current [c]"
    b"</AuthenticationErrorDetail></Error>"
)
NOW = {"retry-after-ms": "1"}


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's environment takes no part."""
    for name in ("BASE_URL", "API_KEY", "ORG_ID", "PROJECT_ID"):
        monkeypatch.delenv(f"OPENAI_{name}", raising=False)


@pytest.fixture(params=KINDS)
def call(request: pytest.FixtureRequest) -> Caller:
    """Each test runs sync, and async on asyncio and on trio."""
    return Caller(request.param)


def ok(body: bytes | None = None, **headers: str) -> httpx.Response:
    """Return a success, by default with one picture."""
    return httpx.Response(200, content=success() if body is None else body, headers=headers)


def parts(request: httpx.Request) -> list[tuple[str, str, bytes]]:
    """Return each part of a form: its name, its other headers, its content."""
    boundary = request.headers["content-type"].partition("boundary=")[2].encode()
    found = []
    for part in request.content.split(b"--" + boundary)[1:-1]:
        head, _, content = part.strip(b"\r\n").partition(b"\r\n\r\n")
        name, _, rest = head.decode().partition('name="')[2].partition('"')
        found.append((name, rest, content))
    return found


# What is sent...


def test_sends_the_fields_in_wire_order_and_the_picture_last(call: Caller) -> None:
    """Some servers refuse a part without a type and a file name."""
    handler, seen = answering(ok(success(2)))
    answer = call(handler, {"n": 2, "user": "u1", "response_format": "b64_json"})
    assert [image.read() for image in answer.data] == [PNG, PNG]
    assert str(seen[0].url) == f"{BASE_URL}/images/variations"
    assert parts(seen[0]) == [
        ("model", "", b"dall-e-2"),
        ("n", "", b"2"),
        ("response_format", "", b"b64_json"),
        ("size", "", b"256x256"),
        ("user", "", b"u1"),
        ("image", '; filename="image.png"\r\nContent-Type: image/png', PNG),
    ]
    assert "authorization" not in seen[0].headers
    assert seen[0].headers["content-length"] == str(len(seen[0].content))


def test_sends_what_the_settings_say(call: Caller) -> None:
    """Key, organisation, project, the server's model and its own fields."""
    handler, seen = answering(ok())
    call(
        handler,
        api_key="sk-1",
        organization="org-1",
        project="proj-1",
        model="flux",
        extra_fields={"strength": 0.5, "fast": True, "steps": 4, "style": "x"},
        base_url="https://pictures.example/deep/v1/?tenant=7",
    )
    assert seen[0].headers["authorization"] == "Bearer sk-1"
    assert seen[0].headers["openai-organization"] == "org-1"
    assert seen[0].headers["openai-project"] == "proj-1"
    assert seen[0].url == "https://pictures.example/deep/v1/images/variations?tenant=7"
    sent = {name: content for name, _, content in parts(seen[0])}
    assert sent["model"] == b"flux"
    assert (sent["strength"], sent["fast"], sent["steps"]) == (b"0.5", b"true", b"4")


def test_a_model_that_is_named_is_sent(call: Caller) -> None:
    """The server's default stands in only for no model, or the retired one."""
    handler, seen = answering(ok())
    call(handler, {"model": "other"}, model="flux")
    assert parts(seen[0])[0] == ("model", "", b"other")


def test_the_environment_fills_what_is_not_given(
    call: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vendor's own variables are read, and an argument comes before them."""
    monkeypatch.setenv("OPENAI_BASE_URL", "https://env.example/v1\n")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-env")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-env")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-env")
    handler, seen = answering(ok())
    call(handler, base_url=None, organization="org-arg")
    assert seen[0].url.host == "env.example"
    assert seen[0].headers["authorization"] == "Bearer sk-env"
    assert seen[0].headers["openai-organization"] == "org-arg"
    assert seen[0].headers["openai-project"] == "proj-env"


@pytest.mark.parametrize("value", [None, "", "  "])
def test_there_is_no_default_server(
    call: Caller, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    """Without one, and an empty variable is none, nothing is sent and the choices are listed."""
    if value is not None:
        monkeypatch.setenv("OPENAI_BASE_URL", value)
        monkeypatch.setenv("OPENAI_API_KEY", value)
    handler, seen = answering(ok())
    with pytest.raises(InvalidRequestError, match=r"removed .*'gpt-image'.*'local'") as caught:
        call(handler, base_url=None)
    assert caught.value.param == "base_url"
    assert seen == []


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"api_key": 7}, "api_key"),
        ({"api_key": b"sk-1"}, "api_key"),
        ({"organization": 7}, "organization"),
        ({"model": ""}, "model"),
        ({"model": 7}, "model"),
        ({"model": "\ud800"}, "model"),
        ({"normalize": "no"}, "normalize"),
        ({"resend_lost": "no"}, "resend_lost"),
        ({"result_urls": "x"}, "result_urls"),
        ({"timeout": 10**400}, "timeout"),
        ({"extra_fields": [("a", 1)]}, "extra_fields"),
        ({"extra_fields": {1: "x"}}, "extra_fields"),
        ({"extra_fields": {"x": "\ud800"}}, "extra_fields"),
        ({"base_url": "http://x:99999/v1"}, "base_url"),
        ({"base_url": "http://a..b/v1"}, "base_url"),
        ({"base_url": f"http://{'a' * 70}/v1"}, "base_url"),
        ({"base_url": "http://a b/v1"}, "base_url"),
        ({"base_url": "https://user:word@x/v1"}, "base_url"),
        ({"base_url": ""}, "base_url"),
        ({"base_url": "pictures.example"}, "base_url"),
        ({"base_url": "ftp://pictures.example"}, "base_url"),
        ({"base_url": "https://"}, "base_url"),
        ({"base_url": "http://[::1"}, "base_url"),
        ({"base_url": 7}, "base_url"),
        ({"organization": "a\nb"}, "organization"),
        ({"project": "ü"}, "project"),
        ({"max_retries": -1}, "max_retries"),
        ({"max_retries": 1.5}, "max_retries"),
        ({"max_retries": True}, "max_retries"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": "5"}, "timeout"),
        ({"deadline": -1}, "deadline"),
        ({"deadline": float("inf")}, "deadline"),
        ({"extra_fields": {"n": 2}}, "extra_fields"),
        ({"extra_fields": {"image": "x"}}, "extra_fields"),
        ({"extra_fields": {"x": None}}, "extra_fields"),
        ({"extra_fields": {"x": [1]}}, "extra_fields"),
    ],
)
def test_a_setting_out_of_range_is_refused(settings: dict[str, Any], param: str) -> None:
    """When the client is made, not in a call; the error names the setting."""
    for client_class in (ImageVariationClient, AsyncImageVariationClient):
        with pytest.raises(InvalidRequestError) as caught:
            client_class(**{"base_url": BASE_URL, **settings})
        assert caught.value.param == param


@pytest.mark.parametrize("key", ["sk-\n1", "sk-ü", "sk-\x00"])
def test_a_key_that_no_header_takes_is_refused_unseen(key: str) -> None:
    """The error does not show it."""
    with pytest.raises(AuthenticationError) as caught:
        ImageVariationClient(base_url=BASE_URL, api_key=key)
    assert "sk-" not in str(caught.value)


def test_an_http_client_of_the_other_kind_is_refused() -> None:
    """Mixing sync and async up is said at once."""
    with pytest.raises(InvalidRequestError, match=r"httpx\.Client"):
        ImageVariationClient(base_url=BASE_URL, http_client=httpx.AsyncClient())  # type: ignore[arg-type]  # on purpose
    with httpx.Client() as client, pytest.raises(InvalidRequestError, match=r"httpx\.AsyncClient"):
        AsyncImageVariationClient(base_url=BASE_URL, http_client=client)  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize(
    ("status", "settings"),
    [(401, {}), (400, {}), (200, {"timeout": -1}), (200, {"base_url": "x"}), (200, {"model": ""})],
)
def test_the_key_is_nowhere_to_be_seen(
    call: Caller, caplog: pytest.LogCaptureFixture, status: int, settings: dict[str, Any]
) -> None:
    """Not in a log, an error, a repr or a traceback's variables, nor where the server echoes it."""
    key = "verysecret0123456789"
    text = "word " * 94 + f"Incorrect API key: {key} and {key}."
    body = failure(text, code=key, param=key, type=key)
    handler, _ = answering(httpx.Response(status, content=body))
    caplog.set_level(0)
    with pytest.raises(ImageVariationError) as caught:
        call(handler, api_key=key, **settings)
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    ours = [frame for frame in shown.stack if "langchain_image_variation" in frame.filename]
    texts = [text for frame in ours for text in (frame.locals or {}).values()]
    texts += [caplog.text, repr(caught.value), repr(vars(caught.value))]
    assert ours
    assert not [text for text in texts if "verysec" in text]


def test_a_client_shows_only_its_address() -> None:
    """Without a query, and without the key in any of its parts."""
    client = ImageVariationClient(base_url="https://pictures.example/v1?key=secret", api_key="sk-1")
    assert repr(client) == "ImageVariationClient(base_url='https://pictures.example/v1')"
    assert "sk-1" not in repr(vars(client))


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        (" https://x.example/v1/ ", "https://x.example/v1/images/variations"),
        ("https://x.example", "https://x.example/images/variations"),
        ("https://x.example/v1/images/variations", "https://x.example/v1/images/variations"),
        ("https://x.example/a%2Fb/v1?q=1#f", "https://x.example/a%2Fb/v1/images/variations?q=1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1/images/variations"),
        ("http://my_container:8000/v1", "http://my_container:8000/v1/images/variations"),
        ("https://bücher.example/v1", "https://xn--bcher-kva.example/v1/images/variations"),
    ],
)
def test_spellings_of_the_address(call: Caller, base_url: str, url: str) -> None:
    """Blanks, slashes, the path of the call itself, escapes, a query."""
    handler, seen = answering(ok())
    call(handler, base_url=base_url)
    assert str(seen[0].url).replace("bücher", "xn--bcher-kva") == url


def test_an_empty_key_sends_none(call: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor an empty organisation, whatever the environment says."""
    for name in ("API_KEY", "ORG_ID", "PROJECT_ID"):
        monkeypatch.setenv(f"OPENAI_{name}", "vendor")
    handler, seen = answering(ok())
    call(handler, api_key="", organization="", project="")
    assert not {"authorization", "openai-organization", "openai-project"} & set(seen[0].headers)


def test_a_closed_client_and_a_failing_hook_are_our_errors(call: Caller) -> None:
    """Not those of httpx."""
    with pytest.raises(EngineConnectionError, match="is the client closed"):
        call(answering(RuntimeError("closed"))[0])
    closed = ImageVariationClient(base_url=BASE_URL)
    closed.close()
    with pytest.raises(EngineConnectionError, match="is the client closed"):
        closed.images.create_variation(image=PNG)

    def refuse(response: httpx.Response) -> None:
        response.raise_for_status()

    transport = httpx.MockTransport(lambda request: httpx.Response(500))
    hooks: dict[str, list[Any]] = {"response": [refuse]}
    with httpx.Client(transport=transport, event_hooks=hooks) as http_client:
        client = ImageVariationClient(base_url=BASE_URL, http_client=http_client)
        with pytest.raises(EngineConnectionError, match="hook"):
            client.images.create_variation(image=PNG)


# The call in the SDK's shape...


def test_the_references_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With only the import changed: a file, its bytes, a BytesIO."""
    monkeypatch.setenv("OPENAI_BASE_URL", BASE_URL)
    path = tmp_path / "image.png"
    path.write_bytes(PNG)
    handler, seen = answering(ok(json.dumps({"created": 1, "data": [{"url": "x"}]}).encode()))
    http_client = httpx.Client(transport=httpx.MockTransport(handler))
    with http_client, open(path, "rb") as file:
        client = ImageVariationClient(http_client=http_client)
        response = client.images.create_variation(
            image=file, n=1, model="dall-e-2", size="1024x1024"
        )
        assert response.data[0].url == "x"
        for image in (
            PNG,
            io.BytesIO(PNG),
            str(path),
            path,
            ("image.png", PNG),
            ("image.png", io.BytesIO(PNG), "image/png"),
            SquarePNG(PNG),
            load_source(path),
            PILImage.open(path),
            f"data:image/png;base64,{b64()}",
        ):
            client.images.create_variation(image=image)
    assert len(seen) == 11
    assert {parts(request)[-1][2] == PNG for request in seen[:9]} == {True}
    assert {parts(request)[0][2] for request in seen} == {b"dall-e-2"}


async def test_the_async_call_in_the_sdks_shape() -> None:
    """The async client has it too, and crops what is not square."""
    handler, seen = answering(ok())
    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as http_client:
        client = AsyncImageVariationClient(base_url=BASE_URL, http_client=http_client)
        await client.images.create_variation(image=jpeg(), n=3, user="u")
    assert SquarePNG(parts(seen[0])[-1][2]).side == 64
    assert {name: value for name, _, value in parts(seen[0])[:-1]}["n"] == b"3"


def test_bad_arguments_are_refused_before_any_traffic() -> None:
    """In the error's own words, naming the argument."""
    handler, seen = answering(ok())
    with httpx.Client(transport=httpx.MockTransport(handler)) as http_client:
        client = ImageVariationClient(base_url=BASE_URL, http_client=http_client)
        with pytest.raises(InvalidRequestError, match="n must be"):
            client.images.create_variation(image=PNG, n=11)
        with pytest.raises(InvalidRequestError, match="image"):
            client.images.create_variation(image=("x",))
        with pytest.raises(InvalidRequestError, match="image"):
            client.images.create_variation(image=7)  # type: ignore[arg-type]  # on purpose
    assert seen == []


def test_both_clients_are_engines() -> None:
    """They satisfy the Protocols."""
    assert isinstance(ImageVariationClient(base_url=BASE_URL), VariationEngine)
    assert isinstance(AsyncImageVariationClient(base_url=BASE_URL), AsyncVariationEngine)


def test_a_callers_http_client_stays_open() -> None:
    """Closing the client closes only what it opened."""
    handler, _ = answering(ok())
    with httpx.Client(transport=httpx.MockTransport(handler)) as http_client:
        with ImageVariationClient(base_url=BASE_URL, http_client=http_client):
            pass
        assert not http_client.is_closed


# Sending again...


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_a_passing_failure_is_sent_again(call: Caller, status: int) -> None:
    """With the same idempotency key and the whole body each time."""
    handler, seen = answering(httpx.Response(status, headers=NOW), ok())
    assert len(call(handler).data) == 1
    assert len(seen) == 2
    assert len({request.headers["idempotency-key"] for request in seen}) == 1
    assert parts(seen[0]) == parts(seen[1])


def test_each_call_has_a_key_of_its_own(call: Caller) -> None:
    """Two calls are two purchases."""
    handler, seen = answering(ok())
    call(handler)
    call(handler)
    assert len({request.headers["idempotency-key"] for request in seen}) == 2


def test_the_last_failure_is_raised(call: Caller) -> None:
    """After so many retries as were allowed."""
    handler, seen = answering(httpx.Response(500, content=failure("boom"), headers=NOW))
    with pytest.raises(EngineError, match="boom"):
        call(handler, max_retries=3)
    assert len(seen) == 4


@pytest.mark.parametrize(
    "error", [httpx.ConnectError("x"), httpx.ConnectTimeout("x"), httpx.ReadError("x")]
)
def test_a_failing_connection_is_tried_again(call: Caller, error: Exception) -> None:
    """Whether it cannot be made or breaks before an answer."""
    handler, seen = answering(error, ok())
    assert len(call(handler).data) == 1
    assert len(seen) == 2


def test_a_lost_answer_is_not_asked_for_again_unasked(call: Caller) -> None:
    """The pictures may have been billed; the caller may choose to."""
    handler, seen = answering(httpx.ReadTimeout("x"), ok())
    with pytest.raises(EngineTimeoutError, match="may have been billed"):
        call(handler)
    assert len(seen) == 1
    handler, seen = answering(httpx.ReadTimeout("x"), ok())
    assert len(call(handler, resend_lost=True).data) == 1
    assert len(seen) == 2


def test_a_cut_answer_is_a_lost_one(call: Caller) -> None:
    """A success that breaks off was made, and billed."""
    cut = ok(b'{"created": 1, "data": [{"b64_json": "')
    handler, seen = answering(cut, ok())
    with pytest.raises(EngineResponseError):
        call(handler)
    assert len(seen) == 1
    handler, seen = answering(cut, ok())
    assert len(call(handler, resend_lost=True).data) == 1


@pytest.mark.parametrize(("status", "advice", "sent"), [(400, "true", 2), (500, "false", 1)])
def test_the_servers_advice_is_followed(call: Caller, status: int, advice: str, sent: int) -> None:
    """`x-should-retry` overrides what the status says."""
    handler, seen = answering(httpx.Response(status, headers={**NOW, "x-should-retry": advice}))
    with pytest.raises(ImageVariationError):
        call(handler, max_retries=1)
    assert len(seen) == sent


def test_a_wait_past_the_deadline_is_not_begun(call: Caller) -> None:
    """The error says how long the server asked to wait, and how long there was."""
    handler, seen = answering(httpx.Response(429, headers={"retry-after": "3600"}))
    with pytest.raises(RateLimitError, match=r"wait 3,600 s; \d+ s of the deadline") as caught:
        call(handler, deadline=60)
    assert len(seen) == 1
    assert caught.value.retry_after == 3600


def test_a_limit_told_only_in_the_text_is_waited_for(call: Caller) -> None:
    """Image rate limits carry no header."""
    text = "Rate limit reached on input-images per min: Limit 5. Please try again in 30ms."
    limited = httpx.Response(429, content=failure(text, code="rate_limit_exceeded"))
    handler, seen = answering(limited, ok())
    assert len(call(handler).data) == 1
    assert len(seen) == 2


# Answers that are errors...

ERRORS = [
    (400, failure("n is wrong", param="n"), InvalidRequestError, "n is wrong"),
    (400, failure("x", code="invalid_image_format"), InvalidImageError, "x"),
    (400, failure("x", code="billing_hard_limit_reached"), BillingLimitError, "x"),
    (400, failure("x", code="content_policy_violation"), ContentPolicyError, "x"),
    (400, failure("x", code="moderation_blocked"), ContentPolicyError, "x"),
    (400, failure("gone", code="invalid_value", param="model"), ModelNotFoundError, "gone"),
    (400, b'{"detail": "no such thing"}', InvalidRequestError, "no such thing"),
    (401, b"", AuthenticationError, "pass api_key or set OPENAI_API_KEY"),
    (403, failure("must be verified"), PermissionDeniedError, "must be verified"),
    (404, b"", EndpointRemovedError, "removed image variations in May 2026.*gpt-image.*local"),
    (404, failure("Invalid URL (POST /v1/images/variations)"), EndpointRemovedError, "May 2026"),
    (404, b"<html>nope</html>", NotFoundError, "base_url right.*HTML"),
    (404, b'{"detail": "Model not found: flux"}', NotFoundError, "Model not found: flux"),
    (405, b"", InvalidRequestError, "base_url right"),
    (409, b'{"detail": "cancelled"}', ConflictError, "cancelled"),
    (413, b"<html>", PayloadTooLargeError, "smaller picture"),
    (
        422,
        b'{"detail": [{"loc": ["body", "model"], "msg": "Field required"}]}',
        InvalidRequestError,
        "model: Field required",
    ),
    (429, failure("slow down"), RateLimitError, "slow down"),
    (429, failure("x", type="insufficient_quota"), QuotaExceededError, "x"),
    (500, b'{"detail": "cannot identify image"}', EngineError, "cannot identify image"),
    (
        501,
        b'{"error": {"message": "API not implemented", "type": "one_api_error", "param": "",'
        b' "code": "api_not_implemented"}}',
        EngineError,
        "API not implemented",
    ),
    (501, b"", EngineError, "another server or engine"),
    (502, b"<html>", EngineConnectionError, "gateway"),
    (503, b'{"detail": "loading"}', ServiceUnavailableError, "loading"),
    (504, b"<html><h1>504</h1></html>", EngineTimeoutError, "gave up waiting.*page of HTML"),
    (301, b"", ImageVariationError, "redirects"),
    (418, b'{"error": null}', InvalidRequestError, "HTTP 418"),
    (500, b'{"error": {"message": null, "type": null, "code": null}}', EngineError, "HTTP 500"),
    (500, b'{"error": {"message": "cut', EngineError, "HTTP 500"),
    (500, b'{"error": "plain"}', EngineError, "plain"),
    (404, b'{"detail": "Not Found"}', EndpointRemovedError, "base_url mostly ends in /v1"),
    (405, b'{"detail": "Method Not Allowed"}', InvalidRequestError, "takes no POST"),
    (500, b"\xff\xfe\x00", EngineError, "HTTP 500"),
]


@pytest.mark.parametrize(("status", "body", "error_class", "message"), ERRORS)
def test_every_error_answer_is_the_right_error(
    call: Caller, status: int, body: bytes, error_class: type[ImageVariationError], message: str
) -> None:
    """With the status and the request's id, whatever shape the body has."""
    handler, _ = answering(httpx.Response(status, content=body, headers={"x-request-id": "req_7"}))
    with pytest.raises(error_class, match=message) as caught:
        call(handler, max_retries=0)
    assert type(caught.value) is error_class
    assert caught.value.status_code == status
    assert caught.value.request_id == "req_7"


def test_an_error_keeps_what_the_wire_said(call: Caller) -> None:
    """Type, code and param, and empty strings count as none."""
    body = failure("m", type="t", code="c", param="p")
    handler, _ = answering(httpx.Response(400, content=body))
    with pytest.raises(InvalidRequestError) as caught:
        call(handler)
    assert (caught.value.type, caught.value.code, caught.value.param) == ("t", "c", "p")
    empty = httpx.Response(501, content=failure("m", type="t", code="", param=""))
    with pytest.raises(EngineError) as caught_empty:
        call(answering(empty)[0])
    assert (caught_empty.value.code, caught_empty.value.param) == (None, None)


def test_a_servers_message_is_one_short_line(call: Caller) -> None:
    """However long it is, and without pictures and keys."""
    text = "bad\n\x1b[31m " + "A" * 300 + " Bearer abcdefghij sk-abcdefghijkl " + "word " * 300
    handler, _ = answering(httpx.Response(400, content=failure(text)))
    with pytest.raises(InvalidRequestError) as caught:
        call(handler)
    assert caught.value.message.startswith("bad [31m … Bearer … sk-… word word")
    assert len(caught.value.message) < 510


def test_a_plain_text_is_a_message(call: Caller) -> None:
    """Proxies explain themselves so."""
    answer = httpx.Response(502, text="no healthy upstream")
    with pytest.raises(EngineConnectionError, match=r"^no healthy upstream$"):
        call(answering(answer)[0], max_retries=0)


def test_an_endless_error_is_read_for_a_while(call: Caller) -> None:
    """The beginning is enough."""
    handler, _ = answering(httpx.Response(400, content=b"<html>" + b"x" * 5_000_000))
    with pytest.raises(InvalidRequestError, match="HTML"):
        call(handler)


# Answers that are pictures...


def picture(format: str, side: int = 8) -> bytes:
    """Return a small picture file."""
    buffer = io.BytesIO()
    PILImage.new("RGB", (side, side), (200, 30, 40)).save(buffer, format)
    return buffer.getvalue()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_pictures_of_other_formats_are_taken_and_made_png_where_asked(
    call: Caller, format: str
) -> None:
    """Some servers send JPEG or WebP; `normalize` also makes them the size asked for."""
    data = picture(format)
    handler, _ = answering(ok(success(2, data)))
    assert [image.read() for image in call(handler, {"n": 2}).data] == [data, data]
    made = call(handler, {"n": 2}, normalize=True).data
    for image in made:
        assert SquarePNG(image.read()).side == 256


def test_null_and_unknown_keys_are_kept_out_of_the_way(call: Caller) -> None:
    """Servers add keys, and send null for the other form."""
    entry = {"url": None, "b64_json": b64(), "revised_prompt": None, "more": 1}
    body = json.dumps({"created": 1.5, "data": [entry], "usage": None, "x": {"y": 1}}).encode()
    handler, _ = answering(ok(body, **{"x-request-id": "req_9"}))
    answer = call(handler)
    assert answer.data[0].read() == PNG
    assert answer.created == 1
    assert answer.request_id == "req_9"


@pytest.mark.parametrize("wrap", ["data:image/png;base64,{}", "\n{}\n"])
def test_base64_in_odd_wrappings_is_read(call: Caller, wrap: str) -> None:
    """A whole data: URL as b64_json, and broken lines."""
    body = json.dumps({"created": 1, "data": [{"b64_json": wrap.format(b64())}]}).encode()
    assert call(answering(ok(body))[0]).data[0].read() == PNG


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "an empty body"),
        (b"<!DOCTYPE html><p>Welcome", "a page of HTML.*/v1"),
        (b'{"created": 1, "data": [', "no ImagesResponse"),
        (b"null", "no ImagesResponse"),
        (b"[]", "no ImagesResponse"),
        (b'{"data": "x"}', "no ImagesResponse"),
        (b'{"created": 1, "data": []}', "without any picture"),
        (b'{"created": 1}', "without any picture"),
        (b'{"created": 1, "data": null}', "without any picture"),
        (b"\x89PNG", "no ImagesResponse"),
        (b"[" * 100_000, "no ImagesResponse"),
    ],
)
def test_a_success_that_is_none_is_an_error(call: Caller, body: bytes, message: str) -> None:
    """A 200 with anything but pictures says what it was, and is not asked for again."""
    handler, seen = answering(ok(body, **{"x-request-id": "req_8"}))
    with pytest.raises(EngineResponseError, match=message) as caught:
        call(handler)
    assert caught.value.request_id == "req_8"
    assert len(seen) == 1


def test_an_error_inside_a_success_is_an_error(call: Caller) -> None:
    """Some gateways answer 200 and mean the error."""
    body = b'{"error": {"message": "no GPU", "code": "content_policy_violation"}}'
    with pytest.raises(ContentPolicyError, match="no GPU"):
        call(answering(ok(body))[0])
    handler, seen = answering(ok(b'{"error": "out of credits"}'))
    with pytest.raises(EngineError, match="out of credits"):
        call(handler)
    assert len(seen) == 1


def test_what_servers_leave_out_or_fill_in_twice(call: Caller) -> None:
    """A missing `created`, and both forms at once: the answer can be written as the contract's."""
    entries = [{"b64_json": b64(), "url": ""}, {"b64_json": b64(), "url": "https://x.example/a"}]
    answer = call(answering(ok(json.dumps({"data": entries}).encode()))[0], {"n": 2})
    assert [list(entry) for entry in json.loads(answer.to_json())["data"]] == [["b64_json"]] * 2


def test_a_body_that_says_it_is_too_long_is_not_read(call: Caller) -> None:
    """The limit is named."""
    handler, _ = answering(ok(b"{}", **{"content-length": str(10**12)}))
    with pytest.raises(EngineResponseError, match="more than 268,435,456 bytes"):
        call(handler)


@pytest.mark.parametrize("content", ["", "????", b64(b"GIF89a" + bytes(60)), "QUJD"])
def test_a_result_that_is_no_picture_says_so_when_read(call: Caller, content: str) -> None:
    """The other results are not lost by it."""
    entries = [{"b64_json": content}, {"b64_json": b64()}]
    body = json.dumps({"created": 1, "data": entries}).encode()
    first, second = call(answering(ok(body))[0], {"n": 2}).data
    with pytest.raises(ImageVariationError):
        first.read()
    assert second.read() == PNG


# Results given as addresses...


def urls(*addresses: str) -> httpx.Response:
    """Return a success that gives addresses."""
    entries = [{"url": address, "b64_json": None} for address in addresses]
    return ok(json.dumps({"created": 1, "data": entries}).encode())


def test_results_on_the_server_itself_are_downloaded_at_once(call: Caller) -> None:
    """From the server that made them, wherever that is, and without the key."""
    url = "https://pictures.example/files/a.png?sig=1"
    handler, seen = answering(urls(url), httpx.Response(200, content=PNG))
    (image,) = call(handler, api_key="sk-1").data
    assert image.url == url
    assert image.read() == PNG
    assert [request.method for request in seen] == ["POST", "GET"]
    assert seen[1].url == url
    assert "authorization" not in seen[1].headers


def test_a_redirect_on_the_server_itself_is_followed(call: Caller) -> None:
    """And one to another host only as the policy allows."""
    url = "https://pictures.example/files/a.png"
    moved = httpx.Response(302, headers={"location": "/b.png"})
    handler, seen = answering(urls(url), moved, httpx.Response(200, content=PNG))
    assert call(handler).data[0].read() == PNG
    assert seen[-1].url == "https://pictures.example/b.png"
    assert seen[-1].headers["accept-encoding"] == "identity"
    away = httpx.Response(302, headers={"location": "http://127.0.0.1/x"})
    (image,) = call(answering(urls(url), away)[0]).data
    with pytest.raises(DownloadError, match="ask for response_format 'b64_json'"):
        image.read()
    endless = httpx.Response(302, headers={"location": "/a.png"})
    (image,) = call(answering(urls(url), endless)[0]).data
    with pytest.raises(DownloadError, match="redirects"):
        image.read()


def test_names_of_this_machine_are_one_server(call: Caller) -> None:
    """A server on loopback may call itself by another name than the client does."""
    url = "http://127.0.0.1:8000/a.png"
    handler, _ = answering(urls(url), httpx.Response(200, content=PNG))
    assert call(handler, base_url="http://localhost:8000/v1").data[0].read() == PNG


def test_a_failed_download_holds_nothing_back(call: Caller) -> None:
    """Each reader gets an error of its own, without what had been read."""
    policy = URLPolicy(hosts=None, max_bytes=100)
    long = httpx.Response(200, content=bytes(10_000))
    url = "https://pictures.example/a.png"
    (image,) = call(answering(urls(url), long)[0], result_urls=policy).data
    errors = []
    for _ in range(2):
        with pytest.raises(DownloadError, match="100 bytes") as caught:
            image.read()
        errors.append(caught.value)
    assert errors[0] is not errors[1]
    assert len(caught.traceback) == 2


def test_an_expired_address_is_its_own_error(call: Caller) -> None:
    """The vendor's storage answers 403 with XML; the answer itself is not lost."""
    url = "https://pictures.example/files/a.png"
    gone = httpx.Response(403, content=EXPIRED, headers={"content-type": "application/xml"})
    (image,) = call(answering(urls(url), gone)[0]).data
    assert image.url == url
    with pytest.raises(ExpiredURLError):
        image.read()


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/a.png",
        "https://169.254.169.254/latest/meta-data",
        "http://other.example/a.png",
        "https://pictures.example:8443/a.png",
        "http://pictures.example/a.png",
    ],
)
def test_an_address_of_another_host_is_held_to_the_address_policy(call: Caller, url: str) -> None:
    """A server cannot make the client fetch from inside its own network."""
    handler, seen = answering(urls(url))
    (image,) = call(handler).data
    with pytest.raises(DownloadError):
        image.read()
    assert len(seen) == 1


def test_the_path_of_a_file_on_the_server_says_what_to_ask_for(call: Caller) -> None:
    """One known server answers so."""
    (image,) = call(answering(urls("/root/.xinference/image/ab.jpg"))[0]).data
    with pytest.raises(OutputError, match="ask for response_format 'b64_json'"):
        image.read()


def test_a_data_url_is_read(call: Caller) -> None:
    """Without any traffic."""
    (image,) = call(answering(urls(f"data:image/png;base64,{b64()}"))[0], normalize=True).data
    assert image.url is not None
    assert base64.b64decode(image.url.partition(",")[2]) == image.read()
    assert SquarePNG(image.read()).side == 256


def test_one_failed_download_does_not_cost_the_others(call: Caller) -> None:
    """Each result stands for itself."""
    addresses = [f"https://pictures.example/{index}.png" for index in range(3)]
    picture = httpx.Response(200, content=PNG)
    handler, _ = answering(urls(*addresses), picture, httpx.Response(404), picture)
    first, second, third = call(handler, {"n": 3}).data
    assert first.read() == third.read() == PNG
    with pytest.raises(DownloadError, match="404"):
        second.read()


def test_a_picture_by_url_needs_a_policy() -> None:
    """`urls` is handed to `load_source`; none of its hosts is, and nothing is sent."""
    handler, seen = answering(ok())
    with httpx.Client(transport=httpx.MockTransport(handler)) as http_client:
        settings: dict[str, Any] = {"base_url": BASE_URL, "http_client": http_client}
        image = "https://images.example/a.png"
        with pytest.raises(SourceError, match="URLs are not fetched"):
            ImageVariationClient(**settings).images.create_variation(image=image)
        there = httpx.MockTransport(lambda request: httpx.Response(200, content=PNG))
        policy = URLPolicy(
            hosts=["images.example"], resolve=lambda host, port: ["93.184.216.34"], transport=there
        )
        client = ImageVariationClient(**settings, urls=policy)
        client.images.create_variation(image=image)
    assert parts(seen[0])[-1][2] == PNG


async def test_ten_calls_at_once_share_a_client() -> None:
    """Each gets its own answer."""

    def handler(request: httpx.Request) -> httpx.Response:
        n = int(parts(request)[1][2])
        return ok(success(n))

    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as http_client:
        client = AsyncImageVariationClient(base_url=BASE_URL, http_client=http_client)
        calls = [
            client.create_variation(CreateImageVariationRequest(image=SquarePNG(PNG), n=n))
            for n in range(1, 11)
        ]
        answers = await asyncio.gather(*calls)
    assert [len(answer.data) for answer in answers] == list(range(1, 11))
