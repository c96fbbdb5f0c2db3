"""Rules about images that are returned as URLs."""

import time
from dataclasses import replace

import httpx

from pytest_image_variation.conformance.probe_request import ProbeRequest
from pytest_image_variation.conformance.probe_response import ProbeResponse
from pytest_image_variation.conformance.returned_image import ReturnedImage
from pytest_image_variation.conformance.rule import Rule, Violation, skip
from pytest_image_variation.conformance.server_probe import ServerProbe

__all__ = ["RULES"]

_GRACE_SECONDS = 1.5
_POLL_SECONDS = 0.1


def _response(probe: ServerProbe, n: int = 1, **fields: str) -> ProbeResponse:
    if not probe.capabilities.url:
        skip("url is not among the server's capabilities.")
    response = probe.variation(response_format="url", n=str(n), **fields)
    if response.status != 200 or not response.entries:
        skip("There are no URLs to check; see url-string.")
    return response


def _first_url(response: ProbeResponse) -> str:
    """Return the URL of the first entry.

    Raises:
        SkipCheck: If it is not an http or https URL.
    """
    url = response.entries[0].get("url")
    if not isinstance(url, str) or not _is_absolute(url):
        skip("There is no URL that can be downloaded; see url-string and url-absolute.")
    return url


def _check_url_type(probe: ServerProbe) -> None:
    if not probe.capabilities.url:
        skip("url is not among the server's capabilities.")
    probe.require_service()
    response = probe.variation(response_format="url", n="1").require_images()
    for index, entry in enumerate(response.entries):
        url = entry.get("url")
        response.require(
            isinstance(url, str) and bool(url), f"data[{index}].url is {response.quote(url)}"
        )


def _check_url_is_absolute(probe: ServerProbe) -> None:
    response = _response(probe)
    url = response.entries[0].get("url")
    if not isinstance(url, str):
        skip("There is no URL to check; see url-string.")
    response.require(_is_absolute(url), f"it is {response.quote(url)}")


def _is_absolute(url: str) -> bool:
    try:
        address = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError):
        return False
    return address.scheme in ("http", "https") and bool(address.host)


def _check_url_alone(probe: ServerProbe) -> None:
    response = _response(probe)
    response.require(not response.entries[0].get("b64_json"), "it also has a b64_json")


def _check_download(probe: ServerProbe) -> None:
    _download(probe, check=True)


def _download(probe: ServerProbe, *, check: bool = False) -> ProbeResponse:
    """Return the response with the file.

    Raises:
        SkipCheck: If the download fails, unless `check` is set.
        Violation: If the download fails and `check` is set.
    """
    url = _first_url(_response(probe))
    _send_all_downloads(probe, url)
    file = probe.download(url)
    if check:
        file.require_success()
    if file.status != 200:
        skip("The URL cannot be downloaded; see url-read.")
    return file


def _send_all_downloads(probe: ServerProbe, url: str) -> None:
    """Send every request that any rule makes for a URL, since it may expire before their turn."""
    for request in (
        _download_request(url),
        _download_request(url, attempt=1),
        _without_query(url),
        _first_bytes(url),
    ):
        try:
            probe.send(request)
        except Violation:
            # The rule that needs the response reports this.
            continue


def _download_request(url: str, attempt: int = 0) -> ProbeRequest:
    return ProbeRequest("GET", url, key="none", attempt=attempt)


def _without_query(url: str) -> ProbeRequest:
    return ProbeRequest("GET", url.partition("?")[0], key="none")


def _first_bytes(url: str) -> ProbeRequest:
    return ProbeRequest("GET", url, key="none", headers=(("range", "bytes=0-7"),))


def _check_image(probe: ServerProbe) -> None:
    file = _download(probe)
    image = ReturnedImage.from_bytes(file.content)
    size = f" of {image.size}" if image.size else ""
    file.require(
        (image.format, image.size) == ("PNG", probe.size),
        f"it is {image.format or 'not an image'}{size}",
    )


