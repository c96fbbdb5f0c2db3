"""Rules about the response to a request that is refused."""

from collections.abc import Mapping
from dataclasses import replace

from pytest_image_variation.conformance.probe_request import ProbeRequest
from pytest_image_variation.conformance.probe_response import ProbeResponse
from pytest_image_variation.conformance.rule import Rule, skip
from pytest_image_variation.conformance.server_probe import ServerProbe

__all__ = ["RULES"]

_KEYS = ("message", "type", "param", "code")
_LONGEST_MESSAGE = 1000
_INTERNALS = ("Traceback", "site-packages", "/home/", "/usr/lib", "/app/")


def _refusal(probe: ServerProbe) -> ProbeResponse:
    """Return the response that most rules check: to the first illegal request that is refused.

    Raises:
        SkipCheck: If the server accepts all of them.
    """
    for n in ("-7", "seven"):
        response = probe.variation(n=n)
        if response.status >= 400:
            return response
    skip("The server accepts illegal values of n; see refuse-n-negative and refuse-n-word.")


def _refusal_of(probe: ServerProbe, *, image: str = "rgb.png", **fields: str) -> ProbeResponse:
    """Return the response to an illegal request that is refused because it is illegal.

    Raises:
        SkipCheck: If the server accepts it, or refuses every request.
    """
    probe.require_service()
    response = probe.variation(image=image, **fields)
    if response.status < 400:
        skip("The server accepts that request; see the rules that start with refuse.")
    return response


def _error(response: ProbeResponse) -> Mapping[str, object]:
    if response.error is None:
        skip("The response has no error object to check; see error-envelope.")
    return response.error


def _check_content_type(probe: ServerProbe) -> None:
    response = _refusal(probe)
    kind = response.headers.get("content-type", "none")
    is_json = kind.partition(";")[0].strip().lower() == "application/json"
    response.require(is_json, lambda: f"it is {response.quote(kind)}")


def _check_envelope(probe: ServerProbe) -> None:
    response = _refusal(probe)
    response.require(response.error is not None, lambda: str(response))


def _check_message(probe: ServerProbe) -> None:
    response = _refusal(probe)
    message = _error(response).get("message")
    response.require(
        isinstance(message, str) and bool(message), lambda: f"message is {response.quote(message)}"
    )


def _check_type(probe: ServerProbe) -> None:
    probe.require_service()
    response = _refusal(probe)
    type_ = _error(response).get("type")
    response.require(type_ == "invalid_request_error", lambda: f"type is {response.quote(type_)}")


def _check_keys(probe: ServerProbe) -> None:
    response = _refusal(probe)
    missing = [key for key in _KEYS if key not in _error(response)]
    response.require(not missing, f"it lacks {', '.join(missing)}")


def _check_empty_keys(probe: ServerProbe) -> None:
    response = _refusal(probe)
    empty = [key for key in _KEYS if _error(response).get(key) == ""]
    response.require(not empty, f"{', '.join(empty)} is an empty string")


def _check_other_keys(probe: ServerProbe) -> None:
    response = _refusal(probe)
    _error(response)
    others = sorted(response.json.keys() - {"error"})
    response.require(not others, lambda: f"the body also has {response.quote(others)}")


def _names_param(id: str, param: str, value: str) -> Rule[ServerProbe]:
    def check(probe: ServerProbe) -> None:
        response = _refusal_of(probe, **{param: value})
        actual = response.parsed_error.param
        response.require(actual == param, lambda: f"param is {response.quote(actual)}")

    text = f"The error for an illegal {param} names it in param."
    return Rule(id, "SHOULD", text, check)


def _check_param_of_image(probe: ServerProbe) -> None:
    response = _refusal_of(probe, image="photo.jpg", user="conformance-error")
    param = response.parsed_error.param
    response.require(param == "image", lambda: f"param is {response.quote(param)}")


def _check_image_code(probe: ServerProbe) -> None:
    response = _refusal_of(probe, image="photo.jpg", user="conformance-error")
    code = response.parsed_error.code
    response.require(code == "invalid_image_format", lambda: f"code is {response.quote(code)}")


