"""An engine with a fault for each rule about engines."""

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
from pytest_image_variation.samples import corrupt_png, jpeg
from tests.conftest import Run

Answer = Callable[[CreateImageVariationRequest, InstantEngine], Any]


class BrokenEngine:
    """An engine with a fault."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._engine = InstantEngine()

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Return what the function returns."""
        answer: ImagesResponse = self._answer(request, self._engine)
        return answer


def change_data(change: Callable[[list[Any]], list[Any]]) -> Answer:
    """Change the entries."""

    def answer(request: CreateImageVariationRequest, engine: InstantEngine) -> ImagesResponse:
        ours = engine.create_variation(request)
        return ours.model_copy(update={"data": change(ours.data)})

    return answer


def set_keys(**keys: str) -> Answer:
    """Change keys of every entry."""
    return change_data(lambda entries: [one.model_copy(update=keys) for one in entries])


def change_request(**fields: Any) -> Answer:
    """Respond to another request."""
    return lambda request, engine: engine.create_variation(request.model_copy(update=fields))


def return_files(*pngs: bytes) -> Answer:
    """Respond with these files."""
    return lambda request, _: ImagesResponse.from_pngs(
        pngs, response_format=request.response_format
    )


def raise_error(error: Exception) -> Answer:
    """Raise an error."""

    def answer(request: CreateImageVariationRequest, engine: InstantEngine) -> ImagesResponse:
        raise error

    return answer


def vary_colors() -> Answer:
    """Respond differently each time."""
    colors = iter(range(256))

    def answer(request: CreateImageVariationRequest, engine: InstantEngine) -> ImagesResponse:
        buffer = io.BytesIO()
        Image.new("L", (request.side, request.side), next(colors)).save(buffer, "PNG")
        pngs = [buffer.getvalue()] * request.n
        return ImagesResponse.from_pngs(pngs, response_format=request.response_format)

    return answer


FAILING = raise_error(EngineError("No."))
ENGINES: Mapping[str, Answer] = {
    "engine-returns": lambda request, engine: None,
    "engine-n-one": change_data(lambda entries: entries * 2),
    "engine-n-most": change_data(lambda entries: entries[:9]),
    "engine-size-256x256": change_request(size="512x512"),
    "engine-size-512x512": change_request(size="256x256"),
    "engine-size-1024x1024": change_request(size="256x256"),
    "engine-png": return_files(jpeg(256, 256)),
    "engine-b64": change_request(response_format="url"),
    "engine-url": change_request(response_format="b64_json"),
    "engine-url-read": set_keys(url="https://pictures.example/1.png"),
    "engine-created": lambda request, engine: ImagesResponse(
        data=engine.create_variation(request).data
    ),
    "engine-distinct": change_data(lambda entries: entries[:1] * len(entries)),
    **{
        f"engine-takes-{name}": FAILING
        for name in ("rgba", "grey", "palette", "sixteen-bit", "one-pixel", "2048")
    },
    "engine-user": FAILING,
    "engine-own-errors": raise_error(ValueError("cannot identify image file")),
    "engine-model": change_request(model="dall-e-2"),
    "engine-same-again": vary_colors(),
    "engine-first-the-same": vary_colors(),
    "engine-follows": change_request(image=SquarePNG(make_image("rgb.png"))),
    "engine-no-copy": return_files(make_image("256.png")),
    "engine-at-once": change_data(lambda entries: entries[:1]),
}


def test_each_rule_has_a_broken_engine() -> None:
    """Each rule about engines has a broken engine."""
    assert ENGINES.keys() == ENGINE_RULES.keys()


@pytest.mark.parametrize("id", ENGINE_RULES)
def test_broken_engine_breaks_its_rule(id: str) -> None:
    """A broken engine breaks its rule, and the engine without the fault does not."""
    for engine in (
        InstantEngine(),
        BrokenEngine(lambda request, engine: engine.create_variation(request)),
    ):
        check(id, engine)
    with pytest.raises(Violation):
        check(id, BrokenEngine(ENGINES[id]))


def check(id: str, engine: Engine) -> None:
    """Check one rule."""
    with closing(EngineProbe(engine, Capabilities(), deterministic=True)) as probe:
        ENGINE_RULES[id].check(probe)


def test_violation_shows_the_engine_error() -> None:
    """A violation has the class and the message of the engine's error."""
    with pytest.raises(Violation, match=r"^EngineError: No\.$"):
        check("engine-returns", BrokenEngine(FAILING))
    assert issubclass(EngineError, ImageVariationError)


def test_violation_shows_the_place_of_a_bug() -> None:
    """A violation says in which line of the author's code another error was raised."""
    with pytest.raises(Violation, match=r"^ValueError: No\., at test_broken_engines\.py:\d+$"):
        check("engine-returns", BrokenEngine(raise_error(ValueError("No."))))


@pytest.mark.parametrize(
    ("id", "answer", "message"),
    [
        ("engine-returns", lambda request, engine: [b"png"], r"^a list of bytes; return Images"),
        (
            "engine-model",
            change_request(model="dall-e-2"),
            r"^it returned images; call check_model",
        ),
        ("engine-png", return_files(jpeg(256, 256)), "^JPEG$"),
        ("engine-png", return_files(corrupt_png(256)), "^it cannot be decoded$"),
        ("engine-png", return_files(b"text"), "^not an image$"),
    ],
)
def test_violation_says_what_to_do(id: str, answer: Answer, message: str) -> None:
    """A violation says what was returned, and what to return or to call instead if that helps."""
    with pytest.raises(Violation, match=message):
        check(id, BrokenEngine(answer))


UNUSABLE = """
import pytest
from pytest_image_variation.conformance import EngineConformanceTests

class ListEngine:
    def create_variation(self, request):
        return [b"png"]

class TestList(EngineConformanceTests):
    @pytest.fixture
    def engine(self):
        return ListEngine()

class TestClass(EngineConformanceTests):
    @pytest.fixture
    def engine(self):
        return ListEngine
"""


def test_unusable_engine_fails_one_rule(run: Run) -> None:
    """If an engine does not answer a plain request, one test says why, and the rest is skipped."""
    result = run(UNUSABLE, "-rs")
    result.assert_outcomes(failed=2, skipped=2 * len(ENGINE_RULES) - 2)
    result.stdout.fnmatch_lines(
        [
            "got: a list of bytes; return ImagesResponse.from_pngs(*",
            "engine must be an instance, got the class ListEngine. Pass ListEngine().",
            "*The engine does not answer a plain request; see engine-returns.",
        ]
    )
