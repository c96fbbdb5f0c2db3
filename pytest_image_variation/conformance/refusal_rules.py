"""Rules about requests that are refused."""

from collections.abc import Iterator
from dataclasses import replace

from langchain_image_variation.contract import MAX_N
from pytest_image_variation.conformance.probe_request import Field, File, ProbeRequest
from pytest_image_variation.conformance.rule import Level, Rule, skip
from pytest_image_variation.conformance.server_probe import MakeRequest, ServerProbe, request_with

__all__ = ["RULES"]


def _refuses(
    id: str,
    level: Level,
    text: str,
    make_request: MakeRequest,
    *other_statuses: int,
    status: int = 400,
) -> Rule[ServerProbe]:
    def check(probe: ServerProbe) -> None:
        probe.require_service()
        probe.send(make_request(probe)).require_refusal(status, *other_statuses)

    return Rule(f"refuse-{id}", level, text, check)


def _refused_fields() -> Iterator[Rule[ServerProbe]]:
    for id, value, text in (
        ("n-zero", "0", "n is at least 1: 0 is refused."),
        ("n-negative", "-1", "n is at least 1: -1 is refused."),
        ("n-fraction", "1.5", "n is an integer: 1.5 is refused."),
        ("n-word", "two", "n is a number: a word is refused."),
    ):
        yield _refuses(id, "MUST", text, request_with(n=value))
    yield Rule(
        "refuse-n-above",
        "MUST",
        "n is at most 10, or the server's max_n: one more is refused, not reduced.",
        _check_one_too_many,
    )
    for id, value, text in (
        ("size-other", "300x300", "size is one that the server supports: 300x300 is refused."),
        ("size-not-square", "1024x1536", "size is square: 1024x1536 is refused."),
        ("size-one-number", "256", "size is WIDTHxHEIGHT: a single number is refused."),
        ("size-word", "large", "size is WIDTHxHEIGHT: a word is refused."),
    ):
        yield _refuses(id, "MUST", text, _with_size(value))
    yield _refuses(
        "format-other",
        "MUST",
        "response_format is url or b64_json: png is refused.",
        request_with(response_format="png"),
    )
    yield _refuses(
        "format-case",
        "SHOULD",
        "Values are in lower case: B64_JSON is refused.",
        request_with(response_format="B64_JSON"),
    )
    yield _refuses(
        "unknown-model",
        "SHOULD",
        "An unknown model is refused with 400 or 404, not replaced by another.",
        request_with(model="conformance-no-such-model"),
        404,
    )
    yield _refuses(
        "unknown-field",
        "SHOULD",
        "A field that is not in the contract, such as prompt, is refused, not ignored.",
        request_with(prompt="a cat"),
    )
    yield _refuses(
        "repeated-field",
        "SHOULD",
        "A field that occurs twice is refused.",
        lambda probe: ProbeRequest(
            parts=(Field("n", "1"), Field("n", "2"), *probe.legal_request(n=None).parts)
        ),
    )


def _check_one_too_many(probe: ServerProbe) -> None:
    probe.require_service()
    n = probe.capabilities.max_n + 1
    response = probe.variation(n=str(n))
    # A server that returns all of them supports more than it declares, which is harmless.
    if n > MAX_N or response.status != 200 or len(response.entries) != n:
        response.require_refusal()


def _with_size(value: str) -> MakeRequest:
    def make_request(probe: ServerProbe) -> ProbeRequest:
        if value in probe.capabilities.sizes:
            skip(f"The size {value} is among the server's capabilities.")
        return probe.legal_request(size=value)

    return make_request


