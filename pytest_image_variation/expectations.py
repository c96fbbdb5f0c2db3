"""The scenarios that a test expects, and which of its requests match them."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass

from langchain_image_variation.error_response import Error, ErrorResponse
from pytest_image_variation.forms import Form, SentImage
from pytest_image_variation.scenarios import DEFAULTS, Answer, Scenario, scenario

__all__ = ["Expectations", "Match", "ReceivedRequest", "UnexpectedRequest"]

ENDPOINT = "/images/variations"
_ADVICE = (
    "Add a scenario for it, or mark the test @pytest.mark.image_variation(allow_unexpected=True)."
)
_FIELDS = {"image", "model", "n", "response_format", "size", "user"}
_NULLABLE = {"model", "n", "response_format", "size"}
"""The fields for which SDKs send the text `null`."""


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """The parts of a request that tell scenarios apart."""

    method: str
    path: str
    form: Form
    image: SentImage | None
    has_key: bool

    @classmethod
    def from_form(cls, method: str, path: str, form: Form, *, has_key: bool) -> "ReceivedRequest":
        """Return a request with the facts of the image in its form."""
        image = None if form.image is None else SentImage.from_part(form.image)
        return cls(method, path, form, image, has_key)


@dataclass(frozen=True, slots=True)
class Match:
    """The scenario that a request matched, and the index of the answer it gets."""

    scenario: Scenario
    index: int

    @property
    def answer(self) -> Answer:
        """The answer to give."""
        return self.scenario.answers[self.index]


class UnexpectedRequest(Exception):
    """A request matches no scenario; the message compares it with the closest one."""

    def to_json(self) -> str:
        """Return the body of a 400 response. SDKs do not retry a 400."""
        error = Error(message=str(self), type="invalid_request_error", code="unexpected_request")
        return ErrorResponse(error=error).to_json()


@dataclass(slots=True)
class _Expectation:
    scenario: Scenario
    times: int
    unconditional: bool
    answered: int = 0

    @property
    def expected(self) -> int:
        return self.times * len(self.scenario.answers)

    @property
    def is_open(self) -> bool:
        return self.answered < self.expected


class Expectations:
    """The scenarios of one test.

    A request gets the first scenario that it matches and that still has answers to give. Safe to
    share between threads.

    Args:
        hint: Added to the message about an unexpected request for another endpoint.
    """

    def __init__(self, hint: str = "") -> None:
        self._hint = hint
        self._expectations: list[_Expectation] = []
        self._strict = False
        self._unexpected: list[str] = []
        self._lock = threading.Lock()

    def expect(self, name: str, times: int = 1) -> None:
        """Expect requests that match a scenario. From now on, each request must match one.

        Raises:
            ValueError: If the scenario does not exist, or `times` is not a positive integer.
        """
        self._add(scenario(name), times, unconditional=False)
        self._strict = True

    def fail_next(self, name: str, times: int = 1) -> None:
        """Answer the next requests with a fault, whatever they contain.

        Raises:
            ValueError: If the fault does not exist, or `times` is not a positive integer.
        """
        fault = scenario(name)
        if fault.kind != "fault":
            raise ValueError(
                f"{name!r} is not a fault but a {fault.kind}, whose answer depends on the request. "
                f"Expect it with scenario({name!r})."
            )
        self._add(fault, times, unconditional=True)

    def _add(self, scenario: Scenario, times: int, *, unconditional: bool) -> None:
        if type(times) is not int or times < 1:
            raise ValueError(f"times must be a positive integer, got {times!r}.")
        with self._lock:
            self._expectations.append(_Expectation(scenario, times, unconditional))

    def match(self, request: ReceivedRequest) -> Match | None:
        """Return the scenario for a request, or None if the test expects none in particular.

        Raises:
            UnexpectedRequest: If the test expects scenarios, and the request matches none that
                still has answers to give.
        """
        with self._lock:
            open_ones = [each for each in self._expectations if each.is_open]
            # fail_next() takes precedence over scenario().
            open_ones.sort(key=lambda each: not each.unconditional)
            for expectation in open_ones:
                expected = expectation.scenario
                if expectation.unconditional and _lacks_url(expected, request):
                    message = (
                        f"The fault {expected.name!r} needs a request with response_format 'url', "
                        "and got one with 'b64_json'."
                    )
                    self._unexpected.append(message)
                    raise UnexpectedRequest(message)
                if expectation.unconditional or not list(differences(expected, request)):
                    expectation.answered += 1
                    return Match(expected, (expectation.answered - 1) % len(expected.answers))
            if not self._strict:
                return None
            message = _explain_mismatch([each.scenario for each in open_ones], request)
            if not request.path.endswith(ENDPOINT):
                message += self._hint
            self._unexpected.append(message)
        raise UnexpectedRequest(message)

    def add_unexpected(self, message: str) -> None:
        """Add a request that is unexpected for another reason."""
        with self._lock:
            self._unexpected.append(message)

    def problems(self, *, unused: bool = True, unexpected: bool = True) -> list[str]:
        """Return a message for each unexpected request and for each scenario not fully used."""
        with self._lock:
            messages = list(self._unexpected) if unexpected else []
            for each in self._expectations if unused else ():
                if each.is_open:
                    requests = "1 request" if each.expected == 1 else f"{each.expected} requests"
                    messages.append(
                        f"The scenario {each.scenario.name!r} expects {requests}, and got "
                        f"{each.answered or 'none'}. If it may stay unused, mark the test "
                        f"@pytest.mark.image_variation(allow_unused=True)."
                    )
        return messages


def _lacks_url(scenario: Scenario, request: ReceivedRequest) -> bool:
    """Return whether a scenario expires a URL that the response to this request would not have."""
    b64_json = request.form.fields.get("response_format") == "b64_json"
    return scenario.name == "url_expired" and b64_json


def _explain_mismatch(scenarios: list[Scenario], request: ReceivedRequest) -> str:
    target = f"{request.method} {request.path}"
    if not scenarios:
        return f"Unexpected {target}: every scenario has been used up. {_ADVICE}"
    closest = min(scenarios, key=lambda candidate: len(list(differences(candidate, request))))
    details = "; ".join(
        f"{name}: expected {expected}, got {actual}"
        for name, expected, actual in differences(closest, request)
    )
    return f"{target} matches no scenario. The closest is {closest.name!r}: {details}. {_ADVICE}"


def differences(scenario: Scenario, request: ReceivedRequest) -> Iterator[tuple[str, str, str]]:
    """Yield how a request differs from a scenario: field, expected value, actual value."""
    if request.method != "POST" or not request.path.endswith(ENDPOINT):
        yield "request", f"POST …{ENDPOINT}", f"{request.method} {request.path}"
    elif not request.form.is_closed:
        yield "form", "a complete one", "one without its closing boundary"
    elif scenario.kind == "refusal":
        yield from _refusal_differences(scenario, request)
    elif _lacks_url(scenario, request):
        yield "response_format", "'url'", "'b64_json'"
    elif scenario.selective:
        yield from _success_differences(scenario, request)


def _success_differences(
    scenario: Scenario, request: ReceivedRequest
) -> Iterator[tuple[str, str, str]]:
    fields = _present_fields(request)
    for name, default in DEFAULTS.items():
        expected, actual = scenario.fields.get(name, default), fields.get(name, default)
        if expected != actual:
            yield name, repr(expected), repr(actual[:60])
    if "user" in scenario.fields and "user" not in fields:
        yield "user", "any", "none"
    for name in sorted(fields.keys() - _FIELDS):
        yield name[:40], "no such field", repr(fields[name][:60])
    if request.image is None:
        yield "image", "a square PNG", "none"
    elif request.image.flaw is not None:
        yield "image", "a square PNG", _FLAWS[request.image.flaw]


def _present_fields(request: ReceivedRequest) -> dict[str, str]:
    """Return the fields of a request without those that count as absent."""
    return {
        name: value
        for name, value in request.form.fields.items()
        if value and not (value == "null" and name in _NULLABLE)
    }


_FLAWS = {
    "not_png": "a file that is not a PNG",
    "too_large": "4 MB or more",
    "not_square": "an image that is not square",
    "corrupt": "a corrupt PNG",
}


def _refusal_differences(
    scenario: Scenario, request: ReceivedRequest
) -> Iterator[tuple[str, str, str]]:
    fields = _present_fields(request)
    match scenario.breaks:
        case "key":
            if request.has_key:
                yield "key", "none", "one"
        case "image":
            flaw = None if request.image is None else request.image.flaw
            if (scenario.sample is None) != (request.image is None) or flaw != scenario.flaw:
                actual = "none" if request.image is None else _FLAWS.get(flaw or "", "a square PNG")
                yield "image", _FLAWS[scenario.flaw] if scenario.flaw else "none", actual
        case "n":
            if fields.get("n") != scenario.fields["n"]:
                yield "n", repr(scenario.fields["n"]), repr(fields.get("n"))
        case str() as name if name in _FIELDS:
            if not fields.get(name) or fields[name] in _LEGAL[name]:
                yield name, f"none of {', '.join(_LEGAL[name])}", repr(fields.get(name))
        case _:
            if not fields.keys() - _FIELDS:
                yield "fields", "one that is not in the contract", "only fields of the contract"


_LEGAL = {
    "model": ("dall-e-2", "instant"),
    "response_format": ("url", "b64_json"),
    "size": ("256x256", "512x512", "1024x1024"),
}
