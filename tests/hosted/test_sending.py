import traceback
from typing import Any

import httpx
import pytest

from langchain_image_variation.exceptions import (
    AuthenticationError,
    EngineConnectionError,
    ImageVariationError,
    InvalidRequestError,
)
from langchain_image_variation.hosted.client import AsyncImageVariationClient, ImageVariationClient
from tests.calling import (
    BASE_URL,
    PNG,
    Caller,
    answering,
    failure,
    ok,
    parts,
    success,
)


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