def _check_model_code(probe: ServerProbe) -> None:
    response = _refusal_of(probe, model="conformance-no-such-model-either")
    error = response.parsed_error
    is_right = error.code == "model_not_found" or (error.code, error.param) == (
        "invalid_value",
        "model",
    )
    response.require(is_right, lambda: f"code is {response.quote(error.code)}")


def _check_request_id(probe: ServerProbe) -> None:
    response = _refusal(probe)
    response.require(bool(response.headers.get("x-request-id")), "there is none")


def _check_finality(probe: ServerProbe) -> None:
    probe.require_service()
    response = _refusal(probe)
    retry = response.headers.get("x-should-retry", "")
    response.require(retry != "true", "x-should-retry is true")
    response.require("retry-after" not in response.headers, "there is a retry-after")


def _check_length_of_message(probe: ServerProbe) -> None:
    # A client's own text must not fill its log, or a page that shows the message.
    response = _refusal_of(probe, size="x" * 5000)
    length = len(response.parsed_error.message or "")
    response.require(length <= _LONGEST_MESSAGE, f"the message has {length:,} characters")


def _check_internals(probe: ServerProbe) -> None:
    response = probe.variation(image="cut-off.png", user="conformance-error")
    if response.status < 400:
        skip("The server accepts that request; see refuse-cut-off.")
    text = response.content.decode("utf-8", "replace")
    internals = [word for word in _INTERNALS if word in text]
    response.require(not internals, lambda: str(response))


def _check_unknown_path(probe: ServerProbe) -> None:
    probe.require_service()
    request = replace(ProbeRequest("GET"), path="/images/conformance-no-such-address")
    probe.send(request).require_refusal(404)


def _check_recovery(probe: ServerProbe) -> None:
    probe.require_service()
    for image in ("cut-off.png", "text.png", "empty.png"):
        probe.variation(image=image)
    probe.variation(user="conformance-after-errors").require_success()


RULES: tuple[Rule[ServerProbe], ...] = (
    Rule("error-content-type", "MUST", "An error is application/json.", _check_content_type),
    Rule("error-envelope", "MUST", 'The body of an error is {"error": {…}}.', _check_envelope),
    Rule("error-message", "MUST", "An error has a message, a non-empty string.", _check_message),
    Rule(
        "error-type",
        "MUST",
        "The error for an illegal request has the type invalid_request_error.",
        _check_type,
    ),
    Rule("error-all-keys", "SHOULD", "An error has message, type, param and code.", _check_keys),
    Rule(
        "error-null",
        "SHOULD",
        "Keys of an error without a value are null, not empty.",
        _check_empty_keys,
    ),
    Rule(
        "error-alone",
        "SHOULD",
        "The body of an error has nothing but the error.",
        _check_other_keys,
    ),
    _names_param("error-param-n", "n", "99"),
    _names_param("error-param-size", "size", "640x480"),
    _names_param("error-param-response-format", "response_format", "jpeg"),
    Rule(
        "error-param-image",
        "SHOULD",
        "The error for an illegal image has the param image.",
        _check_param_of_image,
    ),
    Rule(
        "error-code-image",
        "SHOULD",
        "The error for an illegal image has the code invalid_image_format.",
        _check_image_code,
    ),
    Rule(
        "error-code-model",
        "SHOULD",
        "An unknown model gets the code model_not_found, or invalid_value with the param model.",
        _check_model_code,
    ),
    Rule("error-request-id", "SHOULD", "An error has the header x-request-id.", _check_request_id),
    Rule(
        "error-final",
        "SHOULD",
        "The error for an illegal request does not tell clients to retry.",
        _check_finality,
    ),
    Rule(
        "error-short",
        "SHOULD",
        "A message is short, whatever the request contains.",
        _check_length_of_message,
    ),
    Rule(
        "error-nothing-inside",
        "SHOULD",
        "An error shows no internals of the server, such as a traceback or a path.",
        _check_internals,
    ),
    Rule("error-no-address", "SHOULD", "An unknown path gets a 404.", _check_unknown_path),
    Rule(
        "error-recovers",
        "MUST",
        "After corrupt images, legal requests still get images.",
        _check_recovery,
    ),
)
"""All rules of this module."""
