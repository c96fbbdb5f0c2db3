import json
from typing import Any

import httpx
import pytest

from langchain_image_variation.cancellation import stop_when
from langchain_image_variation.contract import CreateImageVariationRequest
from langchain_image_variation.engines import VariationEngine
from langchain_image_variation.engines.loading import load_engine
from langchain_image_variation.exceptions import (
    AuthenticationError,
    ContentPolicyError,
    EngineConnectionError,
    EngineError,
    ImageVariationError,
    InvalidRequestError,
    ModelNotFoundError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
)
from langchain_image_variation.hosted.gpt_image import GptImageEngine
from langchain_image_variation.images.png import SquarePNG
from pytest_image_variation.samples import square_png
from tests.calling import PNG, Handler, answering, b64, failure

BIG = square_png(64)
USAGE = {
    "input_tokens": 194,
    "input_tokens_details": {"image_tokens": 187, "text_tokens": 7},
    "output_tokens": 1056,
    "output_tokens_details": {"image_tokens": 1056, "text_tokens": 0},
    "total_tokens": 1250,
}


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the developer's environment out of the tests."""
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def make_engine(handler: Handler, **options: Any) -> GptImageEngine:
    """Return an engine whose server is `handler`."""
    http_client = httpx.Client(transport=httpx.MockTransport(handler))
    options = {"api_key": "sk-1", **options}
    engine = load_engine("gpt-image", http_client=http_client, **options)
    assert isinstance(engine, GptImageEngine)
    return engine


def request(**fields: Any) -> CreateImageVariationRequest:
    """Return a small request."""
    arguments = {
        "image": SquarePNG(PNG),
        "size": "256x256",
        "response_format": "b64_json",
        **fields,
    }
    return CreateImageVariationRequest(**arguments)


def edit_answer(n: int = 1) -> httpx.Response:
    """Return an answer in the shape of GPT Image."""
    content = {
        "created": 7,
        "background": "opaque",
        "data": [{"b64_json": b64(BIG)}] * n,
        "output_format": "png",
        "quality": "medium",
        "size": "1024x1024",
        "usage": USAGE,
    }
    return httpx.Response(200, json=content)


def form(http_request: httpx.Request) -> dict[str, str]:
    """Return the fields of a form other than the image."""
    boundary = http_request.headers["content-type"].partition("boundary=")[2].encode()
    fields = {}
    for part in http_request.content.split(b"--" + boundary)[1:-1]:
        head, _, content = part.strip(b"\r\n").partition(b"\r\n\r\n")
        if b"filename" not in head:
            fields[head.decode().partition('name="')[2][:-1]] = content.decode()
    return fields


def test_an_unreachable_vendor_is_a_problem_of_the_network() -> None:
    """If the vendor cannot be reached, the error says to check the network, not `base_url`."""

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("", request=request)

    engine = make_engine(refuse, max_retries=0)
    with pytest.raises(EngineConnectionError, match=r"^api\.openai\.com cannot .* network"):
        engine.create_variation(request())


def test_a_variation_is_an_edit_with_a_prompt() -> None:
    """An edit request has a model, the smallest size, and no field that the models refuse."""
    handler, requests = answering(edit_answer(2))
    engine = make_engine(handler)
    assert isinstance(engine, VariationEngine)
    answer = engine.create_variation(request(n=2, user="u1"))
    assert requests[0].url == "https://api.openai.com/v1/images/edits"
    assert requests[0].headers["authorization"] == "Bearer sk-1"
    assert form(requests[0]) == {
        "model": "gpt-image-2",
        "prompt": "Create a variation of this image",
        "n": "2",
        "size": "1024x1024",
        "user": "u1",
    }
    assert b'name="image"; filename="image.png"\r\nContent-Type: image/png' in requests[0].content
    assert [SquarePNG(image.read()).side for image in answer.data] == [256, 256]
    assert (answer.created, answer.size, answer.quality) == (7, "256x256", "medium")
    assert answer.usage is not None
    assert answer.usage.total_tokens == 1250


