"""Rules about engines: those of the Protocol `VariationEngine`."""

from collections.abc import Iterator
from functools import partial

from PIL import Image

from langchain_image_variation.contract import SIZES
from langchain_image_variation.exceptions import (
    ImageVariationError,
    InvalidImageError,
    ModelNotFoundError,
)
from langchain_image_variation.images.pixels import open_image
from pytest_image_variation.conformance.engine_probe import EngineProbe
from pytest_image_variation.conformance.images import picture
from pytest_image_variation.conformance.rule import Breach, Level, Rule, unseen

__all__ = ["RULES"]

_AT_ONCE = 4


def _returns(probe: EngineProbe) -> None:
    probe.answer()


def _count(probe: EngineProbe, n: int) -> None:
    found = len(probe.answer(n=n).data)
    if found != n:
        raise Breach(f"{found} for n={n}")


def _size(size: str, probe: EngineProbe) -> None:
    if size not in probe.capabilities.sizes:
        unseen(f"The engine does not claim the size {size}.")
    for data in probe.pictures(probe.answer(size=size)):
        found = _seen(data)[1]
        if found != size:
            raise Breach(f"{found}")


def _png(probe: EngineProbe) -> None:
    for data in probe.pictures(probe.answer()):
        kind = _seen(data)[0]
        if kind != "PNG":
            raise Breach(f"{kind}")


