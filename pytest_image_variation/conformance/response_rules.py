"""Rules about the answer to a request that is served."""

import base64
import binascii
from collections.abc import Iterator

from pytest_image_variation.conformance.probe_response import Answer
from pytest_image_variation.conformance.rule import Breach, Rule, unseen
from pytest_image_variation.conformance.server_probe import ServerProbe

__all__ = ["RULES", "plain"]

_KEYS = {"created", "data"}
_ENTRY_KEYS = {"b64_json", "url", "revised_prompt"}
_CLOCK_SECONDS = 600


def plain(probe: ServerProbe) -> Answer:
    """Return the answer at which most rules look, if it is a success.

    Raises:
        Unseen: If it is none.
    """
    answer = probe.variation()
    if answer.status != 200:
        unseen("A plain request is not served; see answer-status.")
    return answer


def _with_entries(probe: ServerProbe) -> Answer:
    """Return that answer, if it has entries.

    Raises:
        Unseen: If it has none.
    """
    answer = plain(probe)
    if not answer.entries:
        unseen("There are no entries to look at; see answer-data.")
    return answer


def _entries(probe: ServerProbe, answer: Answer) -> Iterator[tuple[str, object]]:
    """Yield the name and the value of each b64_json.

    Raises:
        Unseen: If there are none.
    """
    if not probe.capabilities.b64_json:
        unseen("The server does not claim b64_json.")
    for index, entry in enumerate(answer.entries):
        yield f"data[{index}].b64_json", entry.get("b64_json")


def _status(probe: ServerProbe) -> None:
    answer = probe.variation()
    hint = _hint(probe, answer)
    if answer.status != 200:
        raise Breach(f"{answer} ({hint})" if hint else f"{answer}", [answer.curl])


def _hint(probe: ServerProbe, answer: Answer) -> str | None:
    """Return what may be wrong with how the kit was called, rather than with the server."""
    server = probe.server
    if answer.status in (401, 403):
        return (
            "Is the key right?"
            if server.api_key
            else "If it wants a key, set IMAGE_VARIATION_API_KEY or pass --image-variation-api-key."
        )
    if answer.status in (404, 405):
        return f"Is {server.base_url} its address, up to and with its /v1?"
    if 300 <= answer.status < 400:
        where = answer.shown(answer.headers.get("location", ""))
        return f"It points to {where}, which is not followed; name the server's own address."
    if answer.status in (400, 422) and server.model is None:
        return "If it wants a model named, pass --image-variation-model."
    return None


def _content_type(probe: ServerProbe) -> None:
    answer = plain(probe)
    kind = answer.headers.get("content-type", "")
    answer.must(kind.partition(";")[0].strip().lower() == "application/json", answer.shown(kind))


def _object(probe: ServerProbe) -> None:
    answer = plain(probe)
    answer.must(isinstance(answer.json, dict), lambda: str(answer))


def _content(probe: ServerProbe) -> tuple[Answer, dict[str, object]]:
    answer = plain(probe)
    content = answer.json
    if not isinstance(content, dict):
        unseen("The body is no JSON object; see answer-object.")
    return answer, content


def _created(probe: ServerProbe) -> None:
    answer, content = _content(probe)
    answer.must(
        type(content.get("created")) is int,
        lambda: f"created is {answer.shown(content.get('created'))}",
    )


def _created_now(probe: ServerProbe) -> None:
    answer, content = _content(probe)
    created = content.get("created")
    if not isinstance(created, int | float):
        unseen("created is no number; see answer-created.")
    # Comparing does not overflow, as a difference to a huge whole number would.
    near = answer.came - _CLOCK_SECONDS < created < answer.came + _CLOCK_SECONDS
    answer.must(near, lambda: f"created is {answer.shown(created)} at {answer.came:.0f}")


def _data(probe: ServerProbe) -> None:
    answer, content = _content(probe)
    data = content.get("data")
    answer.must(
        isinstance(data, list) and bool(data) and all(isinstance(entry, dict) for entry in data),
        lambda: str(answer),
    )


def _only_known_keys(probe: ServerProbe) -> None:
    answer, content = _content(probe)
    other = sorted(content.keys() - _KEYS)
    answer.must(not other, lambda: f"there is {answer.shown(other)} too")


def _only_known_entry_keys(probe: ServerProbe) -> None:
    answer = _with_entries(probe)
    other = sorted({key for entry in answer.entries for key in entry} - _ENTRY_KEYS)
    answer.must(not other, lambda: f"there is {answer.shown(other)} too")


def _no_nulls(probe: ServerProbe) -> None:
    answer = _with_entries(probe)
    empty = sorted(
        {key for entry in answer.entries for key in entry.keys() & _ENTRY_KEYS if not entry[key]}
    )
    answer.must(not empty, f"{', '.join(empty)} is there without a value")


def _b64_string(probe: ServerProbe) -> None:
    answer = _with_entries(probe)
    for name, value in _entries(probe, answer):
        answer.must(isinstance(value, str) and bool(value), f"{name} is {answer.shown(value)}")


def _b64_plain(probe: ServerProbe) -> None:
    answer = _with_entries(probe)
    for name, value in _entries(probe, answer):
        if not isinstance(value, str):
            unseen("There is no base64 to look at; see b64-string.")
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            answer.breach(f"{name} is {answer.shown(value)}")


