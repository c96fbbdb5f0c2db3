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


def test_the_fields_come_in_order_and_the_image_last(call: Caller) -> None:
    """The image is the last part of the form, with a type and a file name."""
    handler, requests = answering(ok(success(2)))
    answer = call(handler, {"n": 2, "user": "u1", "response_format": "b64_json"})
    assert [image.read() for image in answer.data] == [PNG, PNG]
    assert str(requests[0].url) == f"{BASE_URL}/images/variations"
    assert parts(requests[0]) == [
        ("model", "", b"dall-e-2"),
        ("n", "", b"2"),
        ("response_format", "", b"b64_json"),
        ("size", "", b"256x256"),
        ("user", "", b"u1"),
        ("image", '; filename="image.png"\r\nContent-Type: image/png', PNG),
    ]
    assert "authorization" not in requests[0].headers
    assert requests[0].headers["content-length"] == str(len(requests[0].content))


def test_the_settings_are_sent(call: Caller) -> None:
    """The key, the organization, the project, the model and extra fields are sent."""
    handler, requests = answering(ok())
    call(
        handler,
        api_key="sk-1",
        organization="org-1",
        project="proj-1",
        model="flux",
        extra_fields={"strength": 0.5, "fast": True, "steps": 4, "style": "x"},
        base_url="https://pictures.example/deep/v1/?tenant=7",
    )
    assert requests[0].headers["authorization"] == "Bearer sk-1"
    assert requests[0].headers["openai-organization"] == "org-1"
    assert requests[0].headers["openai-project"] == "proj-1"
    assert requests[0].url == "https://pictures.example/deep/v1/images/variations?tenant=7"
    fields = {name: content for name, _, content in parts(requests[0])}
    assert fields["model"] == b"flux"
    assert (fields["strength"], fields["fast"], fields["steps"]) == (b"0.5", b"true", b"4")


def test_a_model_of_the_request_is_sent(call: Caller) -> None:
    """The client's model replaces only a missing model or the retired one."""
    handler, requests = answering(ok())
    call(handler, {"model": "other"}, model="flux")
    assert parts(requests[0])[0] == ("model", "", b"other")


def test_the_environment_sets_the_defaults(call: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """The vendor's own variables are read, and arguments take precedence."""
    monkeypatch.setenv("OPENAI_BASE_URL", "https://env.example/v1\n")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-env")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-env")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-env")
    handler, requests = answering(ok())
    call(handler, base_url=None, organization="org-arg")
    assert requests[0].url.host == "env.example"
    assert requests[0].headers["authorization"] == "Bearer sk-env"
    assert requests[0].headers["openai-organization"] == "org-arg"
    assert requests[0].headers["openai-project"] == "proj-env"


