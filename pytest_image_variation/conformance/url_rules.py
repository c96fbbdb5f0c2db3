"""Rules about pictures that are given as addresses."""

import time
from dataclasses import replace

import httpx

from pytest_image_variation.conformance.probe_request import Question
from pytest_image_variation.conformance.probe_response import Answer, Picture
from pytest_image_variation.conformance.request_rules import serves
from pytest_image_variation.conformance.rule import Breach, Rule, unseen
from pytest_image_variation.conformance.server_probe import ServerProbe

__all__ = ["RULES"]

_LATE_SECONDS = 1.5
_POLL_SECONDS = 0.1


def _answer(probe: ServerProbe, n: int = 1, **fields: str) -> Answer:
    if not probe.capabilities.url:
        unseen("The server does not claim url.")
    answer = probe.variation(response_format="url", n=str(n), **fields)
    if answer.status != 200 or not answer.entries:
        unseen("There are no addresses to look at; see url-string.")
    return answer


def _address(answer: Answer) -> str:
    """Return the first address that can be read over HTTP.

    Raises:
        Unseen: If there is none.
    """
    url = answer.entries[0].get("url")
    if not isinstance(url, str) or not _is_whole(url):
        unseen("There is no address that could be read; see url-string and url-absolute.")
    return url


def _string(probe: ServerProbe) -> None:
    if not probe.capabilities.url:
        unseen("The server does not claim url.")
    serves(probe)
    answer = probe.variation(response_format="url", n="1").served()
    for index, entry in enumerate(answer.entries):
        url = entry.get("url")
        answer.must(isinstance(url, str) and bool(url), f"data[{index}].url is {answer.shown(url)}")


def _absolute(probe: ServerProbe) -> None:
    answer = _answer(probe)
    url = answer.entries[0].get("url")
    if not isinstance(url, str):
        unseen("There is no address to look at; see url-string.")
    answer.must(_is_whole(url), f"it is {answer.shown(url)}")


def _is_whole(url: str) -> bool:
    try:
        address = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError):
        return False
    return address.scheme in ("http", "https") and bool(address.host)


def _alone(probe: ServerProbe) -> None:
    answer = _answer(probe)
    answer.must(not answer.entries[0].get("b64_json"), "there is a b64_json too")


def _read(probe: ServerProbe) -> None:
    _file(probe, check=True)


def _file(probe: ServerProbe, *, check: bool = False) -> Answer:
    """Return what the address gives.

    Raises:
        Unseen: If it gives nothing, unless that is what is checked.
        Breach: If it gives nothing, and that is.
    """
    url = _address(_answer(probe))
    _read_at_once(probe, url)
    file = probe.read(url)
    if check:
        file.succeeded()
    if file.status != 200:
        unseen("The address cannot be read; see url-read.")
    return file


def _read_at_once(probe: ServerProbe, url: str) -> None:
    """Ask all that is asked of an address, since it may end before the rule's turn."""
    for question in (_whole(url), _whole(url, again=1), _bare(url), _start(url)):
        try:
            probe.ask(question)
        except Breach:
            # The rule says so that asks it.
            continue


def _whole(url: str, again: int = 0) -> Question:
    return Question("GET", url, key="none", again=again)


def _bare(url: str) -> Question:
    return Question("GET", url.partition("?")[0], key="none")


def _start(url: str) -> Question:
    return Question("GET", url, key="none", headers=(("range", "bytes=0-7"),))


def _picture(probe: ServerProbe) -> None:
    file = _file(probe)
    picture = Picture.of(file.content)
    file.must(
        (picture.kind, picture.size) == ("PNG", probe.size),
        f"it is {picture.kind or 'no picture'}{f' of {picture.size}' if picture.size else ''}",
    )


def _content_type(probe: ServerProbe) -> None:
    file = _file(probe)
    kind = file.headers.get("content-type", "none")
    file.must(
        kind.partition(";")[0].strip().lower() == "image/png", lambda: f"it is {file.shown(kind)}"
    )


def _again(probe: ServerProbe) -> None:
    first = _file(probe)
    url = _address(_answer(probe))
    second = probe.ask(_whole(url, again=1)).succeeded()
    second.must(second.content == first.content, "the second time it is another file")


def _each_its_own(probe: ServerProbe) -> None:
    if probe.capabilities.max_n < 2:
        unseen("The server does not claim n=2.")
    answer = _answer(probe, 2)
    urls = [entry.get("url") for entry in answer.entries]
    if len(urls) != 2:
        unseen("There are not two addresses to compare; see n-two.")
    answer.must(urls[0] != urls[1], "both are the same")


def _signed(probe: ServerProbe) -> None:
    _file(probe)
    url = _address(_answer(probe))
    if not url.partition("?")[2]:
        unseen("The address has no query that could be left out.")
    bare = probe.ask(_bare(url))
    bare.must(400 <= bare.status < 500, lambda: f"{bare.status}")


def _part(probe: ServerProbe) -> None:
    whole = _file(probe).content
    part = probe.ask(_start(_address(_answer(probe))))
    part.must(part.status == 206, lambda: f"{part.status}")
    part.must(part.content == whole[:8], lambda: f"{len(part.content)} bytes")


def _expired(probe: ServerProbe) -> Answer:
    """Return what an address gives when its time is over."""
    seconds = probe.capabilities.url_ttl
    if seconds is None:
        unseen(
            "How long an address works is not claimed; declare url_ttl=SECONDS, and let the server "
            "end its addresses after a few."
        )
    url = _address(_answer(probe, user="conformance-expiry"))
    last = _whole(url, again=-1)
    if not probe.knows(last):
        time.sleep(seconds)
        # Servers count in whole seconds.
        for again in range(round(_LATE_SECONDS / _POLL_SECONDS)):
            if probe.ask(replace(last, again=again + 2)).status != 200:
                break
            time.sleep(_POLL_SECONDS)
    return probe.ask(last)


def _expires(probe: ServerProbe) -> None:
    file = _expired(probe)
    file.must(file.status == 403, lambda: f"{file.status}")


def _expires_in_words(probe: ServerProbe) -> None:
    file = _expired(probe)
    if file.status != 403:
        unseen("The address does not expire with 403; see url-expires.")
    file.must(b"AuthenticationFailed" in file.content, lambda: str(file))


RULES: tuple[Rule[ServerProbe], ...] = (
    Rule("url-string", "MUST", "For url, each entry has url, a string.", _string),
    Rule("url-absolute", "MUST", "url is a whole http or https address.", _absolute),
    Rule("url-alone", "MUST", "For url, no entry has b64_json beside it.", _alone),
    Rule("url-read", "MUST", "The address can be read without a key.", _read),
    Rule("url-picture", "MUST", "The address gives a PNG of the size asked for.", _picture),
    Rule("url-content-type", "SHOULD", "The address gives image/png.", _content_type),
    Rule("url-again", "MUST", "The address can be read more than once.", _again),
    Rule("url-each-its-own", "MUST", "Two pictures have two addresses.", _each_its_own),
    Rule(
        "url-signed",
        "SHOULD",
        "Without its query an address gives nothing: nobody can guess it.",
        _signed,
    ),
    Rule("url-part", "MAY", "A part of the file can be asked for, with Range.", _part),
    Rule("url-expires", "MUST", "When its time is over, an address gives 403.", _expires),
    Rule(
        "url-expires-in-words",
        "SHOULD",
        "What an address gives then has the word AuthenticationFailed, for which clients look.",
        _expires_in_words,
    ),
)
"""All of them."""
