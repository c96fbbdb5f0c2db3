"""Rules about keys: which requests are unauthorized, and what a 401 says."""

from collections.abc import Callable
from dataclasses import replace

from pytest_image_variation.conformance.probe_request import WRONG_KEY, Key
from pytest_image_variation.conformance.probe_response import ProbeResponse
from pytest_image_variation.conformance.rule import Rule, skip
from pytest_image_variation.conformance.server_probe import ServerProbe

__all__ = ["RULES"]


def _send_with_key(probe: ServerProbe, key: Key, **fields: str) -> ProbeResponse:
    if not probe.server.api_key:
        skip("The server requires no key. If it does, pass --image-variation-api-key.")
    probe.require_service()
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


RULES: tuple[Rule[ServerProbe], ...] = (
    Rule("key-missing", "MUST", "A request without a key gets a 401.", _refuses_key("none")),
    Rule("key-wrong", "MUST", "A request with a wrong key gets a 401.", _refuses_key("wrong")),
    Rule(
        "key-scheme", "SHOULD", "The key works only with the scheme Bearer.", _refuses_key("basic")
    ),
    Rule(
        "key-first",
        "SHOULD",
        "A request with a wrong key gets a 401, whatever else is wrong with it.",
        _refuses_key("wrong", n="0"),
    ),
    Rule(
        "key-lower-case",
        "SHOULD",
        "The scheme Bearer may be in lower case (RFC 9110, section 11.1).",
        _check_lower_case_scheme,
    ),
    Rule(
        "key-missing-type",
        "SHOULD",
        "The error for a missing key has the type invalid_request_error.",
        _check_missing_key,
    ),
    Rule(
        "key-wrong-code",
        "SHOULD",
        "The error for a wrong key has the code invalid_api_key.",
        _check_wrong_key,
    ),
    Rule(
        "key-authenticate", "SHOULD", "A 401 has www-authenticate: Bearer.", _check_www_authenticate
    ),
    Rule("key-not-shown", "SHOULD", "No response contains a key.", _check_key_in_answer),
)
"""All rules of this module."""