def _refused_images() -> Iterator[Rule[ServerProbe]]:
    images: tuple[tuple[str, Level, str, str], ...] = (
        ("wide", "MUST", "wide.png", "An image is square: 96x64 pixels are refused."),
        ("high", "MUST", "high.png", "An image is square: 64x96 pixels are refused."),
        (
            "almost-square",
            "MUST",
            "almost-square.png",
            "An image is exactly square: 65x64 pixels are refused.",
        ),
        (
            "4-mb",
            "MUST",
            "4-mb.png",
            "An image has less than 4 MB: 4,194,304 bytes are refused with 400 or 413.",
        ),
        ("jpeg", "MUST", "photo.jpg", "An image is PNG: JPEG is refused."),
        ("gif", "MUST", "photo.gif", "An image is PNG: GIF is refused."),
        ("webp", "MUST", "photo.webp", "An image is PNG: WebP is refused."),
        ("text", "MUST", "text.png", "An image is PNG: text named image.png is refused."),
        ("empty-picture", "MUST", "empty.png", "An image is PNG: an empty file is refused."),
        ("cut-off", "MUST", "cut-off.png", "A truncated PNG is refused."),
        (
            "wrong-checksum",
            "SHOULD",
            "wrong-checksum.png",
            "A PNG with a wrong checksum is refused.",
        ),
        (
            "broken-pixels",
            "SHOULD",
            "broken-pixels.png",
            "A PNG whose pixels cannot be decompressed is refused with 400, as a client's mistake.",
        ),
    )
    for id, level, name, text in images:
        other_statuses = (413,) if id == "4-mb" else ()
        yield _refuses(id, level, text, request_with(image=name), *other_statuses)
    yield _refuses(
        "no-picture",
        "MUST",
        "A request without an image is refused.",
        request_with(image=None, n="1"),
    )
    yield _refuses(
        "two-pictures",
        "SHOULD",
        "A request with two images is refused.",
        lambda probe: ProbeRequest(parts=(*probe.legal_request().parts, File("rgb.png"))),
    )
    yield _refuses(
        "picture-as-text",
        "SHOULD",
        "The image is a file of the form: a text field, such as base64, is refused.",
        lambda probe: ProbeRequest(
            parts=(*probe.legal_request(image=None).parts, Field("image", "iVBORw0KGgo="))
        ),
    )


_JSON = '{"image": "https://pictures.example/image.png", "n": 1}'
_CUT = '--conformance\r\ncontent-disposition: form-data; name="image"; filename="a.png"\r\n\r\nabc'


def _refused_bodies() -> Iterator[Rule[ServerProbe]]:
    bodies: tuple[tuple[str, Level, str | None, str | None, str], ...] = (
        ("json", "MUST", _JSON, "application/json", "A JSON body is refused with 400 or 415."),
        (
            "urlencoded",
            "MUST",
            "n=1&size=256x256",
            "application/x-www-form-urlencoded",
            "A form that is not multipart is refused with 400 or 415.",
        ),
        ("no-body", "MUST", None, None, "A request without a body is refused with 400 or 415."),
        (
            "broken-form",
            "MUST",
            _CUT,
            "multipart/form-data; boundary=conformance",
            "An incomplete form is refused.",
        ),
        (
            "no-boundary",
            "SHOULD",
            "--x--\r\n",
            "multipart/form-data",
            "A form without a boundary in its content type is refused.",
        ),
    )
    for id, level, body, kind, text in bodies:
        other_statuses = () if id in ("broken-form", "no-boundary") else (415,)
        yield _refuses(id, level, text, _with_body(body, kind), *other_statuses)
    yield _refuses(
        "unclosed-form",
        "SHOULD",
        "A form without its closing boundary is refused, because its last field may be cut off.",
        lambda probe: replace(
            probe.legal_request(), parts=probe.legal_request().parts[::-1], is_closed=False
        ),
    )
    yield _refuses(
        "get",
        "SHOULD",
        "GET is refused with 405 or 404.",
        lambda _: ProbeRequest("GET"),
        404,
        status=405,
    )


def _with_body(body: str | None, kind: str | None) -> MakeRequest:
    return lambda _: ProbeRequest(body=body, content_type=kind)


RULES: tuple[Rule[ServerProbe], ...] = (
    *_refused_fields(),
    *_refused_images(),
    *_refused_bodies(),
)
"""All rules of this module."""
