"""Which requests a test expects: the scenarios it asked for, and what came of each."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass

from langchain_image_variation.error_response import Error, ErrorResponse
from pytest_image_variation.forms import Form, Picture
from pytest_image_variation.scenarios import DEFAULTS, Answer, Scenario, scenario

__all__ = ["Asked", "Expectations", "Play", "Unexpected"]

ENDPOINT = "/images/variations"
_ALLOW = "Name one for it, or allow it with @pytest.mark.image_variation(allow_unexpected=True)."
_FIELDS = {"image", "model", "n", "response_format", "size", "user"}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, as far as scenarios differ by it."""

    method: str
    path: str
    form: Form
    picture: Picture | None
    has_key: bool

    @classmethod
    def of(cls, method: str, path: str, form: Form, *, has_key: bool) -> "Asked":
        """Look at a request's form."""
        picture = None if form.image is None else Picture.of(form.image)
        return cls(method, path, form, picture, has_key)


@dataclass(frozen=True, slots=True)
class Play:
    """A request met a scenario: which, and which of its answers it gets, from 0."""

    scenario: Scenario
    index: int

    @property
    def answer(self) -> Answer:
        """The answer to give."""
        return self.scenario.answers[self.index]


class Unexpected(Exception):
    """A request that no scenario expects; the message says how it differs from the nearest."""

    def to_json(self) -> str:
        """Return the body of the 400 that answers it, after which no SDK sends it again."""
        error = Error(message=str(self), type="invalid_request_error", code="unexpected_request")
        return ErrorResponse(error=error).to_json()


@dataclass(slots=True)
class _Line:
    scenario: Scenario
    times: int
    whatever: bool
    played: int = 0

    @property
    def wanted(self) -> int:
        return self.times * len(self.scenario.answers)


class Expectations:
    """The scenarios of one test, played in the order in which they were asked for.

    A scenario is used up when it was played as often as it was asked for; a request gets the first
    that fits it and is not used up. Safe to share between threads.

    Args:
        elsewhere: What to say of an unexpected request that is not for variations.
    """

    def __init__(self, elsewhere: str = "") -> None:
        self._elsewhere = elsewhere
        self._lines: list[_Line] = []
        self._closed = False
        self._unexpected: list[str] = []
        self._lock = threading.Lock()

    def expect(self, name: str, times: int = 1) -> None:
        """Expect requests that fit a scenario; from now on, only requests that fit one.

        Raises:
            ValueError: If there is no scenario of that name, or `times` is no whole number from 1.
        """
        self._add(scenario(name), times, whatever=False)
        self._closed = True

    def fail_next(self, name: str, times: int = 1) -> None:
        """Expect requests whatever they ask, before anything else, and answer with a fault.

        Raises:
            ValueError: If there is no fault of that name, or `times` is no whole number from 1.
        """
        fault = scenario(name)
        if fault.kind != "fault":
            raise ValueError(
                f"{name!r} is no fault but a {fault.kind}, which depends on what is asked; ask for "
                f"it with scenario({name!r})."
            )
        self._add(fault, times, whatever=True)

    def _add(self, wanted: Scenario, times: int, *, whatever: bool) -> None:
        if type(times) is not int or times < 1:
            raise ValueError(f"times must be a whole number from 1, got {times!r}.")
        with self._lock:
            self._lines.append(_Line(wanted, times, whatever))

    def take(self, asked: Asked) -> Play | None:
        """Return what a request is answered with, or None if any request is welcome.

        Raises:
            Unexpected: If only the scenarios that were asked for are expected, and it fits none
                that is left.
        """
        with self._lock:
            left = [line for line in self._lines if line.played < line.wanted]
            # What must fail next, fails before anything else is looked at.
            left.sort(key=lambda line: not line.whatever)
            for line in left:
                if line.whatever and _needs_url(line.scenario, asked):
                    message = f"{line.scenario.name!r} needs a request for url, and got b64_json."
                    self._unexpected.append(message)
                    raise Unexpected(message)
                if line.whatever or not list(differences(line.scenario, asked)):
                    line.played += 1
                    return Play(line.scenario, (line.played - 1) % len(line.scenario.answers))
            if not self._closed:
                return None
            message = _nearest([line.scenario for line in left], asked)
            if not asked.path.endswith(ENDPOINT):
                message += self._elsewhere
            self._unexpected.append(message)
        raise Unexpected(message)

    def note(self, message: str) -> None:
        """Keep in mind a request that is unexpected for another reason."""
        with self._lock:
            self._unexpected.append(message)

    def problems(self, *, unused: bool = True, unexpected: bool = True) -> list[str]:
        """Return what was unexpected, and which scenarios were not used up."""
        with self._lock:
            found = list(self._unexpected) if unexpected else []
            for line in self._lines if unused else ():
                if line.played < line.wanted:
                    expected = "1 request" if line.wanted == 1 else f"{line.wanted} requests"
                    found.append(
                        f"The scenario {line.scenario.name!r} was asked for: it expects "
                        f"{expected}, and got {line.played or 'none'}. If it need not be used: "
                        f"@pytest.mark.image_variation(allow_unused=True)."
                    )
        return found


