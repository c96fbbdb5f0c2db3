"""Rules about requests that are refused."""

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

    return Rule(id, level, text, check)


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


_JSON = '{"image": "https://pictures.example/image.png", "n": 1}'
_CUT = '--conformance\r\ncontent-disposition: form-data; name="image"; filename="a.png"\r\n\r\nabc'


def _with_body(body: str | None, kind: str | None) -> MakeRequest:
    return lambda _: ProbeRequest(body=body, content_type=kind)


RULES: tuple[Rule[ServerProbe], ...] = (
    _refuses("refuse-n-zero", "MUST", "n is at least 1: 0 is refused.", request_with(n="0")),
    _refuses("refuse-n-negative", "MUST", "n is at least 1: -1 is refused.", request_with(n="-1")),
    _refuses(
        "refuse-n-fraction", "MUST", "n is an integer: 1.5 is refused.", request_with(n="1.5")
    ),
    _refuses("refuse-n-word", "MUST", "n is a number: a word is refused.", request_with(n="two")),
    Rule(
        "refuse-n-above",
        "MUST",
        "n is at most 10, or the server's max_n: one more is refused, not reduced.",
        _check_one_too_many,
    ),
    _refuses(
        "refuse-size-other",
        "MUST",
        "size is one that the server supports: 300x300 is refused.",
        _with_size("300x300"),
    ),
    _refuses(
        "refuse-size-not-square",
        "MUST",
        "size is square: 1024x1536 is refused.",
        _with_size("1024x1536"),
    ),
    _refuses(
        "refuse-size-one-number",
        "MUST",
        "size is WIDTHxHEIGHT: a single number is refused.",
        _with_size("256"),
    ),
    _refuses(
        "refuse-size-word", "MUST", "size is WIDTHxHEIGHT: a word is refused.", _with_size("large")
    ),
    _refuses(
        "refuse-format-other",
        "MUST",
        "response_format is url or b64_json: png is refused.",
        request_with(response_format="png"),
    ),
    _refuses(
        "refuse-format-case",
        "SHOULD",
        "Values are in lower case: B64_JSON is refused.",
        request_with(response_format="B64_JSON"),
    ),
    _refuses(
        "refuse-unknown-model",
        "SHOULD",
        "An unknown model is refused with 400 or 404, not replaced by another.",
        request_with(model="conformance-no-such-model"),
        404,
    ),
    _refuses(
        "refuse-unknown-field",
        "SHOULD",
        "A field that is not in the contract, such as prompt, is refused, not ignored.",
        request_with(prompt="a cat"),
    ),
    _refuses(
        "refuse-repeated-field",
        "SHOULD",
        "A field that occurs twice is refused.",
        lambda probe: ProbeRequest(
            parts=(Field("n", "1"), Field("n", "2"), *probe.legal_request(n=None).parts)
        ),
    ),
    _refuses(
        "refuse-wide",
        "MUST",
        "An image is square: 96x64 pixels are refused.",
        request_with(image="wide.png"),
    ),
    _refuses(
        "refuse-high",
        "MUST",
        "An image is square: 64x96 pixels are refused.",
        request_with(image="high.png"),
    ),
    _refuses(
        "refuse-almost-square",
        "MUST",
        "An image is exactly square: 65x64 pixels are refused.",
        request_with(image="almost-square.png"),
    ),
    _refuses(
        "refuse-4-mb",
        "MUST",
        "An image has less than 4 MB: 4,194,304 bytes are refused with 400 or 413.",
        request_with(image="4-mb.png"),
        413,
    ),
    _refuses(
        "refuse-jpeg", "MUST", "An image is PNG: JPEG is refused.", request_with(image="photo.jpg")
    ),
    _refuses(
        "refuse-gif", "MUST", "An image is PNG: GIF is refused.", request_with(image="photo.gif")
    ),
    _refuses(
        "refuse-webp", "MUST", "An image is PNG: WebP is refused.", request_with(image="photo.webp")
    ),
    _refuses(
        "refuse-text",
        "MUST",
        "An image is PNG: text named image.png is refused.",
        request_with(image="text.png"),
    ),
    _refuses(
        "refuse-empty-picture",
        "MUST",
        "An image is PNG: an empty file is refused.",
        request_with(image="empty.png"),
    ),
    _refuses(
        "refuse-cut-off", "MUST", "A truncated PNG is refused.", request_with(image="cut-off.png")
    ),
    _refuses(
        "refuse-wrong-checksum",
        "SHOULD",
        "A PNG with a wrong checksum is refused.",
        request_with(image="wrong-checksum.png"),
    ),
    _refuses(
        "refuse-broken-pixels",
        "SHOULD",
        "A PNG whose pixels cannot be decompressed is refused with 400, as a client's mistake.",
        request_with(image="broken-pixels.png"),
    ),
    _refuses(
        "refuse-no-picture",
        "MUST",
        "A request without an image is refused.",
        request_with(image=None, n="1"),
    ),
    _refuses(
        "refuse-two-pictures",
        "SHOULD",
        "A request with two images is refused.",
        lambda probe: ProbeRequest(parts=(*probe.legal_request().parts, File("rgb.png"))),
    ),
    _refuses(
        "refuse-picture-as-text",
        "SHOULD",
        "The image is a file of the form: a text field, such as base64, is refused.",
        lambda probe: ProbeRequest(
            parts=(*probe.legal_request(image=None).parts, Field("image", "iVBORw0KGgo="))
        ),
    ),
    _refuses(
        "refuse-json",
        "MUST",
        "A JSON body is refused with 400 or 415.",
        _with_body(_JSON, "application/json"),
        415,
    ),
    _refuses(
        "refuse-urlencoded",
        "MUST",
        "A form that is not multipart is refused with 400 or 415.",
        _with_body("n=1&size=256x256", "application/x-www-form-urlencoded"),
        415,
    ),
    _refuses(
        "refuse-no-body",
        "MUST",
        "A request without a body is refused with 400 or 415.",
        _with_body(None, None),
        415,
    ),
    _refuses(
        "refuse-broken-form",
        "MUST",
        "An incomplete form is refused.",
        _with_body(_CUT, "multipart/form-data; boundary=conformance"),
    ),
    _refuses(
        "refuse-no-boundary",
        "SHOULD",
        "A form without a boundary in its content type is refused.",
        _with_body("--x--\r\n", "multipart/form-data"),
    ),
    _refuses(
        "refuse-unclosed-form",
        "SHOULD",
        "A form without its closing boundary is refused, because its last field may be cut off.",
        lambda probe: replace(
            probe.legal_request(), parts=probe.legal_request().parts[::-1], is_closed=False
        ),
    ),
    _refuses(
        "refuse-get",
        "SHOULD",
        "GET is refused with 405 or 404.",
        lambda _: ProbeRequest("GET"),
        404,
        status=405,
    ),
)
"""All rules of this module."""
