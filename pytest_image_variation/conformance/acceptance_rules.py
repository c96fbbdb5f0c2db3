"""Rules about requests that are accepted, and about the images that they get."""

from dataclasses import replace
from functools import partial

from langchain_image_variation.contract import SIZES
from pytest_image_variation.conformance.probe_request import File, ProbeRequest
from pytest_image_variation.conformance.rule import Level, Rule, skip
from pytest_image_variation.conformance.server_probe import MakeRequest, ServerProbe, request_with

__all__ = ["RULES"]


def _accepts(id: str, level: Level, text: str, make_request: MakeRequest) -> Rule[ServerProbe]:
    def check(probe: ServerProbe) -> None:
        probe.require_service()
        probe.send(make_request(probe)).require_images()

    return Rule(id, level, text, check)


def _with_file(file_name: str | None = "image.png", content_type: str = "image/png") -> MakeRequest:
    def make_request(probe: ServerProbe) -> ProbeRequest:
        fields = probe.legal_request(image=None).parts
        file = File("rgb.png", file_name=file_name, content_type=content_type)
        return ProbeRequest(parts=(*fields, file))

    return make_request


def _without_model(probe: ServerProbe) -> ProbeRequest:
    if probe.server.model is None:
        skip("The kit has no model to send, so every request leaves it out.")
    return probe.legal_request(model=None)


def _model(probe: ServerProbe) -> str:
    return probe.server.model or "dall-e-2"


def _gives_size(id: str, size: str) -> Rule[ServerProbe]:
    text = f"size can be {size}, and each image then has exactly that size."
    return Rule(id, "MUST", text, partial(_check_size, size))


def _check_size(size: str, probe: ServerProbe) -> None:
    if size not in probe.capabilities.sizes:
        skip(f"The size {size} is not among the server's capabilities.")
    probe.require_service()
    response = probe.variation(size=size).require_images()
    for index, image in enumerate(probe.images(response)):
        response.require(image.size == size, f"data[{index}] is {image.size or 'not an image'}")


def _check_other_sizes(probe: ServerProbe) -> None:
    others = [size for size in probe.capabilities.sizes if size not in SIZES]
    if not others:
        skip("The server's capabilities include no other size.")
    for size in others:
        _check_size(size, probe)


def _check_count(probe: ServerProbe, n: int) -> None:
    if n > probe.capabilities.max_n:
        skip(f"n={n} is not among the server's capabilities.")
    probe.require_service()
    response = probe.variation(n=str(n)).require_success()
    entries = len(response.entries)
    response.require(entries == n, lambda: f"{entries} entries: {response}")


RULES: tuple[Rule[ServerProbe], ...] = (
    _accepts(
        "accept-picture-alone",
        "MUST",
        "The image is the only required field.",
        request_with(response_format=None, size=None),
    ),
    _accepts(
        "accept-all-fields",
        "MUST",
        "All fields can be sent together.",
        lambda probe: probe.legal_request(
            model=_model(probe), n="1", size=probe.size, user="conformance-all"
        ),
    ),
    _accepts(
        "accept-user",
        "MUST",
        "user can be any text.",
        request_with(user="conformance user \u00e9 42"),
    ),
    _accepts(
        "accept-model",
        "MUST",
        "model can name the model: the one given to the kit, or dall-e-2.",
        lambda probe: probe.legal_request(model=_model(probe), user="conformance-model"),
    ),
    _accepts("accept-no-model", "MUST", "model can be left out.", _without_model),
    _accepts(
        "accept-picture-first",
        "MUST",
        "The parts of the form can be in any order.",
        lambda probe: replace(probe.legal_request(), parts=probe.legal_request().parts[::-1]),
    ),
    _accepts(
        "accept-octet-stream",
        "MUST",
        "The image can be application/octet-stream, as the SDKs send bytes without a name.",
        _with_file(content_type="application/octet-stream", file_name="upload"),
    ),
    _accepts(
        "accept-any-file-name",
        "SHOULD",
        "The file name does not matter, and need not be ASCII.",
        _with_file(file_name="b\u00e4r \u718a.PNG"),
    ),
    _accepts(
        "accept-chunked",
        "SHOULD",
        "A body can be sent in chunks, without Content-Length.",
        lambda probe: replace(probe.legal_request(), chunked=True),
    ),
    _accepts(
        "accept-empty-field",
        "MAY",
        "An empty field, as web forms send it, counts as left out.",
        request_with(user=""),
    ),
    _accepts(
        "accept-null-field",
        "SHOULD",
        "The text null in n counts as left out: some SDKs send it, because n is nullable.",
        request_with(n="null"),
    ),
    _accepts(
        "accept-unnamed-picture",
        "MAY",
        "The image can be application/octet-stream without a file name, as from a stream.",
        _with_file(content_type="application/octet-stream", file_name=None),
    ),
    _accepts(
        "accept-idempotency-key",
        "SHOULD",
        "Headers that the server does not support, such as Idempotency-Key, are ignored.",
        lambda probe: replace(
            probe.legal_request(),
            headers=(("idempotency-key", f"conformance-alone-{probe.run_id}"),),
        ),
    ),
    _accepts(
        "accept-rgba", "MUST", "An image can have an alpha channel.", request_with(image="rgba.png")
    ),
    # The vendor's server accepted only RGB and RGBA.
    _accepts("accept-grey", "MAY", "An image can be grayscale.", request_with(image="grey.png")),
    _accepts(
        "accept-grey-alpha",
        "MAY",
        "An image can be grayscale with an alpha channel.",
        request_with(image="grey-alpha.png"),
    ),
    _accepts(
        "accept-palette", "MAY", "An image can have a palette.", request_with(image="palette.png")
    ),
    _accepts(
        "accept-black-white",
        "MAY",
        "An image can have one bit per pixel.",
        request_with(image="black-white.png"),
    ),
    _accepts(
        "accept-sixteen-bit",
        "MAY",
        "An image can have 16 bits per sample.",
        request_with(image="sixteen-bit.png"),
    ),
    _accepts(
        "accept-one-pixel",
        "MAY",
        "An image can be as small as one pixel.",
        request_with(image="one-pixel.png"),
    ),
    _accepts(
        "accept-2048",
        "SHOULD",
        "An image can be larger than the requested size.",
        request_with(image="2048.png"),
    ),
    _accepts(
        "accept-just-below-4-mb",
        "MUST",
        "An image of 4,194,303 bytes, one below 4 MB, is accepted.",
        request_with(image="just-below-4-mb.png"),
    ),
    Rule("n-one", "MUST", "n can be 1, and data then has 1 entry.", lambda p: _check_count(p, 1)),
    Rule("n-two", "MUST", "n can be 2, and data then has 2 entries.", lambda p: _check_count(p, 2)),
    Rule(
        "n-most",
        "MUST",
        "n can be 10, or the server's max_n, and data then has that many entries.",
        lambda probe: _check_count(probe, probe.capabilities.max_n),
    ),
    _gives_size("size-256x256", "256x256"),
    _gives_size("size-512x512", "512x512"),
    _gives_size("size-1024x1024", "1024x1024"),
    Rule(
        "size-claimed",
        "MUST",
        "Other sizes in the server's capabilities are accepted, and images have exactly that size.",
        _check_other_sizes,
    ),
)
"""All rules of this module."""