@pytest.mark.parametrize("value", [None, "", "  "])
def test_there_is_no_default_server(
    call: Caller, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    """Without a server, the error lists the choices, and an empty variable counts as unset."""
    if value is not None:
        monkeypatch.setenv("OPENAI_BASE_URL", value)
        monkeypatch.setenv("OPENAI_API_KEY", value)
    handler, requests = answering(ok())
    with pytest.raises(InvalidRequestError, match=r"removed .*'gpt-image'.*'local'") as caught:
        call(handler, base_url=None)
    assert caught.value.param == "base_url"
    assert requests == []


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
        ({"base_url": "http://xn--a/v1"}, "base_url"),
        ({"base_url": "http://xn--ls8h.example/v1"}, "base_url"),
        ({"base_url": f"http://{'a.' * 130}example/v1"}, "base_url"),
        ({"max_answer_bytes": 0}, "max_answer_bytes"),
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
    """The error for a setting out of range names the setting."""
    for client_class in (ImageVariationClient, AsyncImageVariationClient):
        with pytest.raises(InvalidRequestError) as caught:
            client_class(**{"base_url": BASE_URL, **settings})
        assert caught.value.param == param


@pytest.mark.parametrize("key", ["sk-\n1", "sk-ü", "sk-\x00"])
def test_a_key_with_odd_characters_is_refused(key: str) -> None:
    """A key with invalid characters is refused, and the error does not show it."""
    with pytest.raises(AuthenticationError) as caught:
        ImageVariationClient(base_url=BASE_URL, api_key=key)
    assert "sk-" not in str(caught.value)


def test_an_http_client_of_the_other_kind_is_refused() -> None:
    """The constructor refuses a sync HTTP client for async use, and an async one for sync use."""
    with pytest.raises(InvalidRequestError, match=r"httpx\.Client"):
        ImageVariationClient(base_url=BASE_URL, http_client=httpx.AsyncClient())  # type: ignore[arg-type]  # on purpose
    with httpx.Client() as client, pytest.raises(InvalidRequestError, match=r"httpx\.AsyncClient"):
        AsyncImageVariationClient(base_url=BASE_URL, http_client=client)  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize(
    ("status", "settings"),
    [(401, {}), (400, {}), (200, {"timeout": -1}), (200, {"base_url": "x"}), (200, {"model": ""})],
)
def test_the_key_is_shown_nowhere(
    call: Caller, caplog: pytest.LogCaptureFixture, status: int, settings: dict[str, Any]
) -> None:
    """No log, error, repr or variable of a traceback shows it, even if the server echoes it."""
    key = "verysecret0123456789"
    text = "word " * 94 + f"Incorrect API key: {key} and {key}."
    body = failure(text, code=key, param=key, type=key)
    handler, _ = answering(httpx.Response(status, content=body))
    caplog.set_level(0)
    with pytest.raises(ImageVariationError) as caught:
        call(handler, api_key=key, **settings)
    summary = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    our_frames = [frame for frame in summary.stack if "langchain_image_variation" in frame.filename]
    texts = [text for frame in our_frames for text in (frame.locals or {}).values()]
    texts += [caplog.text, repr(caught.value), repr(vars(caught.value))]
    assert our_frames
    assert not [text for text in texts if "verysec" in text]


def test_a_client_shows_only_its_address() -> None:
    """The repr of a client has no query, and no part of the client shows the key."""
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
def test_base_url_has_many_spellings(call: Caller, base_url: str, url: str) -> None:
    """`base_url` may have blanks, slashes, the path of the call, escapes and a query."""
    handler, requests = answering(ok())
    call(handler, base_url=base_url)
    assert str(requests[0].url).replace("bücher", "xn--bcher-kva") == url


def test_an_empty_key_sends_none(call: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty key or organization is not sent, whatever the environment says."""
    for name in ("API_KEY", "ORG_ID", "PROJECT_ID"):
        monkeypatch.setenv(f"OPENAI_{name}", "vendor")
    handler, requests = answering(ok())
    call(handler, api_key="", organization="", project="")
    assert not {"authorization", "openai-organization", "openai-project"} & set(requests[0].headers)


def test_a_closed_client_is_our_error(call: Caller) -> None:
    """A closed client and a failing hook of an httpx client raise our own error."""
    with pytest.raises(EngineConnectionError, match="is the client closed"):
        call(answering(RuntimeError("closed"))[0])
    closed_client = ImageVariationClient(base_url=BASE_URL)
    closed_client.close()
    with pytest.raises(EngineConnectionError, match="is the client closed"):
        closed_client.images.create_variation(image=PNG)

    def refuse(response: httpx.Response) -> None:
        response.raise_for_status()

    transport = httpx.MockTransport(lambda request: httpx.Response(500))
    hooks: dict[str, list[Any]] = {"response": [refuse]}
    with httpx.Client(transport=transport, event_hooks=hooks) as http_client:
        client = ImageVariationClient(base_url=BASE_URL, http_client=http_client)
        with pytest.raises(EngineConnectionError, match="hook"):
            client.images.create_variation(image=PNG)
