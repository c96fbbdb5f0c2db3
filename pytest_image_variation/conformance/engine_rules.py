"""Rules about engines: what the Protocol `VariationEngine` promises."""

from functools import partial

from langchain_image_variation.contract import ImagesResponse
from langchain_image_variation.exceptions import ImageVariationError, ModelNotFoundError
from pytest_image_variation.conformance.engine_probe import EngineProbe
from pytest_image_variation.conformance.images import make_image
from pytest_image_variation.conformance.returned_image import ReturnedImage
from pytest_image_variation.conformance.rule import Level, Rule, Violation, skip

__all__ = ["RULES"]

_CONCURRENT = 4


def _check_return_type(probe: EngineProbe) -> None:
    probe.response()


def _check_count(probe: EngineProbe, n: int) -> None:
    count = len(probe.response(n=n).data)
    if count != n:
        raise Violation(f"{count} for n={n}")


def _gives_size(id: str, size: str) -> Rule[EngineProbe]:
    text = f"For {size}, each image has exactly that size."
    return Rule(id, "MUST", text, partial(_check_size, size))


def _check_size(size: str, probe: EngineProbe) -> None:
    if size not in probe.capabilities.sizes:
        skip(f"The size {size} is not among the engine's capabilities.")
    for data in probe.images(probe.response(size=size)):
        actual = ReturnedImage.from_bytes(data).size
        if actual != size:
            raise Violation(actual or "not an image")


def _check_png(probe: EngineProbe) -> None:
    for data in probe.images(probe.response()):
        image = ReturnedImage.from_bytes(data)
        if image.format != "PNG":
            raise Violation(image.format or "not an image")
        if not image.decodable:
            raise Violation("it cannot be decoded")


def _check_response_format(probe: EngineProbe, expected: str, other: str) -> None:
    if not getattr(probe.capabilities, expected):
        skip(f"{expected} is not among the engine's capabilities.")
    for entry in probe.response(response_format=expected).data:
        if not getattr(entry, expected):
            raise Violation(f"an entry has no {expected}")
        if getattr(entry, other):
            raise Violation(f"an entry also has {other}")


def _check_url(probe: EngineProbe) -> None:
    if not probe.capabilities.url:
        skip("url is not among the engine's capabilities.")
    probe.images(probe.response(response_format="url"))


def _check_created(probe: EngineProbe) -> None:
    if probe.response().created is None:
        raise Violation("there is none")


def _check_distinctness(probe: EngineProbe) -> None:
    n = min(3, probe.capabilities.max_n)
    if n == 1:
        skip("n=2 is not among the engine's capabilities.")
    images = probe.images(probe.response(n=n))
    if len(set(images)) != len(images):
        raise Violation("two have the same bytes")


def _takes(id: str, level: Level, name: str, text: str) -> Rule[EngineProbe]:
    return Rule(id, level, text, lambda probe: _check_acceptance(probe, name))


def _check_acceptance(probe: EngineProbe, name: str) -> None:
    probe.response(name)


def _check_user(probe: EngineProbe) -> None:
    probe.response(user="conformance \u00e9")


def _check_error_for_bad_image(probe: EngineProbe) -> None:
    (outcome,) = probe.outcomes(probe.request("broken-pixels.png"))
    # An engine that does not read the pixels may succeed.
    if isinstance(outcome, Exception) and not isinstance(outcome, ImageVariationError):
        probe.fail(outcome)


def _check_model(probe: EngineProbe) -> None:
    (outcome,) = probe.outcomes(probe.request(model="conformance-no-such-model"))
    if isinstance(outcome, ImagesResponse):
        raise Violation("it returned images; call check_model(request.model, self.models)")
    if not isinstance(outcome, ModelNotFoundError):
        probe.fail(outcome)


def _check_repetition(probe: EngineProbe) -> None:
    if not probe.deterministic:
        skip("The engine is not declared deterministic.")
    request = probe.request()
    first, second = (
        probe.images(probe.require_response(outcome))
        for outcome in probe.outcomes(request, request)
    )
    if first != second:
        raise Violation("the second response has other bytes")


def _check_first_image(probe: EngineProbe) -> None:
    if not probe.deterministic or probe.capabilities.max_n == 1:
        skip("The engine is not declared deterministic, or returns only one image.")
    outcomes = probe.outcomes(probe.request(), probe.request(n=2))
    one, two = (probe.images(probe.require_response(outcome)) for outcome in outcomes)
    if one != two[:1]:
        raise Violation("the first of two images is different")


def _check_dependence_on_image(probe: EngineProbe) -> None:
    outcomes = probe.outcomes(probe.request(), probe.request("2048.png"))
    first, second = (probe.images(probe.require_response(outcome)) for outcome in outcomes)
    if first == second:
        raise Violation("two different images have the same variation")


