"""Rules about clients: what they send, and what they make of answers."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PIL import Image

from langchain_image_variation.exceptions import InvalidImageError
from langchain_image_variation.images.pixels import open_image
from pytest_image_variation.conformance.client_probe import MANY, Call, ClientProbe
from pytest_image_variation.conformance.images import picture
from pytest_image_variation.conformance.rule import Breach, Level, Rule, unseen
from pytest_image_variation.forms import Part, Picture

__all__ = ["RULES"]

_FIELDS = {"model", "n", "response_format", "size", "user"}
_PATH = "/v1/images/variations"
_AT_ONCE = 4
_SMALL: dict[str, Any] = {"size": "256x256", "response_format": "b64_json"}


# What is sent...


def _asks(probe: ClientProbe) -> None:
    call = probe.call(**_SMALL)
    asked = [f"{request.method} {request.path}" for request in call.requests]
    if f"POST {_PATH}" not in asked:
        raise Breach(f"it asked {asked or 'nothing'}")


def _picture(probe: ClientProbe) -> None:
    sent = probe.call(**_SMALL).posts[0].picture
    if sent is None:
        raise Breach("there is no such part")
    if sent.flaw is not None:
        raise Breach(f"it arrived {sent.flaw.replace('_', ' ')}")


def _sent(probe: ClientProbe) -> Picture:
    sent = probe.call(**_SMALL).posts[0].picture
    if sent is None:
        unseen("There is no picture; see client-picture.")
    return sent


def _unchanged(probe: ClientProbe) -> None:
    whole = Picture.of(Part("image", picture("rgb.png")))
    if _sent(probe).sha256 != whole.sha256:
        raise Breach("other bytes arrived")


def _part_type(probe: ClientProbe) -> None:
    kind = _sent(probe).content_type
    if kind != "image/png":
        raise Breach(f"it is {kind}")


def _key(probe: ClientProbe) -> None:
    if not probe.call(**_SMALL).posts[0].has_key:
        raise Breach("there is none")


def _known_fields(probe: ClientProbe) -> None:
    fields = probe.call(**_SMALL, n=1, user="jane").posts[0].fields
    others = sorted(fields.keys() - _FIELDS)
    if others:
        raise Breach(f"it sent {', '.join(others)} too")


def _field(name: str, *values: Any) -> Callable[[ClientProbe], None]:
    def check(probe: ClientProbe) -> None:
        for value in values:
            call = probe.call(**{**_SMALL, name: value})
            found = call.posts[0].fields.get(name)
            if found != str(value):
                raise Breach(f"{value} arrived as {found!r}")

    return check


# What comes back...


def _returns(play: str, **fields: Any) -> Callable[[ClientProbe], None]:
    def check(probe: ClientProbe) -> None:
        call = probe.call(play=play, **fields)
        if call.unexpected:
            unseen(f"Something else was asked: {call.unexpected[0]}")
        _all_pictures(call, fields["n"])

    return check


def _all_pictures(call: Call, n: int) -> None:
    pictures = call.served()
    if len(pictures) != n:
        raise Breach(f"{len(pictures)} pictures for n={n}")
    if any(_size(data) != (256, 256) for data in pictures):
        raise Breach("what came back is no picture of the size asked for")
    if len(set(pictures)) != n:
        raise Breach("the same picture more than once")


def _size(data: bytes) -> tuple[int, int] | None:
    try:
        with open_image(data) as image:
            return image.size
    # What Pillow raises for broken files differs by format.
    except (InvalidImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _no_key_elsewhere(probe: ClientProbe) -> None:
    call = probe.call(size="256x256", response_format="url")
    reads = [request for request in call.requests if request.method == "GET"]
    if not reads:
        unseen("No address was read; see client-url.")
    if any(request.has_key for request in reads):
        raise Breach("the key was sent there")


# What goes wrong...


def _raises(fault: str) -> Callable[[ClientProbe], None]:
    def check(probe: ClientProbe) -> None:
        probe.refused(fault)

    return check


def _expired(probe: ClientProbe) -> None:
    call = probe.refused("url_expired", response_format="url")
    if not any(request.method == "GET" for request in call.requests):
        unseen("No address was read; see client-url.")


def _once(fault: str) -> Callable[[ClientProbe], None]:
    def check(probe: ClientProbe) -> None:
        call = probe.call(fault=fault, times=MANY, **_SMALL)
        if len(call.posts) != 1:
            raise Breach(f"it was sent {len(call.posts)} times")

    return check


def _again(fault: str) -> Callable[[ClientProbe], None]:
    return lambda probe: _all_pictures(probe.call(fault=fault, **_SMALL), 1)


def _the_same_again(probe: ClientProbe) -> None:
    posts = probe.call(fault="rate_limit", n=2, user="jane", **_SMALL).posts
    if len(posts) < 2:
        unseen("It is not sent again; see client-again-rate-limit.")
    first, second = posts[:2]
    if (first.fields, first.picture) != (second.fields, second.picture):
        raise Breach("the second request is another")


def _message(probe: ClientProbe) -> None:
    call = _failed(probe, "content_refused")
    if "safety system" not in str(call.error):
        raise Breach(f"{call.error}"[:300])


def _key_not_shown(probe: ClientProbe) -> None:
    call = _failed(probe, "wrong_key")
    if call.api_key in f"{call.error} {call.error!r}":
        raise Breach("it is in the error")


def _failed(probe: ClientProbe, fault: str) -> Call:
    call = probe.call(fault=fault, times=MANY, **_SMALL)
    if call.error is None:
        unseen("There is no error to look at; see the rules whose names begin with client-raises.")
    # The error of one that asks nothing is not about what the server said.
    return call.asked()


def _at_once(probe: ClientProbe) -> None:
    counts = [index % 3 + 1 for index in range(_AT_ONCE)]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        calls = list(pool.map(lambda n: probe.call(n=n, **_SMALL), counts))
    for n, call in zip(counts, calls, strict=True):
        _all_pictures(call, n)


def _faults() -> Iterator[Rule[ClientProbe]]:
    faults: tuple[tuple[str, str], ...] = (
        ("wrong_key", "401"),
        ("content_refused", "400 for what the picture shows"),
        ("budget_exhausted", "400 for a budget that is used up"),
        ("rate_limit", "429 that does not end"),
        ("server_error", "500 that does not end"),
        ("gateway_timeout", "504 with a page of HTML"),
        ("cut_body", "An answer that breaks off"),
        ("garbage_body", "An answer that is no JSON"),
        ("endpoint_removed", "The empty 404 of a server without image variations"),
    )
    for name, about in faults:
        id = f"client-raises-{name.replace('_', '-')}"
        yield Rule(id, "MUST", f"{about} is an error.", _raises(name))
    for name in ("wrong_key", "content_refused", "budget_exhausted"):
        id = f"client-once-{name.replace('_', '-')}"
        text = f"What was refused is not sent again: {name.replace('_', ' ')}."
        yield Rule(id, "MUST", text, _once(name))
    again: tuple[tuple[str, Level, str], ...] = (
        ("rate_limit", "SHOULD", "After 429 and its time to wait, it asks again."),
        ("server_error", "SHOULD", "After 500 it asks again."),
        ("unavailable", "SHOULD", "After 503 and its time to wait, it asks again."),
        ("image_rate_limit", "MAY", "After 429 it asks again, if only the text says when."),
    )
    for name, level, text in again:
        yield Rule(f"client-again-{name.replace('_', '-')}", level, text, _again(name))


RULES: tuple[Rule[ClientProbe], ...] = (
    Rule("client-asks", "MUST", "It asks POST /images/variations below the base URL.", _asks),
    Rule("client-picture", "MUST", "The picture is the file part image, and legal.", _picture),
    Rule("client-picture-unchanged", "SHOULD", "A legal picture arrives unchanged.", _unchanged),
    Rule("client-part-type", "SHOULD", "The picture comes as image/png.", _part_type),
    Rule("client-key", "MUST", "The key is in the header Authorization.", _key),
    Rule(
        "client-fields", "MUST", "No field is sent that the contract does not have.", _known_fields
    ),
    Rule("client-n", "MUST", "n arrives.", _field("n", 2)),
    Rule("client-size", "MUST", "size arrives.", _field("size", "512x512")),
    Rule(
        "client-format",
        "MUST",
        "response_format arrives.",
        _field("response_format", "b64_json", "url"),
    ),
    Rule("client-user", "SHOULD", "user arrives.", _field("user", "jane")),
    Rule(
        "client-b64",
        "MUST",
        "Pictures in base64 come back as files, all of them.",
        _returns("success_b64_n3_256", n=3, **_SMALL),
    ),
    Rule(
        "client-url",
        "MUST",
        "Pictures under addresses come back as files, all of them.",
        _returns("success_url_n3_256", n=3, size="256x256", response_format="url"),
    ),
    Rule(
        "client-ten",
        "MUST",
        "Ten pictures come back.",
        _returns("success_b64_n10_256", n=10, **_SMALL),
    ),
    Rule(
        "client-no-key-elsewhere",
        "MUST",
        "The key is not sent to the address of a picture.",
        _no_key_elsewhere,
    ),
    *_faults(),
    Rule("client-raises-url-expired", "MUST", "A picture that is gone is an error.", _expired),
    Rule(
        "client-the-same-again",
        "MUST",
        "What is sent again is the same, the picture too.",
        _the_same_again,
    ),
    Rule("client-message", "SHOULD", "An error says what the server says.", _message),
    Rule("client-key-not-shown", "MUST", "No error shows the key.", _key_not_shown),
    Rule("client-at-once", "MUST", "Calls at once do not mix up their pictures.", _at_once),
)
"""All of them."""