def _needs_url(wanted: Scenario, asked: Asked) -> bool:
    """Say whether a fault lies in an address that the answer would not have."""
    return wanted.name == "url_expired" and asked.form.fields.get("response_format") == "b64_json"


def _nearest(left: list[Scenario], asked: Asked) -> str:
    sent = f"{asked.method} {asked.path}"
    if not left:
        return f"{sent} is one request too many: no scenario is left to play. {_ALLOW}"
    near = min(left, key=lambda candidate: len(list(differences(candidate, asked))))
    differing = "; ".join(
        f"{name}: expected {expected}, got {got}"
        for name, expected, got in differences(near, asked)
    )
    return f"{sent} fits no scenario. The nearest is {near.name!r}, but {differing}. {_ALLOW}"


def differences(wanted: Scenario, asked: Asked) -> Iterator[tuple[str, str, str]]:
    """Yield in what a request differs from a scenario's: the field, expected, got."""
    if asked.method != "POST" or not asked.path.endswith(ENDPOINT):
        yield "the address", f"POST …{ENDPOINT}", f"{asked.method} {asked.path}"
    elif wanted.kind == "refusal":
        yield from _refusal_differences(wanted, asked)
    elif _needs_url(wanted, asked):
        yield "response_format", "'url'", "'b64_json'"
    elif wanted.selective:
        yield from _success_differences(wanted, asked)


def _success_differences(wanted: Scenario, asked: Asked) -> Iterator[tuple[str, str, str]]:
    # An empty field is one that is not there.
    sent = {name: value for name, value in asked.form.fields.items() if value}
    for name, default in DEFAULTS.items():
        expected, got = wanted.fields.get(name, default), sent.get(name, default)
        if expected != got:
            yield name, repr(expected), repr(got[:60])
    if "user" in wanted.fields and "user" not in sent:
        yield "user", "any", "none"
    for name in sorted(sent.keys() - _FIELDS):
        yield name[:40], "no such field", repr(sent[name][:60])
    if asked.picture is None:
        yield "image", "a square PNG", "none"
    elif asked.picture.flaw is not None:
        yield "image", "a square PNG", _FLAWS[asked.picture.flaw]


_FLAWS = {
    "not_png": "something that is no PNG",
    "too_large": "4 MB or more",
    "not_square": "a picture that is not square",
    "corrupt": "a broken PNG",
}


def _refusal_differences(wanted: Scenario, asked: Asked) -> Iterator[tuple[str, str, str]]:
    sent = asked.form.fields
    match wanted.breaks:
        case "key":
            if asked.has_key:
                yield "key", "none", "one"
        case "image":
            flaw = None if asked.picture is None else asked.picture.flaw
            if (wanted.sample is None) != (asked.picture is None) or flaw != wanted.flaw:
                got = "none" if asked.picture is None else _FLAWS.get(flaw or "", "a square PNG")
                yield "image", _FLAWS[wanted.flaw] if wanted.flaw else "none", got
        case "n":
            if sent.get("n") != wanted.fields["n"]:
                yield "n", repr(wanted.fields["n"]), repr(sent.get("n"))
        case str() as name if name in _FIELDS:
            if not sent.get(name) or sent[name] in _LEGAL[name]:
                yield name, f"none of {', '.join(_LEGAL[name])}", repr(sent.get(name))
        case _:
            if not sent.keys() - _FIELDS:
                yield "a field", "one that the contract does not know", "only known ones"


_LEGAL = {
    "model": ("dall-e-2", "instant"),
    "response_format": ("url", "b64_json"),
    "size": ("256x256", "512x512", "1024x1024"),
}
