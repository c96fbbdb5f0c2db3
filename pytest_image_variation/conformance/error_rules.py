"""Rules about the answer to a request that is refused."""

from collections.abc import Mapping
from dataclasses import replace

from pytest_image_variation.conformance.probe_request import Question
from pytest_image_variation.conformance.probe_response import Answer
from pytest_image_variation.conformance.request_rules import serves
from pytest_image_variation.conformance.rule import Rule, unseen
from pytest_image_variation.conformance.server_probe import ServerProbe

__all__ = ["RULES"]

_KEYS = ("message", "type", "param", "code")
_LONGEST_MESSAGE = 1000
_INSIDE = ("Traceback", "site-packages", "/home/", "/usr/lib", "/app/")


def _refused(probe: ServerProbe) -> Answer:
    """Return the answer at which most rules look: to the first illegal request that is refused.

    Raises:
        Unseen: If the server serves them all.
    """
    for n in ("-7", "seven"):
        answer = probe.variation(n=n)
        if answer.status >= 400:
            return answer
    unseen("The server refuses too little; see refuse-n-negative and refuse-n-word.")


def _about(probe: ServerProbe, *, picture: str = "rgb.png", **fields: str) -> Answer:
    """Return the answer to an illegal request, if what is wrong with it is why it is refused.

    Raises:
        Unseen: If it is served, or if everything is refused.
    """
    serves(probe)
    answer = probe.variation(picture=picture, **fields)
    if answer.status < 400:
        unseen("The server serves that request; see the rules whose names begin with refuse.")
    return answer


def _error(answer: Answer) -> Mapping[str, object]:
    if answer.error is None:
        unseen("There is no error in the contract's envelope to look at; see error-envelope.")
    return answer.error


def _content_type(probe: ServerProbe) -> None:
    answer = _refused(probe)
    kind = answer.headers.get("content-type", "none")
    plain = kind.partition(";")[0].strip().lower()
    answer.must(plain == "application/json", lambda: f"it is {answer.shown(kind)}")


def _envelope(probe: ServerProbe) -> None:
    answer = _refused(probe)
    answer.must(answer.error is not None, lambda: str(answer))


def _message(probe: ServerProbe) -> None:
    answer = _refused(probe)
    message = _error(answer).get("message")
    answer.must(
        isinstance(message, str) and bool(message), lambda: f"message is {answer.shown(message)}"
    )


def _type(probe: ServerProbe) -> None:
    serves(probe)
    answer = _refused(probe)
    found = _error(answer).get("type")
    answer.must(found == "invalid_request_error", lambda: f"type is {answer.shown(found)}")


def _all_keys(probe: ServerProbe) -> None:
    answer = _refused(probe)
    missing = [key for key in _KEYS if key not in _error(answer)]
    answer.must(not missing, f"{', '.join(missing)} is left out")


def _null(probe: ServerProbe) -> None:
    answer = _refused(probe)
    empty = [key for key in _KEYS if _error(answer).get(key) == ""]
    answer.must(not empty, f"{', '.join(empty)} is an empty text")


def _only_error(probe: ServerProbe) -> None:
    answer = _refused(probe)
    _error(answer)
    others = sorted(answer.json.keys() - {"error"})
    answer.must(not others, lambda: f"there is {answer.shown(others)} too")


def _names(param: str, value: str) -> Rule[ServerProbe]:
    def check(probe: ServerProbe) -> None:
        answer = _about(probe, **{param: value})
        found = answer.known_error.param
        answer.must(found == param, lambda: f"param is {answer.shown(found)}")

    text = f"The error about {param} has its name as param."
    return Rule(f"error-param-{param.replace('_', '-')}", "SHOULD", text, check)


def _names_picture(probe: ServerProbe) -> None:
    answer = _about(probe, picture="photo.jpg", user="conformance-error")
    found = answer.known_error.param
    answer.must(found == "image", lambda: f"param is {answer.shown(found)}")