def _check_content_type(probe: ServerProbe) -> None:
    file = _download(probe)
    kind = file.headers.get("content-type", "none")
    is_png = kind.partition(";")[0].strip().lower() == "image/png"
    file.require(is_png, lambda: f"it is {file.quote(kind)}")


def _check_second_download(probe: ServerProbe) -> None:
    first = _download(probe)
    url = _first_url(_response(probe))
    second = probe.send(_download_request(url, attempt=1)).require_success()
    second.require(second.content == first.content, "the second download is a different file")


def _check_distinctness(probe: ServerProbe) -> None:
    if probe.capabilities.max_n < 2:
        skip("n=2 is not among the server's capabilities.")
    response = _response(probe, 2)
    urls = [entry.get("url") for entry in response.entries]
    if len(urls) != 2:
        skip("There are not two URLs to compare; see n-two.")
    response.require(urls[0] != urls[1], "both are the same")


def _check_query(probe: ServerProbe) -> None:
    _download(probe)
    url = _first_url(_response(probe))
    if not url.partition("?")[2]:
        skip("The URL has no query to leave out.")
    response = probe.send(_without_query(url))
    response.require(400 <= response.status < 500, lambda: f"{response.status}")


def _check_range(probe: ServerProbe) -> None:
    whole = _download(probe).content
    part = probe.send(_first_bytes(_first_url(_response(probe))))
    part.require(part.status == 206, lambda: f"{part.status}")
    part.require(part.content == whole[:8], lambda: f"{len(part.content)} bytes")


def _download_after_expiry(probe: ServerProbe) -> ProbeResponse:
    """Return the response to a download after the URL has expired."""
    seconds = probe.capabilities.url_ttl
    if seconds is None:
        skip(
            "The lifetime of URLs is not declared. Configure the server to expire them after a few "
            "seconds, and set url_ttl=SECONDS in the capabilities."
        )
    url = _first_url(_response(probe, user="conformance-expiry"))
    last = _download_request(url, attempt=-1)
    if not probe.has_sent(last):
        time.sleep(seconds)
        # Servers count in whole seconds, so the URL may work a little longer.
        for attempt in range(round(_GRACE_SECONDS / _POLL_SECONDS)):
            if probe.send(replace(last, attempt=attempt + 2)).status != 200:
                break
            time.sleep(_POLL_SECONDS)
    return probe.send(last)


def _check_expiry(probe: ServerProbe) -> None:
    file = _download_after_expiry(probe)
    file.require(file.status == 403, lambda: f"{file.status}")


def _check_text_of_expiry(probe: ServerProbe) -> None:
    file = _download_after_expiry(probe)
    if file.status != 403:
        skip("The expired URL does not answer 403; see url-expires.")
    file.require(b"AuthenticationFailed" in file.content, lambda: str(file))


RULES: tuple[Rule[ServerProbe], ...] = (
    Rule("url-string", "MUST", "For url, each entry has url, a string.", _check_url_type),
    Rule("url-absolute", "MUST", "url is an absolute http or https URL.", _check_url_is_absolute),
    Rule("url-alone", "MUST", "For url, no entry has a b64_json as well.", _check_url_alone),
    Rule("url-read", "MUST", "The URL can be downloaded without a key.", _check_download),
    Rule("url-picture", "MUST", "The URL returns a PNG of the requested size.", _check_image),
    Rule("url-content-type", "SHOULD", "The URL returns image/png.", _check_content_type),
    Rule("url-again", "MUST", "The URL can be downloaded more than once.", _check_second_download),
    Rule("url-each-its-own", "MUST", "Two images have two different URLs.", _check_distinctness),
    Rule(
        "url-signed",
        "SHOULD",
        "Without its query, a URL does not work, so nobody can guess it.",
        _check_query,
    ),
    Rule("url-part", "MAY", "A part of the file can be requested with Range.", _check_range),
    Rule("url-expires", "MUST", "An expired URL answers 403.", _check_expiry),
    Rule(
        "url-expires-in-words",
        "SHOULD",
        "The body for an expired URL contains AuthenticationFailed, which clients look for.",
        _check_text_of_expiry,
    ),
)
"""All rules of this module."""