@pytest.mark.parametrize("size", ["256x256", "512x512", "1024x1024"])
def test_every_size_is_made_at_1024_and_scaled(size: str) -> None:
    """Smaller sizes are scaled from 1024 pixels, as the models make no smaller images."""
    handler, requests = answering(edit_answer())
    answer = make_engine(handler).create_variation(request(size=size))
    assert form(requests[0])["size"] == "1024x1024"
    assert f"{SquarePNG(answer.data[0].read()).side}" == size.partition("x")[0]


def test_url_is_answered_with_data_urls() -> None:
    """The models return base64 only, so `url` becomes a data: URL."""
    answer = make_engine(answering(edit_answer())[0]).create_variation(
        request(response_format="url")
    )
    url = answer.data[0].url
    assert url is not None
    assert url.startswith("data:image/png;base64,")
    assert answer.data[0].b64_json is None
    assert SquarePNG(answer.data[0].read()).side == 256


def test_a_request_above_n_per_call_is_split() -> None:
    """A request above `n_per_call` is split, and the answers and token counts are merged."""
    handler, requests = answering(edit_answer(4), edit_answer(4), edit_answer(2))
    answer = make_engine(handler, n_per_call=4).create_variation(request(n=10))
    assert [form(http_request)["n"] for http_request in requests] == ["4", "4", "2"]
    assert len({http_request.headers["idempotency-key"] for http_request in requests}) == 3
    assert len(answer.data) == 10
    assert answer.usage is not None
    assert answer.usage.output_tokens == 3168
    assert answer.usage.input_tokens_details is not None
    assert answer.usage.input_tokens_details.text_tokens == 21


def test_a_later_call_that_fails_costs_only_its_images() -> None:
    """If a request is split and a call fails, the images of the earlier calls are kept."""
    refusal = httpx.Response(400, content=failure("Rejected.", code="content_policy_violation"))
    handler, requests = answering(edit_answer(2), refusal)
    answer = make_engine(handler, n_per_call=2).create_variation(request(n=6))
    assert len(requests) == 2
    assert [image.failure is None for image in answer.data] == [True] * 2 + [False] * 4
    with pytest.raises(ContentPolicyError, match="Rejected"):
        answer.data[2].read()


def test_a_stopped_request_sends_no_further_call() -> None:
    """If the call is stopped, the images so far are returned, and nothing more is sent."""
    handler, requests = answering(edit_answer(2))
    with stop_when(lambda: len(requests) == 1):
        answer = make_engine(handler, n_per_call=2).create_variation(request(n=3))
    assert SquarePNG(answer.data[1].read()).side == 256
    with pytest.raises(EngineError, match="Interrupted before the call"):
        answer.data[2].read()