def _picture_code(probe: ServerProbe) -> None:
    answer = _about(probe, picture="photo.jpg", user="conformance-error")
    found = answer.known_error.code
    answer.must(found == "invalid_image_format", lambda: f"code is {answer.shown(found)}")


def _model_code(probe: ServerProbe) -> None:
    answer = _about(probe, model="conformance-no-such-model-either")
    error = answer.known_error
    known = error.code == "model_not_found" or (error.code, error.param) == (
        "invalid_value",
        "model",
    )
    answer.must(known, lambda: f"code is {answer.shown(error.code)}")


def _request_id(probe: ServerProbe) -> None:
    answer = _refused(probe)
    answer.must(bool(answer.headers.get("x-request-id")), "there is none")


def _final(probe: ServerProbe) -> None:
    serves(probe)
    answer = _refused(probe)
    retry = answer.headers.get("x-should-retry", "")
    answer.must(retry != "true", "x-should-retry is true")
    answer.must("retry-after" not in answer.headers, "there is a retry-after")


def _short(probe: ServerProbe) -> None:
    # Text that a client sent must not fill its log, nor a page that shows the message.
    answer = _about(probe, size="x" * 5000)
    length = len(answer.known_error.message or "")
    answer.must(length <= _LONGEST_MESSAGE, f"the message has {length:,} characters")


def _nothing_inside(probe: ServerProbe) -> None:
    answer = probe.variation(picture="cut-off.png", user="conformance-error")
    if answer.status < 400:
        unseen("The server serves that request; see refuse-cut-off.")
    text = answer.content.decode("utf-8", "replace")
    found = [word for word in _INSIDE if word in text]
    answer.must(not found, lambda: str(answer))


def _elsewhere(probe: ServerProbe) -> None:
    serves(probe)
    question = replace(Question("GET"), path="/images/conformance-no-such-address")
    probe.ask(question).refused(404)


def _recovers(probe: ServerProbe) -> None:
    serves(probe)
    for picture in ("cut-off.png", "text.png", "empty.png"):
        probe.variation(picture=picture)
    probe.variation(user="conformance-after-errors").succeeded()


RULES: tuple[Rule[ServerProbe], ...] = (
    Rule("error-content-type", "MUST", "An error is application/json.", _content_type),
    Rule("error-envelope", "MUST", 'The body of an error is {"error": {…}}.', _envelope),
    Rule("error-message", "MUST", "An error has a message, a text.", _message),
    Rule(
        "error-type",
        "MUST",
        "The error of an illegal request has the type invalid_request_error.",
        _type,
    ),
    Rule("error-all-keys", "SHOULD", "An error has message, type, param and code.", _all_keys),
    Rule("error-null", "SHOULD", "What an error does not say is null, not an empty text.", _null),
    Rule("error-alone", "SHOULD", "There is nothing beside the error in its body.", _only_error),
    _names("n", "99"),
    _names("size", "640x480"),
    _names("response_format", "jpeg"),
    Rule(
        "error-param-image",
        "SHOULD",
        "The error about the picture has image as param.",
        _names_picture,
    ),
    Rule(
        "error-code-image",
        "SHOULD",
        "The error about the picture has the code invalid_image_format.",
        _picture_code,
    ),
    Rule(
        "error-code-model",
        "SHOULD",
        "The error about the model has the code model_not_found, or invalid_value and param model.",
        _model_code,
    ),
    Rule("error-request-id", "SHOULD", "An error has the header x-request-id.", _request_id),
    Rule(
        "error-final",
        "SHOULD",
        "The error of an illegal request does not tell clients to try again.",
        _final,
    ),
    Rule("error-short", "SHOULD", "A message stays short, whatever was sent.", _short),
    Rule(
        "error-nothing-inside",
        "SHOULD",
        "An error shows nothing of the server's inside: no traceback, no path.",
        _nothing_inside,
    ),
    Rule("error-no-address", "SHOULD", "An address that does not exist is 404.", _elsewhere),
    Rule(
        "error-recovers",
        "MUST",
        "After broken pictures, legal requests are served as before.",
        _recovers,
    ),
)
"""All of them."""
