"""Rules about keys, many requests at once, requests that are sent again, and the models."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from pytest_image_variation.conformance.probe_request import WRONG_KEY, Key, Question
from pytest_image_variation.conformance.probe_response import Answer
from pytest_image_variation.conformance.request_rules import serves
from pytest_image_variation.conformance.rule import Level, Rule, unseen
from pytest_image_variation.conformance.server_probe import ServerProbe

__all__ = ["RULES"]

_AT_ONCE = 8


# Keys...


def _with_key(probe: ServerProbe, key: Key, **fields: str) -> Answer:
    if not probe.server.api_key:
        unseen("The server is said to want no key; pass --image-variation-api-key if it does.")
    serves(probe)
    return probe.ask(replace(probe.legal(**fields), key=key))


def _refused_key(key: Key, **fields: str) -> Callable[[ServerProbe], None]:
    return lambda probe: _unauthorized(_with_key(probe, key, **fields))


def _unauthorized(answer: Answer) -> None:
    answer.refused(401)


def _seen(probe: ServerProbe, key: Key) -> Answer:
    answer = _with_key(probe, key)
    if answer.status != 401:
        unseen("There is no 401 to look at; see key-missing and key-wrong.")
    return answer


def _missing_type(probe: ServerProbe) -> None:
    answer = _seen(probe, "none")
    found = answer.known_error.type
    answer.must(found == "invalid_request_error", lambda: f"type is {answer.shown(found)}")


def _wrong_code(probe: ServerProbe) -> None:
    answer = _seen(probe, "wrong")
    found = answer.known_error.code
    answer.must(found == "invalid_api_key", lambda: f"code is {answer.shown(found)}")


def _authenticate(probe: ServerProbe) -> None:
    answer = _seen(probe, "none")
    found = answer.headers.get("www-authenticate", "")
    answer.must(
        found.lower().startswith("bearer"), f"it is {answer.shown(found)}" if found else "none"
    )


def _not_shown(probe: ServerProbe) -> None:
    answer = _seen(probe, "wrong")
    shown = WRONG_KEY.encode() in answer.content
    answer.must(not shown, "the whole key that was sent is in the answer")


def _lower_case(probe: ServerProbe) -> None:
    _with_key(probe, "lower case").succeeded()


# Many at once, and once more...


def _at_once(probe: ServerProbe) -> None:
    serves(probe)
    most = probe.capabilities.max_n
    counts = [index % min(3, most) + 1 for index in range(_AT_ONCE)]
    questions = [
        probe.legal(n=str(n), user=f"conformance-at-once-{index}") for index, n in enumerate(counts)
    ]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = list(pool.map(probe.ask, questions))
    for n, answer in zip(counts, answers, strict=True):
        answer.succeeded()
        found = len(answer.entries)
        answer.must(
            found == n,
            f"of {_AT_ONCE} requests at once, one for n={n} was answered with {found} pictures",
        )


def _same_key(probe: ServerProbe, again: int = 0, *, user: str = "conformance-twice") -> Answer:
    headers = (("idempotency-key", f"conformance-twice-{probe.run}"),)
    question = probe.legal(user=user)
    return probe.ask(replace(question, headers=headers, again=again))


def _idempotent(probe: ServerProbe) -> None:
    serves(probe)
    first, second = (_same_key(probe, again).succeeded() for again in (0, 1))
    second.must(second.content == first.content, "the second answer is another")


def _conflict(probe: ServerProbe) -> None:
    serves(probe)
    _same_key(probe)
    _same_key(probe, user="conformance-not-twice").refused(409)


# Models...


def _models(probe: ServerProbe) -> Answer:
    serves(probe)
    return probe.ask(Question("GET", "/models"))


def _listed(probe: ServerProbe) -> list[Any]:
    content = _models(probe).json
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, list) or not data:
        unseen("There is no list of models to look at; see models-list.")
    return data


def _list(probe: ServerProbe) -> None:
    answer = _models(probe).succeeded()
    content = answer.json
    data = content.get("data") if isinstance(content, dict) else None
    whole = isinstance(data, list) and all(
        isinstance(model, dict) and isinstance(model.get("id"), str) for model in data
    )
    answer.must(whole and content.get("object") == "list", lambda: str(answer))


def _asked_for(probe: ServerProbe) -> None:
    wanted = probe.server.model or "dall-e-2"
    names = [model.get("id") for model in _listed(probe) if isinstance(model, dict)]
    answer = _models(probe)
    answer.must(wanted in names, lambda: f"there is no {wanted!r} among {answer.shown(names)}")


def _no_model(probe: ServerProbe) -> None:
    _listed(probe)
    probe.ask(Question("GET", "/models/conformance-no-such-model")).refused(404)


def _rule(
    id: str, level: Level, text: str, check: Callable[[ServerProbe], None]
) -> Rule[ServerProbe]:
    return Rule(id, level, text, check)


RULES: tuple[Rule[ServerProbe], ...] = (
    _rule("key-missing", "MUST", "Without its key a request is 401.", _refused_key("none")),
    _rule("key-wrong", "MUST", "With another key a request is 401.", _refused_key("wrong")),
    _rule("key-scheme", "SHOULD", "The key counts as Bearer alone.", _refused_key("basic")),
    _rule(
        "key-first",
        "SHOULD",
        "A request with another key is 401 whatever else is wrong with it.",
        _refused_key("wrong", n="0"),
    ),
    _rule(
        "key-lower-case",
        "SHOULD",
        "The word bearer may be in lower case (RFC 9110, section 11.1).",
        _lower_case,
    ),
    _rule(
        "key-missing-type",
        "SHOULD",
        "The error without a key has the type invalid_request_error.",
        _missing_type,
    ),
    _rule(
        "key-wrong-code",
        "SHOULD",
        "The error about another key has the code invalid_api_key.",
        _wrong_code,
    ),
    _rule("key-authenticate", "SHOULD", "A 401 has www-authenticate: Bearer.", _authenticate),
    _rule("key-not-shown", "SHOULD", "No answer repeats a key.", _not_shown),
    _rule(
        "at-once",
        "MUST",
        f"{_AT_ONCE} requests at once are each answered with their own number of pictures.",
        _at_once,
    ),
    _rule(
        "idempotent",
        "MAY",
        "A request that is sent again with the same Idempotency-Key has the same answer.",
        _idempotent,
    ),
    _rule(
        "idempotent-conflict",
        "MAY",
        "Another request with an Idempotency-Key that was used is 409.",
        _conflict,
    ),
    _rule("models-list", "SHOULD", "/models lists the models, each with its id.", _list),
    _rule("models-asked-for", "SHOULD", "The model asked for is in the list.", _asked_for),
    _rule("models-none", "MAY", "A model that does not exist is 404.", _no_model),
)
"""All of them."""
