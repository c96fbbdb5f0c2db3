"""The scenarios: a named request and its answers, the same everywhere.

The cassettes, the replay and the loopback server all follow this one table, so a name means the
same in each.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal

__all__ = [
    "DEFAULTS",
    "SCENARIOS",
    "Answer",
    "AnswerSource",
    "Error",
    "Flaw",
    "Scenario",
    "scenario",
]

Flaw = Literal["not_png", "too_large", "not_square", "corrupt"]
"""What can be wrong with an image. "corrupt" is a PNG with an invalid structure."""

AnswerSource = Literal["app", "app with another key", "app with expired URLs", "table"]
"""What makes an answer: our app with certain settings, or this module's table."""

DEFAULTS: Mapping[str, str] = {"n": "1", "response_format": "url", "size": "1024x1024"}
"""The values of fields that a request leaves out."""


@dataclass(frozen=True, slots=True)
class Error:
    """An error in the contract's format."""

    type: str
    code: str | None = None
    param: str | None = None
    message: str | None = None
    """The text, if clients depend on it. None leaves it to the app."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: what the app itself answers, or one that this table defines completely."""

    status: int = 200
    error: Error | None = None
    source: AnswerSource = "app"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """The body, if it is neither a success nor an error in the contract's format."""
    nulls: bool = False
    """Whether each entry also has its unused keys, as null."""
    cut: bool = False
    """Whether the connection closes in the middle of the body."""

    def to_bytes(self) -> bytes:
        """Return the body of an answer that the table defines."""
        if self.error is None:
            return self.body or b""
        error = {
            "message": self.error.message,
            "type": self.error.type,
            "param": self.error.param,
            "code": self.error.code,
        }
        return json.dumps({"error": error}, indent=2).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A named request and its answers."""

    name: str
    kind: Literal["success", "refusal", "fault"]
    """Whether a legal request gets its images, an illegal one is refused, or something else goes
    wrong, whatever the request is."""
    about: str
    """A short description."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """The form fields that a client sends, other than the image."""
    sample: str | None = "square_png"
    """The function of `pytest_image_variation.samples` for the image, or None for no image."""
    breaks: str | None = None
    """What a refusal is about: a field of the contract, "key", or a field that it lacks."""
    flaw: Flaw | None = None
    """What is wrong with the image, if the refusal is about the image."""
    answers: tuple[Answer, ...] = (Answer(),)
    """The answers to the request and to its retries, in order."""

    @property
    def selective(self) -> bool:
        """Whether a request must have exactly these fields, because its images depend on them."""
        return self.kind == "success" or any(
            answer.source != "table" and answer.status == 200 and not answer.cut
            for answer in self.answers
        )


def scenario(name: str) -> Scenario:
    """Return the scenario with a name.

    Raises:
        ValueError: If it does not exist. The message suggests similar names.
    """
    try:
        return SCENARIOS[name]
    except (KeyError, TypeError):
        similar = get_close_matches(str(name), SCENARIOS, n=3, cutoff=0.5)
        hint = (
            f"Did you mean {' or '.join(map(repr, similar))}?"
            if similar
            else f"The scenarios are: {', '.join(SCENARIOS)}."
        )
        raise ValueError(f"Unknown scenario {str(name)[:60]!r}. {hint}") from None


def _successes() -> Iterator[Scenario]:
    for short, response_format in (("url", "url"), ("b64", "b64_json")):
        for n in (1, 2, 3, 10):
            for side in (1024, 512, 256):
                fields = {
                    "n": str(n),
                    "response_format": response_format,
                    "size": f"{side}x{side}",
                }
                images = "one image" if n == 1 else f"{n} images"
                yield Scenario(
                    name=f"success_{short}_n{n}" + (f"_{side}" if side != 1024 else ""),
                    kind="success",
                    about=f"{images} of {side} pixels as {response_format}",
                    # Fields with their default are not sent.
                    fields={k: v for k, v in fields.items() if DEFAULTS[k] != v},
                )
    yield Scenario(
        name="success_user",
        kind="success",
        about="one image as url, for a request with `user`",
        fields={"user": "user-1234"},
    )
    yield Scenario(
        name="success_null_fields",
        kind="success",
        about="one image as b64_json; `url` and `revised_prompt` are null",
        fields={"response_format": "b64_json"},
        answers=(Answer(nulls=True),),
    )


_INVALID = "invalid_request_error"
_BAD_IMAGE = Answer(400, Error(_INVALID, "invalid_image_format", "image"))


def _refusal(param: str | None, code: str | None = None) -> tuple[Answer, ...]:
    return (Answer(400, Error(_INVALID, code, param)),)


def _refusals() -> Iterator[Scenario]:
    for name, sample, flaw, about in (
        ("not_png", "jpeg", "not_png", "the image is not a PNG"),
        ("corrupt_image", "truncated_png", "corrupt", "the PNG is truncated or otherwise corrupt"),
        ("not_square", "non_square_png", "not_square", "the image is not square"),
        ("too_large", "oversized_png", "too_large", "the image has 4 MB or more"),
    ):
        yield Scenario(
            name=name,
            kind="refusal",
            about=about,
            sample=sample,
            breaks="image",
            flaw=flaw,  # type: ignore[arg-type]  # one of the four
            answers=(_BAD_IMAGE,),
        )
    yield Scenario(
        name="missing_image",
        kind="refusal",
        about="the request has no image",
        sample=None,
        breaks="image",
        fields={"n": "1"},
        answers=_refusal("image"),
    )
    for name, field_, value, about in (
        ("n_0", "n", "0", "n is 0"),
        ("n_11", "n", "11", "n is 11"),
        ("wrong_size", "size", "300x300", "size is not one of the three"),
        (
            "wrong_response_format",
            "response_format",
            "png",
            "response_format is not one of the two",
        ),
        ("unknown_field", "prompt", "a cat", "a field that is not in the contract"),
    ):
        yield Scenario(
            name=name,
            kind="refusal",
            about=about,
            fields={field_: value},
            breaks=field_,
            answers=_refusal(field_),
        )
    yield Scenario(
        name="unknown_model",
        kind="refusal",
        about="a model that the server does not have",
        fields={"model": "gpt-9"},
        breaks="model",
        answers=_refusal("model", "model_not_found"),
    )
    yield Scenario(
        name="missing_key",
        kind="refusal",
        about="the request has no key",
        breaks="key",
        answers=(Answer(401, Error(_INVALID), source="app with another key"),),
    )


_JSON = {"content-type": "application/json"}
# Short, so that tests of retries are fast.
_RETRY_SOON = {**_JSON, "retry-after-ms": "10", "retry-after": "1"}
_RATE_LIMIT = Answer(
    429,
    Error(
        "requests",
        "rate_limit_exceeded",
        message="Rate limit exceeded for images per minute. Limit: 5/1min. Current: 6/1min.",
    ),
    "table",
    _RETRY_SOON,
)
_IMAGE_RATE_LIMIT = Answer(
    429,
    Error(
        "input-images",
        "rate_limit_exceeded",
        message="Rate limit reached on input-images per min: Limit 5, Used 5, Requested 1. "
        "Please try again in 20ms.",
    ),
    "table",
    _JSON,
)
_SERVER_ERROR = Answer(
    500,
    Error(
        "server_error",
        message="The server had an error while processing your request. Sorry about that!",
    ),
    "table",
    {**_JSON, "retry-after-ms": "10"},
)
_EXPIRED = Answer(source="app with expired URLs")


def _fault(name: str, about: str, *answers: Answer, **fields: str) -> Scenario:
    return Scenario(name=name, kind="fault", about=about, answers=answers, fields=fields)


def _table(status: int, error: Error, headers: Mapping[str, str] = _JSON) -> Answer:
    return Answer(status, error, "table", headers)


def _faults() -> Iterator[Scenario]:
    wrong_key = Answer(401, Error(_INVALID, "invalid_api_key"), source="app with another key")
    yield _fault("wrong_key", "401: the key is wrong", wrong_key)
    budget = Error(
        _INVALID, "billing_hard_limit_reached", message="Billing hard limit has been reached"
    )
    yield _fault("budget_exhausted", "400: the budget is used up", _table(400, budget))
    yield _fault("rate_limit", "429, with the delay in the headers", _RATE_LIMIT)
    yield _fault(
        "rate_limit_then_success",
        "429, then one image as b64_json on retry",
        _RATE_LIMIT,
        Answer(),
        response_format="b64_json",
    )
    yield _fault("image_rate_limit", "429, with the delay only in the message", _IMAGE_RATE_LIMIT)
    refused = Error(
        _INVALID,
        "content_policy_violation",
        message="Your input image may contain content that is not allowed by our safety system.",
    )
    yield _fault("content_refused", "400: the image is refused", _table(400, refused))
    yield _fault("server_error", "500", _SERVER_ERROR)
    yield _fault(
        "server_error_then_success",
        "500, then one image as b64_json on retry",
        _SERVER_ERROR,
        Answer(),
        response_format="b64_json",
    )
    overloaded = Error("server_error", message="The engine is currently overloaded.")
    yield _fault(
        "unavailable",
        "503, with the delay in the headers",
        _table(503, overloaded, _RETRY_SOON),
    )
    page = b"<html>\n<head><title>504 Gateway Time-out</title></head>\n<body></body>\n</html>\n"
    html = {"content-type": "text/html"}
    yield _fault("gateway_timeout", "504 with an HTML page", Answer(504, None, "table", html, page))
    yield _fault(
        "cut_body",
        "200, and the connection closes in the middle of the body",
        Answer(cut=True),
        response_format="b64_json",
    )
    garbage = Answer(200, None, "table", _JSON, b"}{ this is no JSON\n")
    yield _fault("garbage_body", "200 with a body that is not JSON", garbage)
    yield _fault("url_expired", "200, and the image URL answers 403", _EXPIRED)
    yield _fault(
        "endpoint_removed",
        "an empty 404, the vendor's answer since it removed the endpoint",
        Answer(404, None, "table"),
    )


SCENARIOS: Mapping[str, Scenario] = {
    each.name: each for make in (_successes, _refusals, _faults) for each in make()
}
"""All scenarios by name."""
