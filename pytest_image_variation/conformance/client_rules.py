"""Rules about clients: what they send, and how they handle responses."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pytest_image_variation.conformance.client_probe import ALWAYS, Call, ClientProbe
from pytest_image_variation.conformance.images import make_image
from pytest_image_variation.conformance.returned_image import ReturnedImage
from pytest_image_variation.conformance.rule import Rule, Violation, skip
from pytest_image_variation.forms import Part, SentImage

__all__ = ["RULES"]

_FIELDS = {"model", "n", "response_format", "size", "user"}
_PATH = "/v1/images/variations"
_CONCURRENT = 4
_SMALL: dict[str, Any] = {"size": "256x256", "response_format": "b64_json"}


# Requests...


def _check_method_and_path(probe: ClientProbe) -> None:
    call = probe.call(**_SMALL)
    requests = [f"{request.method} {request.path}" for request in call.requests]
    if f"POST {_PATH}" not in requests:
        raise Violation(f"it sent {', '.join(requests) or 'nothing'}")


def _check_image(probe: ClientProbe) -> None:
    image = probe.call(**_SMALL).posts[0].image
    if image is None:
        raise Violation("there is no such part")
    if image.flaw is not None:
        raise Violation(f"the server received an image that is {image.flaw.replace('_', ' ')}")


def _sent_image(probe: ClientProbe) -> SentImage:
    image = probe.call(**_SMALL).posts[0].image
    if image is None:
        skip("The request has no image; see client-picture.")
    return image


def _check_image_bytes(probe: ClientProbe) -> None:
    original = SentImage.from_part(Part("image", make_image("rgb.png")))
    if _sent_image(probe).sha256 != original.sha256:
        raise Violation("the server received other bytes")


def _check_part_type(probe: ClientProbe) -> None:
    kind = _sent_image(probe).content_type
    if kind != "image/png":
        raise Violation(f"it is {kind}")


def _check_key(probe: ClientProbe) -> None:
    if not probe.call(**_SMALL).posts[0].has_key:
        raise Violation("there is none")


def _check_unknown_fields(probe: ClientProbe) -> None:
    fields = probe.call(**_SMALL, n=1, user="jane").posts[0].fields
    others = sorted(fields.keys() - _FIELDS)
    if others:
        raise Violation(f"it also sent {', '.join(others)}")


def _sends_field(name: str, *values: Any) -> Callable[[ClientProbe], None]:
    def check(probe: ClientProbe) -> None:
        for value in values:
            call = probe.call(**{**_SMALL, name: value})
            received = call.posts[0].fields.get(name)
            if received != str(value):
                raise Violation(f"the server received {received!r} instead of {value}")

    return check


# Results...


def _returns_images(scenario: str, **fields: Any) -> Callable[[ClientProbe], None]:
    def check(probe: ClientProbe) -> None:
        call = probe.call(scenario=scenario, **fields)
        if call.unexpected_requests:
            skip(f"The client sent a different request: {call.unexpected_requests[0]}")
        _require_all_images(call, fields["n"])

    return check


def _require_all_images(call: Call, n: int) -> None:
    images = call.require_images()
    if len(images) != n:
        raise Violation(f"{len(images)} images for n={n}")
    if any(ReturnedImage.from_bytes(data).size != "256x256" for data in images):
        raise Violation("a returned file is not an image of the requested size")
    if len(set(images)) != n:
        raise Violation("the same image more than once")


def _check_key_in_downloads(probe: ClientProbe) -> None:
    call = probe.call(size="256x256", response_format="url")
    downloads = [request for request in call.requests if request.method == "GET"]
    if not downloads:
        skip("The client downloaded no URL; see client-url.")
    if any(request.has_key for request in downloads):
        raise Violation("a download had the key")


# Failures...


def _raises(id: str, fault: str, response: str) -> Rule[ClientProbe]:
    def check(probe: ClientProbe) -> None:
        probe.require_error(fault)

    return Rule(id, "MUST", f"The client raises an error for {response}.", check)


def _check_error_for_expired_url(probe: ClientProbe) -> None:
    call = probe.require_error("url_expired", response_format="url")
    if not any(request.method == "GET" for request in call.requests):
        skip("The client downloaded no URL; see client-url.")


def _sends_once(id: str, fault: str) -> Rule[ClientProbe]:
    def check(probe: ClientProbe) -> None:
        call = probe.call(fault=fault, times=ALWAYS, **_SMALL)
        if len(call.posts) != 1:
            raise Violation(f"it was sent {len(call.posts)} times")

    text = f"The client does not retry a refused request: {fault.replace('_', ' ')}."
    return Rule(id, "MUST", text, check)


def _retries(fault: str) -> Callable[[ClientProbe], None]:
    return lambda probe: _require_all_images(probe.call(fault=fault, **_SMALL), 1)


def _check_retry(probe: ClientProbe) -> None:
    posts = probe.call(fault="rate_limit", n=2, user="jane", **_SMALL).posts
    if len(posts) < 2:
        skip("The client does not retry; see client-again-rate-limit.")
    first, second = posts[:2]
    if (first.fields, first.image) != (second.fields, second.image):
        raise Violation("the second request is different")


def _check_message(probe: ClientProbe) -> None:
    call = _failed_call(probe, "content_refused")
    if "safety system" not in str(call.error):
        raise Violation(f"{call.error}"[:300])


def _check_key_in_errors(probe: ClientProbe) -> None:
    call = _failed_call(probe, "wrong_key")
    if call.api_key in f"{call.error} {call.error!r}":
        raise Violation("the error contains the key")


def _failed_call(probe: ClientProbe, fault: str) -> Call:
    call = probe.call(fault=fault, times=ALWAYS, **_SMALL)
    if call.error is None:
        skip("There is no error to check; see the rules that start with client-raises.")
    # Without a request, the error is not about the server's response.
    return call.require_requests()


def _check_concurrency(probe: ClientProbe) -> None:
    counts = [index % 3 + 1 for index in range(_CONCURRENT)]
    with ThreadPoolExecutor(_CONCURRENT) as pool:
        calls = list(pool.map(lambda n: probe.call(n=n, **_SMALL), counts))
    for n, call in zip(counts, calls, strict=True):
        _require_all_images(call, n)


RULES: tuple[Rule[ClientProbe], ...] = (
    Rule(
        "client-asks",
        "MUST",
        "It sends POST /images/variations below the base URL.",
        _check_method_and_path,
    ),
    Rule("client-picture", "MUST", "The image is the file part image, and is legal.", _check_image),
    Rule(
        "client-picture-unchanged", "SHOULD", "A legal image is sent unchanged.", _check_image_bytes
    ),
    Rule("client-part-type", "SHOULD", "The image is sent as image/png.", _check_part_type),
    Rule("client-key", "MUST", "The key is sent in the header Authorization.", _check_key),
    Rule(
        "client-fields",
        "MUST",
        "It sends no field that is not in the contract.",
        _check_unknown_fields,
    ),
    Rule("client-n", "MUST", "It sends n.", _sends_field("n", 2)),
    Rule("client-size", "MUST", "It sends size.", _sends_field("size", "512x512")),
    Rule(
        "client-format",
        "MUST",
        "It sends response_format.",
        _sends_field("response_format", "b64_json", "url"),
    ),
    Rule("client-user", "SHOULD", "It sends user.", _sends_field("user", "jane")),
    Rule(
        "client-b64",
        "MUST",
        "It returns the files of all images in base64.",
        _returns_images("success_b64_n3_256", n=3, **_SMALL),
    ),
    Rule(
        "client-url",
        "MUST",
        "It returns the files of all images at URLs.",
        _returns_images("success_url_n3_256", n=3, size="256x256", response_format="url"),
    ),
    Rule(
        "client-ten",
        "MUST",
        "It returns ten images.",
        _returns_images("success_b64_n10_256", n=10, **_SMALL),
    ),
    Rule(
        "client-no-key-elsewhere",
        "MUST",
        "It does not send the key to the URL of an image.",
        _check_key_in_downloads,
    ),
    _raises("client-raises-wrong-key", "wrong_key", "a 401"),
    _raises(
        "client-raises-content-refused", "content_refused", "a 400 for the content of the image"
    ),
    _raises("client-raises-budget-exhausted", "budget_exhausted", "a 400 for an exhausted budget"),
    _raises("client-raises-rate-limit", "rate_limit", "a 429 that does not end"),
    _raises("client-raises-server-error", "server_error", "a 500 that does not end"),
    _raises("client-raises-gateway-timeout", "gateway_timeout", "a 504 with an HTML page"),
    _raises("client-raises-cut-body", "cut_body", "an incomplete response"),
    _raises("client-raises-garbage-body", "garbage_body", "a response that is not JSON"),
    _raises(
        "client-raises-endpoint-removed",
        "endpoint_removed",
        "the empty 404 of a server without image variations",
    ),
    _sends_once("client-once-wrong-key", "wrong_key"),
    _sends_once("client-once-content-refused", "content_refused"),
    _sends_once("client-once-budget-exhausted", "budget_exhausted"),
    Rule(
        "client-again-rate-limit",
        "SHOULD",
        "The client retries a 429 after the delay in its headers.",
        _retries("rate_limit"),
    ),
    Rule(
        "client-again-server-error", "SHOULD", "The client retries a 500.", _retries("server_error")
    ),
    Rule(
        "client-again-unavailable",
        "SHOULD",
        "The client retries a 503 after the delay in its headers.",
        _retries("unavailable"),
    ),
    Rule(
        "client-again-image-rate-limit",
        "MAY",
        "The client retries a 429 with the delay only in its message.",
        _retries("image_rate_limit"),
    ),
    Rule(
        "client-raises-url-expired",
        "MUST",
        "The client raises an error for an expired URL.",
        _check_error_for_expired_url,
    ),
    Rule(
        "client-the-same-again",
        "MUST",
        "A retry is the same request, including the image.",
        _check_retry,
    ),
    Rule("client-message", "SHOULD", "An error contains the server's message.", _check_message),
    Rule("client-key-not-shown", "MUST", "No error contains the key.", _check_key_in_errors),
    Rule(
        "client-at-once", "MUST", "Concurrent calls do not mix up their images.", _check_concurrency
    ),
)
"""All rules of this module."""
