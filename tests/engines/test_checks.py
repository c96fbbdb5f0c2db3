import asyncio
import base64
import functools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai.types
import pytest
from PIL import Image as PillowImage

from langchain_image_variation.agents.settings import ToolSettings
from langchain_image_variation.contract import CreateImageVariationRequest, Image, ImagesResponse
from langchain_image_variation.engines.call import call_engine, call_engine_async
from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.engines.loading import load_engine
from langchain_image_variation.engines.traits import (
    check_model,
    engine_models,
    engine_variation_kind,
)
from langchain_image_variation.exceptions import (
    EngineError,
    EngineResponseError,
    InvalidRequestError,
    ModelNotFoundError,
    OutputError,
)
from langchain_image_variation.images.pixels import decode_png, encode_png
from langchain_image_variation.images.png import SquarePNG
from langchain_image_variation.output import cut_back, save_images
from langchain_image_variation.output.contact_sheet import ContactSheet
from langchain_image_variation.server import create_app
from langchain_image_variation.source import load_source
from pytest_image_variation.samples import jpeg, square_png

REQUEST = CreateImageVariationRequest(image=SquarePNG(square_png()), n=2, size="256x256")
PNG = square_png(256)
PNGS = "ImagesResponse.from_pngs(pngs, response_format=request.response_format)"
PILLOW = PillowImage.new("RGB", (256, 256))
BASE64 = base64.b64encode(PNG).decode()


