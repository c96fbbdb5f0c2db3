"""Rules about keys, concurrent requests, repeated requests and models."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from pytest_image_variation.conformance.probe_request import WRONG_KEY, Key, ProbeRequest
from pytest_image_variation.conformance.probe_response import ProbeResponse
from pytest_image_variation.conformance.request_rules import require_service
from pytest_image_variation.conformance.rule import Level, Rule, skip
from pytest_image_variation.conformance.server_probe import ServerProbe

__all__ = ["RULES"]

_CONCURRENT = 8


# Keys...


def _send_with_key(probe: ServerProbe, key: Key, **fields: str) -> ProbeResponse:
    if not probe.server.api_key:
        skip("The server requires no key. If it does, pass --image-variation-api-key.")
    require_service(probe)
    return probe.send(replace(probe.legal_request(**fields), key=key))


def _refuses_key(key: Key, **fields: str) -> Callable[[ServerProbe], None]:
    def check(probe: ServerProbe) -> None:
        _send_with_key(probe, key, **fields).require_refusal(401)

    return check


def _unauthorized_response(probe: ServerProbe, key: Key) -> ProbeResponse:
    response = _send_with_key(probe, key)
    if response.status != 401:
        skip("There is no 401 to check; see key-missing and key-wrong.")
    return response


def _check_missing_key(probe: ServerProbe) -> None:
    response = _unauthorized_response(probe, "none")
    type_ = response.parsed_error.type
    response.require(type_ == "invalid_request_error", lambda: f"type is {response.quote(type_)}")


def _check_wrong_key(probe: ServerProbe) -> None:
    response = _unauthorized_response(probe, "wrong")
    code = response.parsed_error.code
    response.require(code == "invalid_api_key", lambda: f"code is {response.quote(code)}")


def _check_www_authenticate(probe: ServerProbe) -> None:
    response = _unauthorized_response(probe, "none")
    value = response.headers.get("www-authenticate", "")
    response.require(
        value.lower().startswith("bearer"),
        f"it is {response.quote(value)}" if value else "there is none",
    )


def _check_key_in_answer(probe: ServerProbe) -> None:
    response = _unauthorized_response(probe, "wrong")
    shows_key = WRONG_KEY.encode() in response.content
    response.require(not shows_key, "the response contains the whole key that was sent")


def _check_lower_case_scheme(probe: ServerProbe) -> None:
    _send_with_key(probe, "lower case").require_success()


# Concurrent and repeated requests...


def _check_concurrency(probe: ServerProbe) -> None:
    require_service(probe)
    max_n = probe.capabilities.max_n
    counts = [index % min(3, max_n) + 1 for index in range(_CONCURRENT)]
    requests = [
        probe.legal_request(n=str(n), user=f"conformance-at-once-{index}")
        for index, n in enumerate(counts)
    ]
    with ThreadPoolExecutor(_CONCURRENT) as pool:
        responses = list(pool.map(probe.send, requests))
    for n, response in zip(counts, responses, strict=True):
        response.require_success()
        entries = len(response.entries)
        response.require(
            entries == n,
            f"one of {_CONCURRENT} concurrent requests had n={n} and got {entries} images",
        )


def _send_twice(
    probe: ServerProbe, attempt: int = 0, *, user: str = "conformance-twice"
) -> ProbeResponse:
    headers = (("idempotency-key", f"conformance-twice-{probe.run_id}"),)
    request = probe.legal_request(user=user)
    return probe.send(replace(request, headers=headers, attempt=attempt))


def _check_idempotency(probe: ServerProbe) -> None:
    require_service(probe)
    first, second = (_send_twice(probe, attempt).require_success() for attempt in (0, 1))
    second.require(second.content == first.content, "the second response is different")


def _check_conflict(probe: ServerProbe) -> None:
    require_service(probe)
    _send_twice(probe)
    _send_twice(probe, user="conformance-not-twice").require_refusal(409)


# Models...


def _get_models(probe: ServerProbe) -> ProbeResponse:
    require_service(probe)
    return probe.send(ProbeRequest("GET", "/models"))


def _listed_models(probe: ServerProbe) -> list[Any]:
    content = _get_models(probe).json
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, list) or not data:
        skip("There is no list of models to check; see models-list.")
    return data


def _check_models(probe: ServerProbe) -> None:
    response = _get_models(probe).require_success()
    content = response.json
    data = content.get("data") if isinstance(content, dict) else None
    have_ids = isinstance(data, list) and all(
        isinstance(model, dict) and isinstance(model.get("id"), str) for model in data
    )
    response.require(have_ids and content.get("object") == "list", lambda: str(response))


def _check_requested_model(probe: ServerProbe) -> None:
    model = probe.server.model or "dall-e-2"
    ids = [each.get("id") for each in _listed_models(probe) if isinstance(each, dict)]
    response = _get_models(probe)
    response.require(model in ids, lambda: f"{model!r} is not in {response.quote(ids)}")


def _check_unknown_model(probe: ServerProbe) -> None:
    _listed_models(probe)
    probe.send(ProbeRequest("GET", "/models/conformance-no-such-model")).require_refusal(404)


def _rule(
    id: str, level: Level, text: str, check: Callable[[ServerProbe], None]
) -> Rule[ServerProbe]:
    return Rule(id, level, text, check)


RULES: tuple[Rule[ServerProbe], ...] = (
    _rule("key-missing", "MUST", "A request without a key gets a 401.", _refuses_key("none")),
    _rule("key-wrong", "MUST", "A request with a wrong key gets a 401.", _refuses_key("wrong")),
    _rule(
        "key-scheme", "SHOULD", "The key works only with the scheme Bearer.", _refuses_key("basic")
    ),
    _rule(
        "key-first",
        "SHOULD",
        "A request with a wrong key gets a 401, whatever else is wrong with it.",
        _refuses_key("wrong", n="0"),
    ),
    _rule(
        "key-lower-case",
        "SHOULD",
        "The scheme Bearer may be in lower case (RFC 9110, section 11.1).",
        _check_lower_case_scheme,
    ),
    _rule(
        "key-missing-type",
        "SHOULD",
        "The error for a missing key has the type invalid_request_error.",
        _check_missing_key,
    ),
    _rule(
        "key-wrong-code",
        "SHOULD",
        "The error for a wrong key has the code invalid_api_key.",
        _check_wrong_key,
    ),
    _rule(
        "key-authenticate", "SHOULD", "A 401 has www-authenticate: Bearer.", _check_www_authenticate
    ),
    _rule("key-not-shown", "SHOULD", "No response contains a key.", _check_key_in_answer),
    _rule(
        "at-once",
        "MUST",
        f"Each of {_CONCURRENT} concurrent requests gets its own number of images.",
        _check_concurrency,
    ),
    _rule(
        "idempotent",
        "MAY",
        "A request repeated with the same Idempotency-Key gets the same response.",
        _check_idempotency,
    ),
    _rule(
        "idempotent-conflict",
        "MAY",
        "A different request with a used Idempotency-Key gets a 409.",
        _check_conflict,
    ),
    _rule("models-list", "SHOULD", "/models lists the models, each with an id.", _check_models),
    _rule(
        "models-asked-for", "SHOULD", "The requested model is in the list.", _check_requested_model
    ),
    _rule("models-none", "MAY", "An unknown model gets a 404.", _check_unknown_model),
)
"""All rules of this module."""
