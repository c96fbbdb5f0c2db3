"""Rules about the response to a legal request."""

import base64
import binascii
from collections.abc import Iterator

from pytest_image_variation.conformance.probe_response import ProbeResponse
from pytest_image_variation.conformance.rule import Rule, Violation, skip
from pytest_image_variation.conformance.server_probe import ServerProbe

__all__ = ["RULES"]

_KEYS = {"created", "data"}
_ENTRY_KEYS = {"b64_json", "url", "revised_prompt"}
_CLOCK_SECONDS = 600


def _plain_response(probe: ServerProbe) -> ProbeResponse:
    """Return the response that most rules check.

    Raises:
        SkipCheck: If it is not a success.
    """
    response = probe.variation()
    if response.status != 200:
        skip("A plain request gets no images; see answer-status.")
    return response


def _with_entries(probe: ServerProbe) -> ProbeResponse:
    """Return the same response, if it has entries.

    Raises:
        SkipCheck: If it has none.
    """
    response = _plain_response(probe)
    if not response.entries:
        skip("There are no entries to check; see answer-data.")
    return response


def _base64_values(probe: ServerProbe, response: ProbeResponse) -> Iterator[tuple[str, object]]:
    """Yield the name and value of each b64_json.

    Raises:
        SkipCheck: If the server does not support b64_json.
    """
    if not probe.capabilities.b64_json:
        skip("b64_json is not among the server's capabilities.")
    for index, entry in enumerate(response.entries):
        yield f"data[{index}].b64_json", entry.get("b64_json")


def _check_status(probe: ServerProbe) -> None:
    response = probe.variation()
    hint = _hint(probe, response)
    if response.status != 200:
        raise Violation(f"{response} ({hint})" if hint else f"{response}", [response.curl])


def _hint(probe: ServerProbe, response: ProbeResponse) -> str | None:
    """Return what may be wrong with the kit's options rather than with the server."""
    server = probe.server
    if response.status in (401, 403):
        return (
            "Check the API key."
            if server.api_key
            else "If the server requires a key, set IMAGE_VARIATION_API_KEY or pass "
            "--image-variation-api-key."
        )
    if response.status in (404, 405):
        return f"Check the URL {server.base_url}, which must include the /v1."
    if 300 <= response.status < 400:
        location = response.quote(response.headers.get("location", ""))
        return f"The server redirects to {location}. Pass the final URL, as redirects are ignored."
    if response.status in (400, 422) and server.model is None:
        return "If the server requires a model, pass --image-variation-model."
    return None


def _check_content_type(probe: ServerProbe) -> None:
    response = _plain_response(probe)
    kind = response.headers.get("content-type", "")
    is_json = kind.partition(";")[0].strip().lower() == "application/json"
    response.require(is_json, response.quote(kind))


def _check_object(probe: ServerProbe) -> None:
    response = _plain_response(probe)
    response.require(isinstance(response.json, dict), lambda: str(response))


def _content(probe: ServerProbe) -> tuple[ProbeResponse, dict[str, object]]:
    response = _plain_response(probe)
    content = response.json
    if not isinstance(content, dict):
        skip("The body is not a JSON object; see answer-object.")
    return response, content


def _check_created(probe: ServerProbe) -> None:
    response, content = _content(probe)
    response.require(
        type(content.get("created")) is int,
        lambda: f"created is {response.quote(content.get('created'))}",
    )


def _check_time_of_created(probe: ServerProbe) -> None:
    response, content = _content(probe)
    created = content.get("created")
    if not isinstance(created, int | float):
        skip("created is not a number; see answer-created.")
    # Unlike a difference, a comparison with a huge integer does not overflow.
    received_at = response.received_at
    is_close = received_at - _CLOCK_SECONDS < created < received_at + _CLOCK_SECONDS
    response.require(
        is_close, lambda: f"created is {response.quote(created)} at the time {received_at:.0f}"
    )


def _check_data(probe: ServerProbe) -> None:
    response, content = _content(probe)
    data = content.get("data")
    response.require(
        isinstance(data, list) and bool(data) and all(isinstance(entry, dict) for entry in data),
        lambda: str(response),
    )


def _check_unknown_keys(probe: ServerProbe) -> None:
    response, content = _content(probe)
    others = sorted(content.keys() - _KEYS)
    response.require(not others, lambda: f"it also has {response.quote(others)}")


def _check_unknown_entry_keys(probe: ServerProbe) -> None:
    response = _with_entries(probe)
    others = sorted({key for entry in response.entries for key in entry} - _ENTRY_KEYS)
    response.require(not others, lambda: f"an entry also has {response.quote(others)}")


def _check_unused_keys(probe: ServerProbe) -> None:
    response = _with_entries(probe)
    empty = sorted(
        {key for entry in response.entries for key in entry.keys() & _ENTRY_KEYS if not entry[key]}
    )
    response.require(not empty, f"an entry has {', '.join(empty)} without a value")


def _check_b64_json(probe: ServerProbe) -> None:
    response = _with_entries(probe)
    for name, value in _base64_values(probe, response):
        response.require(
            isinstance(value, str) and bool(value), f"{name} is {response.quote(value)}"
        )


def _check_base64(probe: ServerProbe) -> None:
    response = _with_entries(probe)
    for name, value in _base64_values(probe, response):
        if not isinstance(value, str):
            skip("There is no base64 to check; see b64-string.")
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            response.fail(f"{name} is {response.quote(value)}")