def _seen(data: bytes) -> tuple[str | None, str | None]:
    """Return the format and the size of a file whose every pixel can be read."""
    try:
        with open_image(data) as image:
            image.load()
            return image.format, f"{image.width}x{image.height}"
    # What Pillow raises for broken files differs by format.
    except (InvalidImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None, None


def _form(probe: EngineProbe, wanted: str, other: str) -> None:
    if not getattr(probe.capabilities, wanted):
        unseen(f"The engine does not claim {wanted}.")
    for entry in probe.answer(response_format=wanted).data:
        if not getattr(entry, wanted):
            raise Breach(f"an entry without {wanted}")
        if getattr(entry, other):
            raise Breach(f"an entry with {other} too")


def _reads(probe: EngineProbe) -> None:
    if not probe.capabilities.url:
        unseen("The engine does not claim url.")
    probe.pictures(probe.answer(response_format="url"))


def _created(probe: EngineProbe) -> None:
    if probe.answer().created is None:
        raise Breach("there is none")


def _distinct(probe: EngineProbe) -> None:
    n = min(3, probe.capabilities.max_n)
    if n == 1:
        unseen("The engine does not claim n=2.")
    found = probe.pictures(probe.answer(n=n))
    if len(set(found)) != len(found):
        raise Breach("two are the same bytes")


def _takes(id: str, level: Level, name: str, text: str) -> Rule[EngineProbe]:
    return Rule(f"engine-takes-{id}", level, text, lambda probe: _serves(probe, name))


def _serves(probe: EngineProbe, name: str) -> None:
    probe.answer(name)


def _user(probe: EngineProbe) -> None:
    probe.answer(user="conformance \u00e9")


def _own_errors(probe: EngineProbe) -> None:
    (outcome,) = probe.outcomes(probe.request("broken-pixels.png"))
    # An engine that does not look at the pixels may answer.
    if isinstance(outcome, Exception) and not isinstance(outcome, ImageVariationError):
        probe.breach(outcome)


def _model(probe: EngineProbe) -> None:
    (outcome,) = probe.outcomes(probe.request(model="conformance-no-such-model"))
    if not isinstance(outcome, ModelNotFoundError):
        probe.breach(outcome)


def _same_again(probe: EngineProbe) -> None:
    if not probe.deterministic:
        unseen("The engine does not claim to be deterministic.")
    request = probe.request()
    first, second = (probe.pictures(probe.served(o)) for o in probe.outcomes(request, request))
    if first != second:
        raise Breach("the second time there are other bytes")


def _first_are_the_same(probe: EngineProbe) -> None:
    if not probe.deterministic or probe.capabilities.max_n == 1:
        unseen("The engine does not claim to be deterministic, or more than one picture.")
    outcomes = probe.outcomes(probe.request(), probe.request(n=2))
    one, two = (probe.pictures(probe.served(outcome)) for outcome in outcomes)
    if one != two[:1]:
        raise Breach("the first of two is another")


def _follows_the_picture(probe: EngineProbe) -> None:
    outcomes = probe.outcomes(probe.request(), probe.request("2048.png"))
    one, other = (probe.pictures(probe.served(outcome)) for outcome in outcomes)
    if one == other:
        raise Breach("two pictures have the same variation")


def _no_copy(probe: EngineProbe) -> None:
    if picture("256.png") in probe.pictures(probe.answer("256.png")):
        raise Breach("it is the picture itself")


def _at_once(probe: EngineProbe) -> None:
    most = probe.capabilities.max_n
    counts = [index % min(3, most) + 1 for index in range(_AT_ONCE)]
    pictures = ["rgb.png", "256.png"] * (_AT_ONCE // 2)
    requests = [
        probe.request(name, n=n, user=f"conformance-{index}")
        for index, (name, n) in enumerate(zip(pictures, counts, strict=True))
    ]
    answers = [probe.served(outcome) for outcome in probe.outcomes(*requests, at_once=True)]
    found = [len(answer.data) for answer in answers]
    if found != counts:
        raise Breach(f"{found} pictures for {counts}")
    if not probe.deterministic:
        return
    alone = [probe.served(outcome) for outcome in probe.outcomes(*requests)]
    for index, pair in enumerate(zip(answers, alone, strict=True)):
        mixed, right = map(probe.pictures, pair)
        if mixed != right:
            raise Breach(f"request {index + 1} of {_AT_ONCE} has other pictures than alone")


def _sizes() -> Iterator[Rule[EngineProbe]]:
    for size in SIZES:
        yield Rule(
            f"engine-size-{size}",
            "MUST",
            f"For {size}, each picture is so to the pixel.",
            partial(_size, size),
        )


RULES: tuple[Rule[EngineProbe], ...] = (
    Rule("engine-returns", "MUST", "It returns an ImagesResponse.", _returns),
    Rule("engine-n-one", "MUST", "For n=1 there is one picture.", lambda p: _count(p, 1)),
    Rule(
        "engine-n-most",
        "MUST",
        "For the largest n, there are as many pictures.",
        lambda probe: _count(probe, probe.capabilities.max_n),
    ),
    *_sizes(),
    Rule("engine-png", "MUST", "Each picture is a PNG that can be decoded.", _png),
    Rule(
        "engine-b64",
        "MUST",
        "For b64_json, each entry has that alone.",
        lambda probe: _form(probe, "b64_json", "url"),
    ),
    Rule(
        "engine-url",
        "MUST",
        "For url, each entry has that alone; without a server it is a data: URL.",
        lambda probe: _form(probe, "url", "b64_json"),
    ),
    Rule("engine-url-read", "MUST", "A picture given as url can be read.", _reads),
    Rule("engine-created", "MUST", "The answer says in created when it was made.", _created),
    Rule("engine-distinct", "SHOULD", "The pictures of one answer differ.", _distinct),
    _takes("rgba", "MUST", "rgba.png", "It takes pictures with an alpha channel."),
    _takes("grey", "MUST", "grey.png", "It takes grey pictures."),
    _takes("palette", "MUST", "palette.png", "It takes pictures with a palette."),
    _takes("sixteen-bit", "MUST", "sixteen-bit.png", "It takes 16 bits a sample."),
    _takes("one-pixel", "MUST", "one-pixel.png", "It takes a picture of one pixel."),
    _takes("2048", "MUST", "2048.png", "It takes a picture larger than what is asked for."),
    Rule("engine-user", "MUST", "user may be any text.", _user),
    Rule(
        "engine-own-errors",
        "MUST",
        "A picture that cannot be decoded is an ImageVariationError, and no other error.",
        _own_errors,
    ),
    Rule(
        "engine-model",
        "SHOULD",
        "A model that does not exist is a ModelNotFoundError, and no other is taken instead.",
        _model,
    ),
    Rule(
        "engine-same-again",
        "MUST",
        "If it claims so, the same request has the same bytes again.",
        _same_again,
    ),
    Rule(
        "engine-first-the-same",
        "SHOULD",
        "If it claims so, the first picture is the same however many are asked for.",
        _first_are_the_same,
    ),
    Rule(
        "engine-follows",
        "SHOULD",
        "Another picture has another variation.",
        _follows_the_picture,
    ),
    Rule("engine-no-copy", "SHOULD", "A variation is not the picture itself.", _no_copy),
    Rule(
        "engine-at-once",
        "MUST",
        f"{_AT_ONCE} requests at once have their own pictures, each its number of them.",
        _at_once,
    ),
)
"""All of them."""