def _check_difference_from_source(probe: EngineProbe) -> None:
    if make_image("256.png") in probe.images(probe.response("256.png")):
        raise Violation("it is the source image")


def _check_concurrency(probe: EngineProbe) -> None:
    max_n = probe.capabilities.max_n
    counts = [index % min(3, max_n) + 1 for index in range(_CONCURRENT)]
    names = ["rgb.png", "256.png"] * (_CONCURRENT // 2)
    requests = [
        probe.request(name, n=n, user=f"conformance-{index}")
        for index, (name, n) in enumerate(zip(names, counts, strict=True))
    ]
    responses = [
        probe.require_response(outcome) for outcome in probe.outcomes(*requests, is_concurrent=True)
    ]
    actual = [len(response.data) for response in responses]
    if actual != counts:
        raise Violation(f"{actual} images for n={counts}")
    if not probe.deterministic:
        return
    sequential = [probe.require_response(outcome) for outcome in probe.outcomes(*requests)]
    for index, pair in enumerate(zip(responses, sequential, strict=True)):
        images, expected = map(probe.images, pair)
        if images != expected:
            raise Violation(
                f"request {index + 1} of {_CONCURRENT} got other images than when sent alone"
            )


RULES: tuple[Rule[EngineProbe], ...] = (
    Rule("engine-returns", "MUST", "It returns an ImagesResponse.", _check_return_type),
    Rule(
        "engine-n-one", "MUST", "For n=1, there is one image.", lambda probe: _check_count(probe, 1)
    ),
    Rule(
        "engine-n-most",
        "MUST",
        "For the largest n, there are that many images.",
        lambda probe: _check_count(probe, probe.capabilities.max_n),
    ),
    _gives_size("engine-size-256x256", "256x256"),
    _gives_size("engine-size-512x512", "512x512"),
    _gives_size("engine-size-1024x1024", "1024x1024"),
    Rule("engine-png", "MUST", "Each image is a PNG that can be decoded.", _check_png),
    Rule(
        "engine-b64",
        "MUST",
        "For b64_json, each entry has only b64_json.",
        lambda probe: _check_response_format(probe, "b64_json", "url"),
    ),
    Rule(
        "engine-url",
        "MUST",
        "For url, each entry has only url. An engine without a server returns data: URLs.",
        lambda probe: _check_response_format(probe, "url", "b64_json"),
    ),
    Rule("engine-url-read", "MUST", "An image returned as url can be read.", _check_url),
    Rule(
        "engine-created", "MUST", "The response has created, the time of creation.", _check_created
    ),
    Rule("engine-distinct", "SHOULD", "The images in one response differ.", _check_distinctness),
    _takes("engine-takes-rgba", "MUST", "rgba.png", "It accepts images with an alpha channel."),
    _takes("engine-takes-grey", "MUST", "grey.png", "It accepts grayscale images."),
    _takes("engine-takes-palette", "MUST", "palette.png", "It accepts images with a palette."),
    _takes("engine-takes-sixteen-bit", "MUST", "sixteen-bit.png", "It accepts 16 bits per sample."),
    _takes("engine-takes-one-pixel", "MUST", "one-pixel.png", "It accepts an image of one pixel."),
    _takes(
        "engine-takes-2048",
        "MUST",
        "2048.png",
        "It accepts an image larger than the requested size.",
    ),
    Rule("engine-user", "MUST", "user can be any text.", _check_user),
    Rule(
        "engine-own-errors",
        "MUST",
        "An image that cannot be decoded raises an ImageVariationError, and no other error.",
        _check_error_for_bad_image,
    ),
    Rule(
        "engine-model",
        "SHOULD",
        "An unknown model raises a ModelNotFoundError, and is not replaced by another.",
        _check_model,
    ),
    Rule(
        "engine-same-again",
        "MUST",
        "If it is declared deterministic, the same request gets the same bytes again.",
        _check_repetition,
    ),
    Rule(
        "engine-first-the-same",
        "SHOULD",
        "If it is declared deterministic, the first image does not depend on n.",
        _check_first_image,
    ),
    Rule(
        "engine-follows",
        "SHOULD",
        "Different images have different variations.",
        _check_dependence_on_image,
    ),
    Rule(
        "engine-no-copy",
        "SHOULD",
        "A variation is not the source image.",
        _check_difference_from_source,
    ),
    Rule(
        "engine-at-once",
        "MUST",
        f"Each of {_CONCURRENT} concurrent requests gets its own images, as many as it requested.",
        _check_concurrency,
    ),
)
"""All rules of this module."""
