"""Each rule about engines is broken by an engine made for that."""

import io
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

import pytest
from PIL import Image

from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.exceptions import EngineError, ImageVariationError
from langchain_image_variation.images.png import SquarePNG
from pytest_image_variation.conformance import Capabilities
from pytest_image_variation.conformance.engine_probe import Engine, EngineProbe
from pytest_image_variation.conformance.engine_tests import ENGINE_RULES
from pytest_image_variation.conformance.images import make_image
from pytest_image_variation.conformance.rule import Violation
from pytest_image_variation.samples import jpeg

Answer = Callable[[CreateImageVariationRequest, InstantEngine], Any]


class Broken:
    """An engine that answers in its own way."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._engine = InstantEngine()

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Answer."""
        answer: ImagesResponse = self._answer(request, self._engine)
        return answer


def data(change: Callable[[list[Any]], list[Any]]) -> Answer:
    """Change the entries."""

    def answer(request: CreateImageVariationRequest, engine: InstantEngine) -> ImagesResponse:
        ours = engine.create_variation(request)
        return ours.model_copy(update={"data": change(ours.data)})

    return answer


def entry(**keys: str) -> Answer:
    """Change the keys of the entries."""
    return data(lambda entries: [one.model_copy(update=keys) for one in entries])


def asked(**fields: Any) -> Answer:
    """Answer another request."""
    return lambda request, engine: engine.create_variation(request.model_copy(update=fields))


def files(*pngs: bytes) -> Answer:
    """Answer with these files."""
    return lambda request, _: ImagesResponse.from_pngs(
        pngs, response_format=request.response_format
    )


def raising(error: Exception) -> Answer:
    """Raise."""

    def answer(request: CreateImageVariationRequest, engine: InstantEngine) -> ImagesResponse:
        raise error

    return answer


def moody() -> Answer:
    """Answer something else each time."""
    colors = iter(range(256))

    def answer(request: CreateImageVariationRequest, engine: InstantEngine) -> ImagesResponse:
        buffer = io.BytesIO()
        Image.new("L", (request.side, request.side), next(colors)).save(buffer, "PNG")
        pngs = [buffer.getvalue()] * request.n
        return ImagesResponse.from_pngs(pngs, response_format=request.response_format)

    return answer


FAILING = raising(EngineError("No."))
ENGINES: Mapping[str, Answer] = {
    "engine-returns": lambda request, engine: None,
    "engine-n-one": data(lambda entries: entries * 2),
    "engine-n-most": data(lambda entries: entries[:9]),
    "engine-size-256x256": asked(size="512x512"),
    "engine-size-512x512": asked(size="256x256"),
    "engine-size-1024x1024": asked(size="256x256"),
    "engine-png": files(jpeg(256, 256)),
    "engine-b64": asked(response_format="url"),
    "engine-url": asked(response_format="b64_json"),
    "engine-url-read": entry(url="https://pictures.example/1.png"),
    "engine-created": lambda request, engine: ImagesResponse(
        data=engine.create_variation(request).data
    ),
    "engine-distinct": data(lambda entries: entries[:1] * len(entries)),
    **{
        f"engine-takes-{name}": FAILING
        for name in ("rgba", "grey", "palette", "sixteen-bit", "one-pixel", "2048")
    },
    "engine-user": FAILING,
    "engine-own-errors": raising(ValueError("cannot identify image file")),
    "engine-model": asked(model="dall-e-2"),
    "engine-same-again": moody(),
    "engine-first-the-same": moody(),
    "engine-follows": asked(image=SquarePNG(make_image("rgb.png"))),
    "engine-no-copy": files(make_image("256.png")),
    "engine-at-once": data(lambda entries: entries[:1]),
}


def test_each_rule_has_a_broken_engine() -> None:
    """None is left out."""
    assert ENGINES.keys() == ENGINE_RULES.keys()


@pytest.mark.parametrize("id", ENGINE_RULES)
def test_a_broken_engine_breaks_its_rule(id: str) -> None:
    """The engine of which it was made does not."""
    for engine in (
        InstantEngine(),
        Broken(lambda request, engine: engine.create_variation(request)),
    ):
        check(id, engine)
    with pytest.raises(Violation):
        check(id, Broken(ENGINES[id]))


def check(id: str, engine: Engine) -> None:
    """Check one rule."""
    with closing(EngineProbe(engine, Capabilities(), deterministic=True)) as probe:
        ENGINE_RULES[id].check(probe)


def test_an_error_of_the_engine_is_told() -> None:
    """By its class and its message."""
    with pytest.raises(Violation, match=r"^EngineError: No\.$"):
        check("engine-returns", Broken(FAILING))
    assert issubclass(EngineError, ImageVariationError)