def _check_b64_json_alone(probe: ServerProbe) -> None:
    response = _with_entries(probe)
    list(_base64_values(probe, response))
    for entry in response.entries:
        url = entry.get("url")
        response.require(not url, f"an entry also has the url {response.quote(url)}")


def _check_png(probe: ServerProbe) -> None:
    response = _plain_response(probe)
    for index, image in enumerate(probe.images(response)):
        if image.format is None:
            skip("data holds no image; see picture-decodes.")
        response.require(image.format == "PNG", f"data[{index}] is {image.format}")


def _check_pixels(probe: ServerProbe) -> None:
    response = _plain_response(probe)
    for index, image in enumerate(probe.images(response)):
        response.require(image.decodable, f"data[{index}] cannot be decoded")


def _check_distinctness(probe: ServerProbe) -> None:
    n = min(2, probe.capabilities.max_n)
    response = probe.variation(n=str(n))
    images = probe.images(response)
    if len(images) < 2:
        skip("There are not two images to compare; see n-two.")
    response.require(images[0].data != images[1].data, "both have the same bytes")


def _check_default_size(probe: ServerProbe) -> None:
    if "1024x1024" not in probe.capabilities.sizes:
        skip("The size 1024x1024 is not among the server's capabilities.")
    response = probe.variation(size=None)
    for image in probe.images(response):
        response.require(image.size == "1024x1024", f"it is {image.size or 'not an image'}")


def _check_default_n(probe: ServerProbe) -> None:
    response = _with_entries(probe)
    response.require(len(response.entries) == 1, f"there are {len(response.entries)}")


def _check_default_format(probe: ServerProbe) -> None:
    if not probe.capabilities.url:
        skip("url is not among the server's capabilities.")
    response = probe.variation(response_format=None)
    if not response.entries:
        skip("There are no entries to check; see answer-data.")
    response.require(isinstance(response.entries[0].get("url"), str), lambda: str(response))


def _check_request_id(probe: ServerProbe) -> None:
    response = _plain_response(probe)
    response.require(bool(response.headers.get("x-request-id")), "there is none")


def _check_new_request_id(probe: ServerProbe) -> None:
    response, other = _plain_response(probe), probe.variation(user="conformance-other-id")
    ids = [each.headers.get("x-request-id") for each in (response, other)]
    if None in ids:
        skip("There is no id to check; see answer-request-id.")
    other.require(ids[0] != ids[1], lambda: f"both are {response.quote(ids[0])}")


def _check_processing_ms(probe: ServerProbe) -> None:
    response = _plain_response(probe)
    value = response.headers.get("openai-processing-ms", "")
    response.require(
        value.isdecimal(), f"it is {response.quote(value)}" if value else "there is none"
    )


def _check_version(probe: ServerProbe) -> None:
    response = _plain_response(probe)
    response.require(bool(response.headers.get("openai-version")), "there is none")


RULES: tuple[Rule[ServerProbe], ...] = (
    Rule("answer-status", "MUST", "A legal request gets the status 200.", _check_status),
    Rule("answer-content-type", "MUST", "A response is application/json.", _check_content_type),
    Rule("answer-object", "MUST", "A response is a JSON object.", _check_object),
    Rule("answer-created", "MUST", "created is an integer, in seconds.", _check_created),
    Rule(
        "answer-created-now",
        "SHOULD",
        "created is the Unix time at which the response was made.",
        _check_time_of_created,
    ),
    Rule("answer-data", "MUST", "data is a list with one object per image.", _check_data),
    Rule("answer-keys", "MAY", "A response has only created and data.", _check_unknown_keys),
    Rule(
        "answer-entry-keys",
        "SHOULD",
        "An entry has no keys other than b64_json, url and revised_prompt.",
        _check_unknown_entry_keys,
    ),
    Rule(
        "answer-no-nulls",
        "SHOULD",
        "Unused keys of an entry are left out, not null or empty.",
        _check_unused_keys,
    ),
    Rule("b64-string", "MUST", "For b64_json, each entry has b64_json, a string.", _check_b64_json),
    Rule(
        "b64-plain",
        "MUST",
        "b64_json is padded base64 in the standard alphabet, without line breaks or data: prefix.",
        _check_base64,
    ),
    Rule("b64-alone", "MUST", "For b64_json, no entry has a url as well.", _check_b64_json_alone),
    Rule("picture-png", "MUST", "Each image is a PNG file.", _check_png),
    Rule("picture-decodes", "MUST", "Every pixel of each image can be decoded.", _check_pixels),
    Rule("picture-distinct", "SHOULD", "Two images in one response differ.", _check_distinctness),
    Rule("default-n", "MUST", "Without n, there is one image.", _check_default_n),
    Rule("default-size", "MUST", "Without size, an image is 1024x1024.", _check_default_size),
    Rule(
        "default-format",
        "MUST",
        "Without response_format, entries have URLs.",
        _check_default_format,
    ),
    Rule(
        "answer-request-id", "SHOULD", "A response has the header x-request-id.", _check_request_id
    ),
    Rule(
        "answer-new-request-id",
        "SHOULD",
        "Each response has a different id.",
        _check_new_request_id,
    ),
    Rule(
        "answer-processing-ms",
        "MAY",
        "The header openai-processing-ms gives the time taken in milliseconds.",
        _check_processing_ms,
    ),
    Rule("answer-version", "MAY", "A response has the header openai-version.", _check_version),
)
"""All rules of this module."""
