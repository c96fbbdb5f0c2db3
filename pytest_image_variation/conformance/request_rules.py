"""Rules about requests: which ones are accepted, and which ones are refused."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from langchain_image_variation.contract import MAX_N, SIZES
from pytest_image_variation.conformance.probe_request import Field, File, ProbeRequest
from pytest_image_variation.conformance.rule import Level, Rule, skip
from pytest_image_variation.conformance.server_probe import ServerProbe

__all__ = ["RULES", "require_service"]

_MakeRequest = Callable[[ServerProbe], ProbeRequest]


def require_service(probe: ServerProbe) -> None:
    """Skip a check if the server refuses even the simplest request.

    Raises:
        SkipCheck: If the server refuses that request.
    """
    if not probe.serves_images:
        skip("A plain request gets no images; see answer-status and answer-data.")


def _accepts(id: str, level: Level, text: str, make_request: _MakeRequest) -> Rule[ServerProbe]:
    def check(probe: ServerProbe) -> None:
        require_service(probe)
        probe.send(make_request(probe)).require_images()

    return Rule(f"accept-{id}", level, text, check)


def _refuses(
    id: str,
    level: Level,
    text: str,
    make_request: _MakeRequest,
    *other_statuses: int,
    status: int = 400,
) -> Rule[ServerProbe]:
    def check(probe: ServerProbe) -> None:
        require_service(probe)
        probe.send(make_request(probe)).require_refusal(status, *other_statuses)

    return Rule(f"refuse-{id}", level, text, check)


def _with_field(name: str, value: str) -> _MakeRequest:
    return lambda probe: probe.legal_request(**{name: value})


def _with_image(name: str) -> _MakeRequest:
    return lambda probe: probe.legal_request(image=name)


def _with_file(
    file_name: str | None = "image.png", content_type: str = "image/png"
) -> _MakeRequest:
    def make_request(probe: ServerProbe) -> ProbeRequest:
        fields = probe.legal_request(image=None).parts
        file = File("rgb.png", file_name=file_name, content_type=content_type)
        return ProbeRequest(parts=(*fields, file))

    return make_request


# Accepted requests...


def _accepted_forms() -> Iterator[Rule[ServerProbe]]:
    yield _accepts(
        "picture-alone",
        "MUST",
        "The image is the only required field.",
        lambda probe: probe.legal_request(response_format=None, size=None),
    )
    yield _accepts(
        "all-fields",
        "MUST",
        "All fields can be sent together.",
        lambda probe: probe.legal_request(
            model=_model(probe), n="1", size=probe.size, user="conformance-all"
        ),
    )
    yield _accepts(
        "user", "MUST", "user can be any text.", _with_field("user", "conformance user \u00e9 42")
    )
    yield _accepts(
        "model",
        "MUST",
        "model can name the model: the one given to the kit, or dall-e-2.",
        lambda probe: probe.legal_request(model=_model(probe), user="conformance-model"),
    )
    yield _accepts("no-model", "MUST", "model can be left out.", _without_model)
    yield _accepts(
        "picture-first",
        "MUST",
        "The parts of the form can be in any order.",
        lambda probe: replace(probe.legal_request(), parts=probe.legal_request().parts[::-1]),
    )
    yield _accepts(
        "octet-stream",
        "MUST",
        "The image can be application/octet-stream, as the SDKs send bytes without a name.",
        _with_file(content_type="application/octet-stream", file_name="upload"),
    )
    yield _accepts(
        "any-file-name",
        "SHOULD",
        "The file name does not matter, and need not be ASCII.",
        _with_file(file_name="b\u00e4r \u718a.PNG"),
    )
    yield _accepts(
        "chunked",
        "SHOULD",
        "A body can be sent in chunks, without Content-Length.",
        lambda probe: replace(probe.legal_request(), chunked=True),
    )
    yield _accepts(
        "empty-field",
        "MAY",
        "An empty field, as web forms send it, counts as left out.",
        _with_field("user", ""),
    )
    yield _accepts(
        "null-field",
        "SHOULD",
        "The text null in n counts as left out: some SDKs send it, because n is nullable.",
        _with_field("n", "null"),
    )
    yield _accepts(
        "unnamed-picture",
        "MAY",
        "The image can be application/octet-stream without a file name, as from a stream.",
        _with_file(content_type="application/octet-stream", file_name=None),
    )
    yield _accepts(
        "idempotency-key",
        "SHOULD",
        "Headers that the server does not support, such as Idempotency-Key, are ignored.",
        lambda probe: replace(
            probe.legal_request(),
            headers=(("idempotency-key", f"conformance-alone-{probe.run_id}"),),
        ),
    )


def _accepted_images() -> Iterator[Rule[ServerProbe]]:
    images: tuple[tuple[str, Level, str], ...] = (
        ("rgba", "MUST", "An image can have an alpha channel."),
        # The vendor's server accepted only RGB and RGBA.
        ("grey", "MAY", "An image can be grayscale."),
        ("grey-alpha", "MAY", "An image can be grayscale with an alpha channel."),
        ("palette", "MAY", "An image can have a palette."),
        ("black-white", "MAY", "An image can have one bit per pixel."),
        ("sixteen-bit", "MAY", "An image can have 16 bits per sample."),
        ("one-pixel", "MAY", "An image can be as small as one pixel."),
        ("2048", "SHOULD", "An image can be larger than the requested size."),
        ("just-below-4-mb", "MUST", "An image of 4,194,303 bytes, one below 4 MB, is accepted."),
    )
    for name, level, text in images:
        yield _accepts(name, level, text, _with_image(f"{name}.png"))


def _without_model(probe: ServerProbe) -> ProbeRequest:
    if probe.server.model is None:
        skip("The kit has no model to send, so every request leaves it out.")
    return probe.legal_request(model=None)


def _model(probe: ServerProbe) -> str:
    return probe.server.model or "dall-e-2"


# Refused requests...


def _refused_fields() -> Iterator[Rule[ServerProbe]]:
    for id, value, text in (
        ("n-zero", "0", "n is at least 1: 0 is refused."),
        ("n-negative", "-1", "n is at least 1: -1 is refused."),
        ("n-fraction", "1.5", "n is an integer: 1.5 is refused."),
        ("n-word", "two", "n is a number: a word is refused."),
    ):
        yield _refuses(id, "MUST", text, _with_field("n", value))
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
        _with_field("response_format", "png"),
    )
    yield _refuses(
        "format-case",
        "SHOULD",
        "Values are in lower case: B64_JSON is refused.",
        _with_field("response_format", "B64_JSON"),
    )
    yield _refuses(
        "unknown-model",
        "SHOULD",
        "An unknown model is refused with 400 or 404, not replaced by another.",
        _with_field("model", "conformance-no-such-model"),
        404,
    )
    yield _refuses(
        "unknown-field",
        "SHOULD",
        "A field that is not in the contract, such as prompt, is refused, not ignored.",
        _with_field("prompt", "a cat"),
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
    require_service(probe)
    n = probe.capabilities.max_n + 1
    response = probe.variation(n=str(n))
    # A server that returns all of them supports more than it declares, which is harmless.
    if n > MAX_N or response.status != 200 or len(response.entries) != n:
        response.require_refusal()


def _with_size(value: str) -> _MakeRequest:
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
        yield _refuses(id, level, text, _with_image(name), *other_statuses)
    yield _refuses(
        "no-picture",
        "MUST",
        "A request without an image is refused.",
        lambda probe: probe.legal_request(image=None, n="1"),
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


def _with_body(body: str | None, kind: str | None) -> _MakeRequest:
    return lambda _: ProbeRequest(body=body, content_type=kind)


def _sizes() -> Iterator[Rule[ServerProbe]]:
    for size in SIZES:
        yield Rule(
            f"size-{size}",
            "MUST",
            f"size can be {size}, and each image then has exactly that size.",
            partial(_check_size, size),
        )
    yield Rule(
        "size-claimed",
        "MUST",
        "Other sizes in the server's capabilities are accepted, and images have exactly that size.",
        _check_other_sizes,
    )


def _check_size(size: str, probe: ServerProbe) -> None:
    if size not in probe.capabilities.sizes:
        skip(f"The size {size} is not among the server's capabilities.")
    require_service(probe)
    response = probe.variation(size=size).require_images()
    for index, image in enumerate(probe.images(response)):
        response.require(image.size == size, f"data[{index}] is {image.size or 'not an image'}")


def _check_other_sizes(probe: ServerProbe) -> None:
    others = [size for size in probe.capabilities.sizes if size not in SIZES]
    if not others:
        skip("The server's capabilities include no other size.")
    for size in others:
        _check_size(size, probe)


def _counts() -> Iterator[Rule[ServerProbe]]:
    yield Rule(
        "n-one", "MUST", "n can be 1, and data then has 1 entry.", lambda p: _check_count(p, 1)
    )
    yield Rule(
        "n-two", "MUST", "n can be 2, and data then has 2 entries.", lambda p: _check_count(p, 2)
    )
    yield Rule(
        "n-most",
        "MUST",
        "n can be 10, or the server's max_n, and data then has that many entries.",
        lambda probe: _check_count(probe, probe.capabilities.max_n),
    )


def _check_count(probe: ServerProbe, n: int) -> None:
    if n > probe.capabilities.max_n:
        skip(f"n={n} is not among the server's capabilities.")
    require_service(probe)
    response = probe.variation(n=str(n)).require_success()
    entries = len(response.entries)
    response.require(entries == n, lambda: f"{entries} entries: {response}")


RULES: tuple[Rule[ServerProbe], ...] = (
    *_accepted_forms(),
    *_accepted_images(),
    *_counts(),
    *_sizes(),
    *_refused_fields(),
    *_refused_images(),
    *_refused_bodies(),
)
"""All rules of this module."""