def test_prompt_model_and_fields_are_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt, the model, the form fields and the server are options."""
    monkeypatch.setenv("OPENAI_BASE_URL", "https://gateway.example/v1")
    handler, requests = answering(edit_answer())
    engine = make_engine(
        handler, prompt="As a woodcut", model="own", extra_fields={"quality": "low"}
    )
    engine.create_variation(request())
    engine.create_variation(request(model="named"))
    assert requests[0].url == "https://gateway.example/v1/images/edits"
    assert [form(http_request)["model"] for http_request in requests] == ["own", "named"]
    assert form(requests[0])["prompt"] == "As a woodcut"
    assert form(requests[0])["quality"] == "low"


@pytest.mark.parametrize(
    ("model", "fidelity", "is_sent"),
    [
        ("gpt-image-1.5", "high", True),
        ("gpt-image-1.5", "low", True),
        ("gpt-image-1-mini", "low", True),
        ("gpt-image-1-mini", "high", False),
        ("gpt-image-2", "high", False),
        ("gpt-image-2.5-sunburst", "low", False),
    ],
)
def test_input_fidelity_depends_on_the_model(model: str, fidelity: str, is_sent: bool) -> None:
    """Input fidelity is refused before anything is sent to a model without it."""
    handler, requests = answering(edit_answer())
    engine = make_engine(handler, model=model, input_fidelity=fidelity)
    if is_sent:
        engine.create_variation(request())
        assert form(requests[0])["input_fidelity"] == fidelity
    else:
        with pytest.raises(InvalidRequestError) as caught:
            engine.create_variation(request())
        assert caught.value.param == "input_fidelity"
        assert requests == []


LIMIT = (
    "Rate limit reached for gpt-image-2 (for limit gpt-image) in organization org-1 on "
    "input-images per min: Limit 5, Used 5, Requested 1. Please try again in 12s."
)


@pytest.mark.parametrize(
    ("status", "body", "error_class", "message"),
    [
        (
            429,
            failure(LIMIT, type="input-images", code="rate_limit_exceeded"),
            RateLimitError,
            "input-images per min",
        ),
        (
            400,
            failure("rejected", type="image_generation_user_error", code="moderation_blocked"),
            ContentPolicyError,
            "rejected",
        ),
        (
            403,
            failure("Your organization must be verified to use the model"),
            PermissionDeniedError,
            "must be verified",
        ),
        (
            400,
            failure("The model 'x' does not exist.", code="invalid_value", param="model"),
            ModelNotFoundError,
            "does not exist",
        ),
        (404, b"", NotFoundError, "The server has no /images/edits"),
    ],
)
def test_refusals_of_the_model_are_clear_errors(
    status: int, body: bytes, error_class: type[ImageVariationError], message: str
) -> None:
    """Rate limits, moderation and unverified organizations each have an error."""
    handler, requests = answering(httpx.Response(status, content=body))
    with pytest.raises(error_class, match=message) as caught:
        make_engine(handler, deadline=5).create_variation(request())
    assert type(caught.value) is error_class
    assert len(requests) == 1


def test_the_limit_on_input_images_is_waited_for() -> None:
    """A limit on input images is waited for, although only the error's text has the delay."""
    limit_body = failure(LIMIT.replace("12s", "20ms"), code="rate_limit_exceeded")
    handler, requests = answering(httpx.Response(429, content=limit_body), edit_answer())
    make_engine(handler).create_variation(request())
    assert len(requests) == 2


def test_without_a_key_nothing_is_sent_to_the_vendor() -> None:
    """Without a key, only servers other than the vendor's get a request."""
    with pytest.raises(AuthenticationError, match="OPENAI_API_KEY"):
        load_engine("gpt-image")
    handler, requests = answering(edit_answer())
    make_engine(handler, api_key=None, base_url="http://127.0.0.1:1/v1").create_variation(request())
    assert "authorization" not in requests[0].headers


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": "x" * 32_001}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"n_per_call": 0}, "n_per_call"),
        ({"n_per_call": 11}, "n_per_call"),
        ({"n_per_call": "2"}, "n_per_call"),
        ({"extra_fields": {"response_format": "url"}}, "extra_fields"),
        ({"extra_fields": {"prompt": "x"}}, "extra_fields"),
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, Any], param: str) -> None:
    """The constructor refuses an option out of range, and `response_format` is never sent."""
    with pytest.raises(InvalidRequestError) as caught:
        make_engine(answering(edit_answer())[0], **options)
    assert caught.value.param == param


def test_unknown_keys_of_usage_are_summed_or_kept() -> None:
    """A split request loses no token count of a newer model."""
    one = json.loads(edit_answer().content)
    one["usage"]["cached_tokens"] = 3
    handler, _ = answering(httpx.Response(200, json=one), edit_answer())
    answer = make_engine(handler, n_per_call=1).create_variation(request(n=2))
    assert answer.usage is not None
    assert answer.usage.model_dump()["cached_tokens"] == 3


def test_a_copy_has_another_prompt() -> None:
    """A copy for one request sends its own prompt and has its own fingerprint."""
    handler, requests = answering(edit_answer(), edit_answer())
    engine = make_engine(handler, prompt="Mine")
    copy = engine.with_options(prompt="In the snow")
    for variation_engine in (copy, engine, engine.with_options()):
        variation_engine.create_variation(request())
    assert [form(r)["prompt"] for r in requests] == ["In the snow", "Mine", "Mine"]
    assert copy.fingerprint != engine.fingerprint == engine.with_options(prompt="Mine").fingerprint
    with pytest.raises(InvalidRequestError, match=r"1 to 32,000 characters") as caught:
        engine.with_options(prompt="")
    assert caught.value.param == "prompt"