class Engine:
    """An engine that returns what a function returns."""

    def __init__(self, answer: Callable[[CreateImageVariationRequest], Any]) -> None:
        self._answer = answer

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Return the answer, whatever it is."""
        answer: ImagesResponse = self._answer(request)
        return answer


class AsyncEngine(Engine):
    """The async twin of `Engine`."""

    async def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:  # type: ignore[override]  # its twin
        """Return the answer, whatever it is."""
        return super().create_variation(request)


def respond(*files: bytes) -> Callable[[CreateImageVariationRequest], ImagesResponse]:
    """Return files, whatever the request."""
    return lambda request: ImagesResponse.from_pngs(files, response_format=request.response_format)


async def error_of(engine: Any, request: CreateImageVariationRequest = REQUEST) -> str:
    """Return the message of the EngineError that sync and async calls of an engine raise."""
    with pytest.raises(EngineError) as sync:
        call_engine(engine, request)
    with pytest.raises(EngineError) as later:
        await call_engine_async(engine, request)
    assert str(sync.value) == str(later.value)
    return str(sync.value)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, f"None; return {PNGS}."),
        (PNG, f"bytes; return {PNGS.replace('pngs,', '[png],')}."),
        ([PNG, PNG], f"a list of bytes; return {PNGS}."),
        ((PNG, PNG), f"a tuple of bytes; return {PNGS}."),
        (["/tmp/1.png"], f"a list of str; return {PNGS}."),
        ([], f"a value of type list; return {PNGS}."),
        (PILLOW, f"a Pillow image; return {PNGS.replace('pngs,', '[encode_png(image)],')}."),
        (
            [PILLOW],
            "a list of Pillow images; return "
            f"{PNGS.replace('pngs,', '[encode_png(image) for image in images],')}.",
        ),
        (
            [Image(b64_json=BASE64)],
            "a list of Image; return ImagesResponse(created=int(time.time()), data=images).",
        ),
        (
            {"created": 1, "data": [{"b64_json": BASE64}]},
            "a dict; if it is the JSON of a server, return ImagesResponse.from_content(answer).",
        ),
        (
            openai.types.ImagesResponse(created=1, data=[openai.types.Image(b64_json=BASE64)]),
            "the ImagesResponse of openai; return "
            "ImagesResponse.from_content(answer.model_dump()).",
        ),
        (REQUEST, f"a value of type CreateImageVariationRequest; return {PNGS}."),
        ((png for png in [PNG]), f"a generator; collect the files in a list and return {PNGS}."),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
@pytest.mark.parametrize("kind", [Engine, AsyncEngine])
async def test_wrong_answers_say_what_to_return(kind: Any, answer: object, message: str) -> None:
    """An answer of a wrong type is an error that says what it is and what to return instead."""
    text = await error_of(kind(lambda request: answer))
    assert text == f"{kind.__name__}.create_variation returned {message}"


@pytest.mark.parametrize("several", [False, True])
async def test_a_forgotten_await_is_named(several: bool) -> None:
    """A coroutine that an async engine returns, or a list of them, says that `await` is missing."""
    coroutines = []

    def answer(request: CreateImageVariationRequest) -> Any:
        coroutines.append(asyncio.sleep(0))
        return coroutines[-1:] if several else coroutines[-1]

    text = await error_of(AsyncEngine(answer))
    assert "await each of them" in text if several else "a coroutine; await it" in text
    for coroutine in coroutines:
        coroutine.close()


def test_advice_for_a_wrong_answer_works() -> None:
    """What the errors say to return for Pillow images, JSON and the SDK's object is accepted."""
    body = {"created": 1, "data": [{"b64_json": BASE64}] * 2}
    sdk = openai.types.ImagesResponse.model_validate(body)
    for answer in (
        lambda request: ImagesResponse.from_content(body),
        lambda request: ImagesResponse.from_content(sdk.model_dump()),
        lambda request: ImagesResponse(created=1, data=[Image(b64_json=BASE64)] * 2),
        respond(*[encode_png(PILLOW)] * 2),
    ):
        assert len(call_engine(Engine(answer), REQUEST).data) == 2


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (respond(), "0 images for n=2; return request.n images."),
        (respond(PNG), "1 image for n=2; return request.n images."),
        (respond(PNG, PNG, PNG), "3 images for n=2; return request.n images."),
        (
            respond(square_png(300), square_png(300)),
            "image 1 of 2 with 300x300 pixels for size=256x256; resize it to request.side.",
        ),
        (
            respond(jpeg(256, 256), b"not an image"),
            "image 1 of 2 as JPEG, not PNG; encode_png(image) makes a PNG of a Pillow image.",
        ),
        (
            respond(b"not an image", jpeg()),
            "image 1 of 2 as an unknown kind of file, not PNG; encode_png(image) makes a PNG of a "
            "Pillow image.",
        ),
        (
            lambda request: ImagesResponse(created=1, data=[Image(url="/tmp/1.png")] * 2),
            "image 1 of 2 without its file; return the files: ImagesResponse.from_pngs makes "
            "b64_json of them.",
        ),
    ],
    ids=["no image", "too few", "too many", "size", "JPEG", "no format", "a path"],
)
async def test_wrong_images_are_named(
    answer: Callable[[CreateImageVariationRequest], Any], message: str
) -> None:
    """Another number, format or size of images is an error that says which image is wrong."""
    for response_format in ("url", "b64_json"):
        request = REQUEST.model_copy(update={"response_format": response_format})
        text = await error_of(Engine(answer), request)
        assert text == f"Engine.create_variation returned {message}"


@pytest.mark.parametrize("data", [jpeg(256, 256), square_png(300), b"not an image"])
def test_right_images_are_kept(tmp_path: Path, data: bytes) -> None:
    """If some images of an answer are wrong, the others can be saved, and the error is named."""
    response = call_engine(Engine(respond(data, PNG)), REQUEST)
    with pytest.raises(EngineError, match=r"Engine\.create_variation returned image 1 of 2"):
        response.data[0].read()
    with pytest.raises(OutputError, match=r"returned image 1 of 2 .* Saved images: cat-\w+-2\.png"):
        save_images(response, tmp_path, name="cat")
    assert len([*tmp_path.iterdir()]) == 1


@pytest.mark.parametrize("data", [jpeg(256, 256), square_png(300)])
def test_images_of_a_hosted_engine_are_not_checked(data: bytes) -> None:
    """A server decides what it sends, so the images of a hosted engine are passed on."""

    class Hosted(Engine):
        base_url = "http://127.0.0.1:8000/v1"

    response = call_engine(Hosted(respond(data, data)), REQUEST)
    assert [image.read() for image in response.data] == [data, data]