def _b64_alone(probe: ServerProbe) -> None:
    answer = _with_entries(probe)
    list(_entries(probe, answer))
    for entry in answer.entries:
        answer.must(not entry.get("url"), f"there is a url too: {answer.shown(entry.get('url'))}")


def _png(probe: ServerProbe) -> None:
    answer = plain(probe)
    for index, picture in enumerate(probe.pictures(answer)):
        if picture.kind is None:
            unseen("data holds no picture; see picture-decodes.")
        answer.must(picture.kind == "PNG", f"data[{index}] is {picture.kind}")


def _decodes(probe: ServerProbe) -> None:
    answer = plain(probe)
    for index, picture in enumerate(probe.pictures(answer)):
        answer.must(picture.decodes, f"data[{index}] cannot be decoded")


def _distinct(probe: ServerProbe) -> None:
    n = min(2, probe.capabilities.max_n)
    answer = probe.variation(n=str(n))
    pictures = probe.pictures(answer)
    if len(pictures) < 2:
        unseen("There are not two pictures to compare; see n-two.")
    answer.must(pictures[0].data != pictures[1].data, "both are the same bytes")


def _default_size(probe: ServerProbe) -> None:
    if "1024x1024" not in probe.capabilities.sizes:
        unseen("The server does not claim the size 1024x1024.")
    answer = probe.variation(size=None)
    for picture in probe.pictures(answer):
        answer.must(picture.size == "1024x1024", f"it is {picture.size or 'no picture'}")


def _default_n(probe: ServerProbe) -> None:
    answer = _with_entries(probe)
    answer.must(len(answer.entries) == 1, f"there are {len(answer.entries)}")


def _default_format(probe: ServerProbe) -> None:
    if not probe.capabilities.url:
        unseen("The server does not claim url.")
    answer = probe.variation(response_format=None)
    if not answer.entries:
        unseen("There are no entries to look at; see answer-data.")
    answer.must(isinstance(answer.entries[0].get("url"), str), lambda: str(answer))


def _request_id(probe: ServerProbe) -> None:
    answer = plain(probe)
    answer.must(bool(answer.headers.get("x-request-id")), "there is none")


def _new_request_id(probe: ServerProbe) -> None:
    answer, other = plain(probe), probe.variation(user="conformance-other-id")
    ids = [each.headers.get("x-request-id") for each in (answer, other)]
    if None in ids:
        unseen("There is no id to look at; see answer-request-id.")
    other.must(ids[0] != ids[1], lambda: f"both are {answer.shown(ids[0])}")


def _processing_ms(probe: ServerProbe) -> None:
    answer = plain(probe)
    value = answer.headers.get("openai-processing-ms", "")
    answer.must(value.isdecimal(), f"it is {answer.shown(value)}" if value else "there is none")


def _version(probe: ServerProbe) -> None:
    answer = plain(probe)
    answer.must(bool(answer.headers.get("openai-version")), "there is none")


RULES: tuple[Rule[ServerProbe], ...] = (
    Rule("answer-status", "MUST", "A legal request is answered 200.", _status),
    Rule("answer-content-type", "MUST", "An answer is application/json.", _content_type),
    Rule("answer-object", "MUST", "An answer is a JSON object.", _object),
    Rule("answer-created", "MUST", "created is a whole number of seconds.", _created),
    Rule(
        "answer-created-now", "SHOULD", "created is when the answer was made (UTC).", _created_now
    ),
    Rule("answer-data", "MUST", "data is a list of objects, one for each picture.", _data),
    Rule(
        "answer-keys", "MAY", "An answer has created and data, and nothing else.", _only_known_keys
    ),
    Rule(
        "answer-entry-keys",
        "SHOULD",
        "An entry has no other key than b64_json, url and revised_prompt.",
        _only_known_entry_keys,
    ),
    Rule(
        "answer-no-nulls",
        "SHOULD",
        "A key of an entry that is not used is left out, not null or empty.",
        _no_nulls,
    ),
    Rule("b64-string", "MUST", "For b64_json, each entry has b64_json, a string.", _b64_string),
    Rule(
        "b64-plain",
        "MUST",
        "b64_json is base64 of the usual alphabet, padded, without line breaks or a data: prefix.",
        _b64_plain,
    ),
    Rule("b64-alone", "MUST", "For b64_json, no entry has a url beside it.", _b64_alone),
    Rule("picture-png", "MUST", "Each picture is a PNG file.", _png),
    Rule("picture-decodes", "MUST", "Each picture can be decoded, to the last pixel.", _decodes),
    Rule("picture-distinct", "SHOULD", "Two pictures of one answer differ.", _distinct),
    Rule("default-n", "MUST", "Without n there is one picture.", _default_n),
    Rule("default-size", "MUST", "Without size a picture is 1024x1024.", _default_size),
    Rule("default-format", "MUST", "Without response_format there are addresses.", _default_format),
    Rule("answer-request-id", "SHOULD", "An answer has the header x-request-id.", _request_id),
    Rule("answer-new-request-id", "SHOULD", "Each answer has another id.", _new_request_id),
    Rule(
        "answer-processing-ms",
        "MAY",
        "An answer says the milliseconds it took, in openai-processing-ms.",
        _processing_ms,
    ),
    Rule("answer-version", "MAY", "An answer has the header openai-version.", _version),
)
"""All of them."""