def test_too_few_images_of_a_hosted_engine_are_kept() -> None:
    """If a server sends one of two images, it is kept, and reading the other raises the error."""

    class Hosted(Engine):
        base_url = "http://127.0.0.1:8000/v1"

    first, second = call_engine(Hosted(respond(square_png(256))), REQUEST).data
    assert SquarePNG(first.read()).side == 256
    with pytest.raises(EngineResponseError, match="returned only 1 of 2 images"):
        second.read()
    for engine in (Hosted(respond()), Engine(respond(square_png(256)))):
        with pytest.raises(EngineError, match="for n=2; return"):
            call_engine(engine, REQUEST)


def add_client(method: Callable[..., Any]) -> Callable[..., Any]:
    """Pass a further argument to a method, as decorators that inject dependencies do."""

    @functools.wraps(method)
    def call(self: object, request: CreateImageVariationRequest) -> Any:
        return method(self, "client", request)

    return call


class ThreeArguments:
    """An engine with the arguments of the vendor's SDK."""

    def create_variation(self, image: bytes, n: int, size: str = "256x256") -> None:
        """Return nothing."""


class ByNameOnly:
    """An engine whose argument cannot be passed by position."""

    def create_variation(self, *, request: object) -> None:
        """Return nothing."""


class NoSelf:
    """An engine whose method lacks `self`."""

    def create_variation(request: Any) -> None:  # wrong on purpose
        """Return nothing."""


@pytest.mark.parametrize("waits", [False, True])
async def test_an_engine_may_find_nothing_next(waits: bool) -> None:
    """A `StopIteration` of an engine ends a call. asyncio's threads would wait forever."""
    engine = Engine(lambda _: next(iter([])))
    call = call_engine_async(engine, REQUEST, wait_when_cancelled=waits)
    with pytest.raises(EngineError, match="Engine failed with StopIteration") as caught:
        await asyncio.wait_for(call, timeout=10)
    assert isinstance(caught.value.__cause__, StopIteration)


async def test_an_engine_that_cannot_be_inspected_is_an_error() -> None:
    """An error of a property that the checks read becomes an EngineError too."""

    class Property(Engine):
        @property
        def base_url(self) -> str:
            raise KeyError("URL")

    assert "The engine Property failed with KeyError" in await error_of(Property(respond(PNG, PNG)))


@pytest.mark.parametrize("value", [load_source(square_png()), SquarePNG(square_png()), None])
async def test_a_wrong_request_says_what_to_pass(value: Any) -> None:
    """A source, an image or None in place of the request is an error that shows a request."""
    message = rf"got a value of type {type(value).__name__}\. Pass CreateImageVariationRequest\("
    with pytest.raises(InvalidRequestError, match=message):
        call_engine(InstantEngine(), value)
    with pytest.raises(InvalidRequestError, match=message):
        await call_engine_async(InstantEngine(), value)


def new_response(response_format: Any) -> ImagesResponse:
    """Return a response in a form that may not exist."""
    return ImagesResponse.from_pngs([PNG], response_format=response_format)


@pytest.mark.parametrize(
    ("function", "value", "message"),
    [
        (decode_png, PNG, "decode_png needs a SquarePNG, such as request.image, got a value of "),
        (decode_png, load_source(PNG), "decode_png needs a SquarePNG"),
        (encode_png, PNG, "encode_png needs a Pillow image, got a value of type bytes"),
        (encode_png, REQUEST.image, "encode_png needs a Pillow image"),
        (new_response, "png", "must be 'url' or 'b64_json', got 'png'. Pass request.response_"),
    ],
)
async def test_tools_of_an_author_refuse_other_types(
    function: Callable[[Any], Any], value: object, message: str
) -> None:
    """In an engine, a wrong argument of these functions is an error that says what to pass."""
    assert message in await error_of(Engine(lambda request: function(value)))


def test_one_model_needs_no_tuple() -> None:
    """`models = ("mine")`, which is a string, is one model."""
    assert engine_models(SimpleNamespace(models=("mine"))) == ("mine",)
    check_model("mine", ("mine"))
    with pytest.raises(ModelNotFoundError, match="this engine offers 'mine'"):
        check_model("m", ("mine"))


@pytest.mark.parametrize("value", [None, [PNG], Image(b64_json=BASE64)])
def test_results_need_a_response(tmp_path: Path, value: Any) -> None:
    """What takes a response refuses another object, and says how to get a response."""
    source, message = load_source(PNG), r"call_engine\(engine, request\) returns one"
    for function in (
        lambda: save_images(value, tmp_path),
        lambda: cut_back(value, source),
        lambda: ContactSheet(source, value),
    ):
        with pytest.raises(InvalidRequestError, match=message):
            function()


class TestSignatures:
    """An object that is not an engine is refused where it is passed, and before it is called."""

    @pytest.mark.parametrize(
        ("engine", "message"),
        [
            (
                ThreeArguments(),
                "ThreeArguments.create_variation takes (image, n, size='256x256'), but it is "
                "called as create_variation(request). Define it as create_variation(self, "
                "request).",
            ),
            (
                ByNameOnly(),
                "ByNameOnly.create_variation takes (*, request), but it is called as "
                "create_variation(request). Define it as create_variation(self, request).",
            ),
            (
                NoSelf(),
                "NoSelf.create_variation takes (), but it is called as create_variation(request). "
                "Define it as create_variation(self, request).",
            ),
            (
                InstantEngine,
                "engine must be an instance, got the class InstantEngine. Pass InstantEngine().",
            ),
            (
                jpeg,
                "engine must have the method create_variation(self, request), got the function "
                "jpeg.",
            ),
            (None, "engine must have the method create_variation(self, request), got None."),
            (
                SimpleNamespace(create_variation="yes"),
                "engine must have the method create_variation(self, request), got an object of "
                "type SimpleNamespace.",
            ),
        ],
        ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
    )
    async def test_each_door_refuses_it(self, engine: Any, message: str) -> None:
        """The tool, the server and both calls refuse it with the same error."""
        for door in (
            lambda: ToolSettings(engine=engine),
            lambda: create_app(engine),
            lambda: call_engine(engine, REQUEST),
            lambda: asyncio.run(call_engine_async(engine, REQUEST)),
        ):
            with pytest.raises(InvalidRequestError) as info:
                await asyncio.to_thread(door)
            assert (str(info.value), info.value.param) == (message, "engine")

    def test_a_name_must_be_loaded(self) -> None:
        """The error for a name says how to load the engine."""
        with pytest.raises(InvalidRequestError, match=r"got a name\. Pass load_engine\('local'\)"):
            call_engine("local", REQUEST)  # type: ignore[arg-type]  # wrong on purpose

    def test_other_forms_of_the_method_are_accepted(self) -> None:
        """Static and decorated methods, optional parameters and functions as attributes work."""

        class Static:
            @staticmethod
            def create_variation(request: CreateImageVariationRequest) -> ImagesResponse:
                return respond(PNG, PNG)(request)

        class Optional:
            def create_variation(
                self, request: CreateImageVariationRequest, *, verbose: bool = False
            ) -> ImagesResponse:
                return respond(PNG, PNG)(request)

        class Decorated:
            @add_client
            def create_variation(self, client: str, request: CreateImageVariationRequest) -> Any:
                return respond(PNG, PNG)(request)

        engines: list[Any] = [Static(), Optional(), Decorated()]
        for engine in (*engines, SimpleNamespace(create_variation=respond(PNG, PNG))):
            assert len(call_engine(engine, REQUEST).data) == 2


def test_our_engines_say_what_they_make(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each engine of this project has a kind of variation, and names its model."""
    monkeypatch.setenv("OPENAI_API_KEY", "any-text")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    for name in ("gpt-image", "instant", "local", "variations"):
        engine = load_engine(name)
        assert engine_variation_kind(engine)
        if name in ("instant", "local"):
            assert call_engine(engine, REQUEST).model == name


def test_the_model_of_a_request_is_named() -> None:
    """If the engine does not name its model, the response names the one that was requested."""
    engine = Engine(respond(PNG, PNG))
    assert call_engine(engine, REQUEST).model is None
    request = REQUEST.model_copy(update={"model": "large"})
    assert call_engine(engine, request).model == "large"
