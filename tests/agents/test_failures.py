"""What the model, the developer and the caller of an agent learn when something fails."""

import ast
import asyncio
import base64
import inspect
import logging
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ToolErrorMiddleware, ToolRetryMiddleware
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import ToolException
from langchain_core.tracers.langchain import LangChainTracer
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, interrupt
from langsmith import Client

from langchain_image_variation import URLPolicy, exceptions
from langchain_image_variation.agents.failure_log import log_hint
from langchain_image_variation.agents.failures import text_for_model
from langchain_image_variation.agents.tool import ImageVariationTool
from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.context import cancellation
from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.engines.loading import load_engine
from langchain_image_variation.exceptions import (
    ContentPolicyError,
    EngineConnectionError,
    EngineError,
    EngineResponseError,
    EngineTimeoutError,
    ImageVariationError,
    InvalidRequestError,
    MissingExtraError,
    OutputError,
    RateLimitError,
    SourceError,
    ToolCallError,
)
from pytest_image_variation.samples import jpeg, square_png
from tests.agents.conversing import Talk
from tests.agents.file_systems import SECRET, bucket
from tests.agents.scripted import Scripted, asks, call
from tests.agents.test_safety import tracing_server
from tests.calling import failure, success
from tests.http.raw_server import hang_up, raw_server, response

KEY = "sk-verysecretkey"
ENCODED = base64.b64encode(square_png(500)).decode("ascii")
LOGGER = "langchain_image_variation.tool"
CAT = {"image": "cat.png"}
TREE = [
    value
    for value in vars(exceptions).values()
    if inspect.isclass(value) and issubclass(value, ImageVariationError)
]
MISTAKES = (ToolCallError, ContentPolicyError)
FOR_DEVELOPERS = re.compile(
    r"URLPolicy|\burls=|--\w|\w_(?:dir|url|key|options|bytes|size)\b|pip install|\bfit\b|install|"
    r"permission|base_url|\bparameter|\bsetting|\boption|environment|[A-Z]{3,}_[A-Z]+|\bbug\b|"
    r"package|Traceback|engine '|\w+\(",
    re.IGNORECASE,
)
"""Words that only a developer can use, and that no text for a model contains."""


@pytest.fixture(autouse=True)
def _forget_hints() -> None:
    log_hint.cache_clear()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder with a photo."""
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "cat.png").write_bytes(square_png(16))
    return folder


class Recorder(BaseCallbackHandler):
    """Keeps what callbacks learn about the tool."""

    def __init__(self) -> None:
        self.starts = 0
        self.errors: list[BaseException] = []

    def on_tool_start(self, *arguments: Any, **others: Any) -> None:
        """Count the calls."""
        self.starts += 1

    def on_tool_error(self, error: BaseException, **others: Any) -> None:
        """Keep the error."""
        self.errors.append(error)


class FailingEngine:
    """An engine that raises an error.

    Args:
        error: The error.
    """

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Fail."""
        raise self.error


def scripted(*arguments: Mapping[str, Any]) -> Scripted:
    """Return a model that calls the tool with these arguments, and then says that it is done."""
    script: list[Any] = [lambda _, a=a: asks(size="256x256", **a) for a in arguments]
    return Scripted(script=[*script, lambda _: AIMessage("Done.")])


def question() -> Any:
    """Return a user's message to an agent."""
    return {"messages": [HumanMessage("Vary the cat.")]}


def answers(result: Mapping[str, Any]) -> list[ToolMessage]:
    """Return the messages of the tool, in order."""
    return [message for message in result["messages"] if isinstance(message, ToolMessage)]


async def run(runnable: Any, kind: str, config: Any = None) -> Any:
    """Run an agent or a graph to its end."""
    if kind == "invoke":
        return runnable.invoke(question(), config)
    if kind == "ainvoke":
        return await runnable.ainvoke(question(), config)
    if kind == "stream":
        return list(runnable.stream(question(), config))
    return [event async for event in runnable.astream_events(question(), config, version="v2")]


def tool_node(tool: ImageVariationTool) -> Any:
    """Return a graph with LangGraph's own node for tools."""
    builder = StateGraph(MessagesState)
    builder.add_node("model", lambda _: {"messages": [asks(image="cat.png")]})
    builder.add_node("tools", ToolNode([tool]))
    builder.add_edge(START, "model")
    builder.add_edge("model", "tools")
    return builder.compile()


def chain(error: BaseException | None) -> list[BaseException]:
    """Return an error and its causes."""
    return [] if error is None else [error, *chain(error.__cause__)]


def error_records(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return the logged failures."""
    return [r for r in caplog.records if (r.name, r.levelno) == (LOGGER, logging.ERROR)]


def check_clean(text: str, root: Path) -> None:
    """Check that a text has no key, no image data and no path."""
    assert KEY not in text
    assert SECRET not in text
    assert not re.search(r"[A-Za-z0-9+=]{60}", text)
    assert str(root) not in text
    assert len(text) < 20_000


@pytest.mark.parametrize("kind", ["invoke", "ainvoke", "stream", "astream_events"])
@pytest.mark.parametrize("make", [tool_node, lambda tool: create_agent(scripted(CAT), [tool])])
async def test_a_bug_in_an_engine_shows(
    root: Path, caplog: pytest.LogCaptureFixture, make: Callable[[Any], Any], kind: str
) -> None:
    """The caller gets the chain, callbacks and tracers the error, and the log the traceback."""
    recorder, collector = Recorder(), RunCollectorCallbackHandler()
    bug = TypeError(f"{KEY} {ENCODED}")
    tool = ImageVariationTool(root_dir=root, engine=FailingEngine(bug))
    with pytest.raises(EngineError) as caught:
        await run(make(tool), kind, {"callbacks": [recorder, collector]})
    assert str(caught.value) == "The image engine failed. Try again later, or tell the user."
    raised, described, original = chain(caught.value)
    assert "FailingEngine failed with TypeError" in str(described)
    assert original is bug
    assert recorder.errors == [raised]
    runs = [*collector.traced_runs]
    for traced_run in runs:
        runs += traced_run.child_runs
    assert any(r.run_type == "tool" and "The image engine failed" in str(r.error) for r in runs)
    (record,) = error_records(caplog)
    assert record.exc_info is not None
    assert "in create_variation" in caplog.text
    assert "TypeError: sk-…" in caplog.text
    check_clean(caplog.text, root)


@pytest.mark.parametrize("kind", ["invoke", "ainvoke"])
async def test_a_rate_limit_is_retried(
    root: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """LangChain retries a server's 429, while a wrong name is answered as text, once."""
    recorder = Recorder()
    limited = response(429, failure("Slow down.", type="requests", code="rate_limit_exceeded"))
    with raw_server(limited, limited, response(200, success(1))) as server:
        engine: Any = load_engine("variations", base_url=server.base_url, max_retries=0)
        tool = ImageVariationTool(root_dir=root, engine=engine)
        retries = ToolRetryMiddleware(
            retry_on=(RateLimitError,), max_retries=3, initial_delay=0, jitter=False
        )
        agent = create_agent(scripted({"image": "dog.png"}, CAT), [tool], middleware=[retries])
        result = await run(agent, kind, {"callbacks": [recorder]})
        engine.close()
    wrong, right = answers(result)
    assert (wrong.status, right.status) == ("error", "success")
    assert wrong.text == "There is no image 'dog.png' here. Files: cat.png."
    assert len(server.requests) == 3
    assert recorder.starts == 4
    assert [str(error) for error in recorder.errors] == [
        "The image engine has too many requests at the moment. Try again later, or tell the user."
    ] * 2
    assert len(error_records(caplog)) == 2


def test_used_up_calls_are_not_retried(root: Path) -> None:
    """`max_calls` is a limit for the model. No retry waits for it."""
    recorder = Recorder()
    tool = ImageVariationTool(root_dir=root, engine="instant", max_calls=1)
    retries = ToolRetryMiddleware(retry_on=(RateLimitError,), initial_delay=0)
    agent = create_agent(scripted(CAT, CAT), [tool], middleware=[retries])
    _, refusal = answers(agent.invoke(question(), {"callbacks": [recorder]}))
    assert refusal.text.startswith("This conversation has used its only call")
    assert (refusal.status, recorder.starts) == ("error", 2)


@pytest.mark.parametrize("kind", ["invoke", "ainvoke"])
async def test_middlewares_get_a_text_for_the_model(root: Path, kind: str) -> None:
    """LangChain's middlewares put the text of an error into a message, so it suits a model."""
    tool = ImageVariationTool(root_dir=root, engine=FailingEngine(RateLimitError(f"{KEY} urls")))
    retries = ToolRetryMiddleware(retry_on=(RateLimitError,), max_retries=1, initial_delay=0)
    errors = ToolErrorMiddleware(lambda error, _: str(error))
    for middleware in (retries, errors):
        agent = create_agent(scripted(CAT), [tool], middleware=[middleware])
        (message,) = answers(await run(agent, kind))
        assert message.status == "error"
        assert "The image engine has too many requests" in message.text
        assert KEY not in message.text
        assert not FOR_DEVELOPERS.search(message.text.removeprefix("Tool 'image_variation'"))


@pytest.mark.parametrize("error_class", TREE)
@pytest.mark.parametrize("answers_all", [False, True])
def test_each_class_of_an_engine(
    root: Path,
    caplog: pytest.LogCaptureFixture,
    error_class: type[ImageVariationError],
    answers_all: bool,
) -> None:
    """A failure is raised with its class and attributes, or answered; a mistake is answered."""
    text = "Ask for another image." if error_class is ToolCallError else f"{KEY} {ENCODED[:5_000]}"
    error = error_class(text, param="n", hint="Set urls=URLPolicy(...).")
    error.request_id, error.retry_after, error.status_code = "r-1", 7.0, 499
    settings: Any = {"raise_on": ()} if answers_all else {}
    tool = ImageVariationTool(root_dir=root, engine=FailingEngine(error), **settings)
    is_mistake = issubclass(error_class, MISTAKES)
    if is_mistake or answers_all:
        message = tool.invoke(call(image="cat.png"))
        assert message.status == "error"
        shown_text = message.text
    else:
        with pytest.raises(error_class) as caught:
            tool.invoke(call(image="cat.png"))
        assert type(caught.value) is error_class
        assert caught.value.__cause__ is error
        attributes = {**vars(error), "message": str(caught.value), "hint": None}
        assert vars(caught.value) == attributes
        shown_text = str(caught.value)
    if error_class is not ToolCallError:
        assert shown_text == text_for_model(error)
        assert not FOR_DEVELOPERS.search(shown_text)
    check_clean(shown_text, root)
    records = error_records(caplog)
    assert len(records) == (0 if is_mistake else 1)
    if not is_mistake:
        assert "urls=URLPolicy" in caplog.text
        assert "in create_variation" in caplog.text
        check_clean(caplog.text, root)


def test_why_an_engine_refused_an_image(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The model only learns that the image was refused. The engine's reason is logged, masked."""
    error = ContentPolicyError(f"No faces. {KEY}")
    tool = ImageVariationTool(root_dir=root, engine=FailingEngine(error))
    with caplog.at_level(logging.INFO, LOGGER):
        assert tool.invoke(call(image="cat.png")).text == text_for_model(error)
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.INFO, "The engine refused an image: No faces. sk-…")
    ]


@pytest.mark.parametrize(
    "error_class", [c for c in TREE if not issubclass(c, (*MISTAKES, MissingExtraError))]
)
def test_each_class_of_a_server(
    root: Path, caplog: pytest.LogCaptureFixture, error_class: type[ImageVariationError]
) -> None:
    """What a server answers over a socket is raised as its class, with a text for the model."""
    sent = error_class("x")
    body = failure(f"Set base_url. {KEY}", type=sent.type, code=sent.code)
    with raw_server(response(sent.status_code, body, x_request_id="r-1")) as server:
        engine: Any = load_engine("variations", base_url=server.base_url, max_retries=0)
        tool = ImageVariationTool(root_dir=root, engine=engine)
        with pytest.raises(ImageVariationError) as caught:
            tool.invoke(call(image="cat.png"))
        engine.close()
    assert isinstance(
        caught.value, EngineError if error_class is ImageVariationError else sent.__class__
    )
    assert (caught.value.request_id, caught.value.status_code) == ("r-1", sent.status_code)
    assert not FOR_DEVELOPERS.search(str(caught.value))
    assert len(error_records(caplog)) == 1
    assert "Set base_url." in caplog.text
    check_clean(caplog.text, root)


@pytest.mark.parametrize(
    ("reaction", "error_class"),
    [
        (hang_up, EngineConnectionError),
        (response(200, b"<html>"), EngineResponseError),
        (response(200, success(2)[:-40]), EngineResponseError),
        (None, EngineTimeoutError),
    ],
    ids=["hangs up", "HTML", "cut off", "silent"],
)
async def test_a_faulty_server(
    root: Path,
    caplog: pytest.LogCaptureFixture,
    reaction: Any,
    error_class: type[ImageVariationError],
) -> None:
    """A server that hangs up, is silent or sends something else fails, and so does no server."""
    end_event = threading.Event()

    def be_silent(_: object) -> None:
        end_event.wait(30)

    try:
        with raw_server(reaction or be_silent) as server:
            settings: Any = {"max_retries": 0, "timeout": 30 if reaction else 0.2}
            engine: Any = load_engine("variations", base_url=server.base_url, **settings)
            tool = ImageVariationTool(root_dir=root, engine=engine)
            with pytest.raises(error_class) as caught:
                await tool.ainvoke(call(image="cat.png"))
            end_event.set()
        engine.close()
        engine = load_engine("variations", base_url=server.base_url, **settings)
        tool = ImageVariationTool(root_dir=root, engine=engine)
        with pytest.raises(EngineConnectionError) as refused:
            tool.invoke(call(image="cat.png"))
        engine.close()
    finally:
        end_event.set()
    for error in (caught.value, refused.value):
        assert not FOR_DEVELOPERS.search(str(error))
    assert len(error_records(caplog)) == 2
    check_clean(caplog.text, root)


class Limiter:
    """A rate limiter that refuses or fails."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    def acquire(self) -> bool:
        """Refuse, or fail."""
        if self._error is not None:
            raise self._error
        return False

    async def aacquire(self) -> bool:
        """Do the same."""
        return self.acquire()


@pytest.mark.parametrize(
    ("error", "error_class"),
    [
        (None, RateLimitError),
        (RateLimitError("Full."), RateLimitError),
        (ConnectionError(f"redis://user:{KEY}@host"), EngineError),
    ],
)
async def test_each_error_of_a_rate_limiter(
    root: Path,
    caplog: pytest.LogCaptureFixture,
    error: Exception | None,
    error_class: type[ImageVariationError],
) -> None:
    """A refusal is a `RateLimitError`, and an error of another library is in the chain."""
    tool = ImageVariationTool(root_dir=root, engine="instant", rate_limiter=Limiter(error))
    for kind in ("sync", "async"):
        with pytest.raises(error_class) as caught:
            if kind == "sync":
                tool.invoke(call(image="cat.png"))
            else:
                await tool.ainvoke(call(image="cat.png"))
        assert error is None or caught.value.__cause__ is error
        assert not FOR_DEVELOPERS.search(str(caught.value))
    assert len(error_records(caplog)) == 2
    check_clean(caplog.text, root)
    answering_tool = tool.model_copy(update={"raise_on": ()})
    assert answering_tool.invoke(call(image="cat.png")).status == "error"


class AskingLimiter:
    """A rate limiter that asks a person for permission."""

    def acquire(self) -> bool:
        """Pause the graph until a person has answered."""
        return bool(interrupt("May the tool be called?"))

    async def aacquire(self) -> bool:
        """Do the same."""
        return self.acquire()


def test_a_paused_graph_has_not_failed(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A rate limiter may interrupt the graph. The call continues when a person has answered."""
    tool = ImageVariationTool(root_dir=root, engine="instant", rate_limiter=AskingLimiter())
    model = Scripted(script=[lambda _: asks(image="cat.png"), lambda _: AIMessage("Done.")])
    agent = create_agent(model, [tool], checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}
    paused = agent.invoke({"messages": [HumanMessage("Vary cat.png.")]}, config)
    assert paused["__interrupt__"]
    assert not error_records(caplog)
    resumed = agent.invoke(Command(resume=True), config)
    (answer,) = [m for m in resumed["messages"] if isinstance(m, ToolMessage)]
    assert answer.status == "success"


@contextmanager
def without_heif() -> Iterator[None]:
    """Simulate that the extra `heif` is not installed."""
    module = sys.modules.get("pillow_heif")
    sys.modules["pillow_heif"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["pillow_heif"]
        if module is not None:
            sys.modules["pillow_heif"] = module


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + b"\0" * 64


def _link(url: str) -> HumanMessage:
    return HumanMessage([{"type": "image", "url": url}])


def _not_found(host: str, port: int) -> list[str]:
    raise OSError(f"{host} {KEY}")


SOURCES: dict[str, tuple[Any, dict[str, Any], str, str | None]] = {
    "unknown": ("dog.png", {}, "There is no image 'dog.png' here.", None),
    "absolute": ("{root}/dog.png", {}, "There is no image 'dog.png' here.", None),
    "corrupt": ("corrupt.png", {}, "corrupt.png: image is a corrupt PNG", None),
    "empty": ("empty.png", {}, "empty.png: The source is empty", None),
    "text": ("notes.png", {}, "notes.png: Unsupported or corrupt image.", None),
    "strict": ("photo.jpg", {"fit": "strict"}, "photo.jpg: image is not a PNG", "fit='crop'"),
    "link": (
        _link("https://example.com/a.png"),
        {},
        "This image is only a link, which this tool may not open. Ask the user to upload the image",
        "urls=URLPolicy",
    ),
    "host": (
        _link("https://example.org/a.png"),
        {"urls": URLPolicy(hosts=["example.com"])},
        "The host 'example.org' is not allowed. Ask the user to upload the image itself.",
        "Allow it if you trust it.",
    ),
    "no host": (
        _link("https://example.com/a.png"),
        {"urls": URLPolicy(hosts=["example.com"], resolve=_not_found)},
        "The host 'example.com' does not exist; check the URL. Ask the user to upload",
        None,
    ),
    "private": (
        _link("https://example.com/a.png"),
        {"urls": URLPolicy(hosts=["example.com"], resolve=lambda *_: ["127.0.0.1"])},
        "The host 'example.com' has an address that is not public. Ask the user to upload",
        "Download the image yourself.",
    ),
    "address": (
        _link("https://127.0.0.1/a.png"),
        {"urls": URLPolicy(hosts=["example.com"])},
        "Images are fetched by host name, never by IP address. Ask the user to upload",
        None,
    ),
    "HEIC": (
        "photo.heic",
        {},
        "This kind of image cannot be read here. Ask the user for a PNG or JPEG.",
        "[heif]",
    ),
}


@pytest.mark.parametrize("name", SOURCES)
async def test_each_image_that_cannot_be_used(
    root: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """It is a mistake, answered as text; advice for the developer is logged once, as a warning."""
    image, settings, text, hint = SOURCES[name]
    (root / "corrupt.png").write_bytes(square_png()[:100])
    (root / "empty.png").write_bytes(b"")
    (root / "notes.png").write_bytes(b"not an image")
    (root / "photo.jpg").write_bytes(jpeg())
    (root / "photo.heic").write_bytes(HEIC)
    tool = ImageVariationTool(root_dir=root, engine="instant", **settings)
    with without_heif():
        for _ in range(2):
            talk = Talk(tool, None, *([] if isinstance(image, str) else [image]))
            handle = image.format(root=root) if isinstance(image, str) else "latest"
            for message in (talk.vary(handle), await talk.avary(handle)):
                assert message.status == "error"
                assert text in message.text
                assert not FOR_DEVELOPERS.search(message.text)
                check_clean(message.text, root)
    assert error_records(caplog) == []
    warnings = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert [hint in warning for warning in warnings if hint] == ([True] if hint else [])
    check_clean(caplog.text, root)


@pytest.mark.parametrize("fault", ["write", "read"])
def test_a_storage_that_fails(root: Path, caplog: pytest.LogCaptureFixture, fault: str) -> None:
    """A storage that cannot be read or written to is a failure, whatever the model asked for."""
    with bucket() as storage:
        tool = ImageVariationTool(root_dir=root, engine="instant", output_dir="bucket://kept")
        storage.failing.add(fault)
        image = "cat.png" if fault == "write" else "cat-0123abcd-1"
        with pytest.raises(OutputError) as caught:
            tool.invoke(call(image=image))
    assert not FOR_DEVELOPERS.search(str(caught.value))
    assert "bucket storage cannot be" in str(caught.value.__cause__)
    assert len(error_records(caplog)) == 1
    check_clean(caplog.text, root)


def test_an_output_folder_that_fails(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file in place of the folder of results, and a deleted `root_dir`, are failures."""
    tool = ImageVariationTool(root_dir=root, engine="instant")
    (root / "variations").write_bytes(b"")
    with pytest.raises(OutputError) as caught:
        tool.invoke(call(image="cat.png"))
    root.rename(root.with_name("elsewhere"))
    with pytest.raises(SourceError) as missing:
        tool.invoke(call(image="cat.png"))
    assert "set another root_dir" in caplog.text
    for error in (caught.value, missing.value):
        assert not FOR_DEVELOPERS.search(str(error))
    assert len(error_records(caplog)) == 2
    check_clean(caplog.text, root)


def test_texts_of_images_have_no_advice_for_developers() -> None:
    """No error about an image has a developer's word outside its hint."""
    package = Path(exceptions.__file__).parent
    agents = ("handles", "arguments", "image_folder", "conversation", "message_image", "failures")
    paths = [
        *(package / "images").rglob("*.py"),
        *(package / "source").rglob("*.py"),
        *(package / "http" / f"{name}.py" for name in ("address", "fetch")),
        *(package / "agents" / f"{name}.py" for name in agents),
    ]
    names = {"DownloadError", "InvalidImageError", "SourceError", "ToolCallError"}
    texts = []
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            # These two check a setting, when a tool is made.
            is_of_setting = any(
                keyword.arg == "param" and ast.literal_eval(keyword.value) in ("fit", "urls")
                for keyword in node.keywords
            )
            if node.func.id in names and node.args and not is_of_setting:
                texts += [
                    constant.value
                    for constant in ast.walk(node.args[0])
                    if isinstance(constant, ast.Constant) and isinstance(constant.value, str)
                ]
    assert len(texts) > 50
    assert [text for text in texts if FOR_DEVELOPERS.search(text)] == []
    for error_class in TREE:
        if error_class is not ToolCallError:
            assert not FOR_DEVELOPERS.search(text_for_model(error_class("x")))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"public_url": "https://files.example.com/variations", "cache": True},
        {"fit": "keep", "max_n": 1, "max_calls": 2},
        {"fixed_size": "256x256", "max_results": 1, "max_uploads": 0},
        {"output_dir": "bucket://kept"},
    ],
    ids=str,
)
def test_other_texts_have_no_advice_for_developers(root: Path, settings: dict[str, Any]) -> None:
    """Descriptions, answers to a model and refusals have no developer's word either."""
    (root / "photo.jpg").write_bytes(jpeg())
    with bucket():
        tool = ImageVariationTool(root_dir=root, engine="instant", **settings)
        talk = Talk(tool, "t-1", _link("https://example.com/a.png"))
        schema: Any = tool.tool_call_schema
        fields = schema.model_json_schema()["properties"].values()
        texts = [tool.description, *(field["description"] for field in fields)]
        for image in ("photo.jpg", "photo.jpg", "nothing", "latest"):
            texts.append(talk.vary(image).text)
        for wrong in ({"n": 11}, {"n": "x"}, {"count": 1}, {"size": "1x1"}):
            texts.append(tool.invoke(call(image="photo.jpg", **wrong)).text)
    assert [text for text in texts if FOR_DEVELOPERS.search(text)] == []


def test_a_traced_failure_has_its_chain(root: Path) -> None:
    """LangSmith gets the error of the run with its chain, and no image."""
    tool = ImageVariationTool(root_dir=root, engine=FailingEngine(TypeError("no such device")))
    with tracing_server() as (address, runs):
        client = Client(api_url=address, api_key="ls-1", auto_batch_tracing=False)
        tracer = LangChainTracer(client=client)
        with pytest.raises(EngineError):
            tool.invoke(call(image="cat.png"), {"callbacks": [tracer]})
        tracer.wait_for_futures()
    (error,) = (run["error"] for run in runs if run.get("error"))
    for part in ("The image engine failed.", "FailingEngine failed with", "no such device"):
        assert part in error
    check_clean(error, root)


def test_an_agent_resumes_after_a_failure(root: Path) -> None:
    """A stored conversation goes on with the call that failed, and its checkpoint has no key."""

    class Recovering(InstantEngine):
        error: Exception | None = TypeError(KEY)

        def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
            if self.error is not None:
                raise self.error
            return super().create_variation(request)

    engine, saver = Recovering(), InMemorySaver()
    tool = ImageVariationTool(root_dir=root, engine=engine)
    agent = create_agent(scripted(CAT), [tool], checkpointer=saver)
    config: Any = {"configurable": {"thread_id": "t-1"}}
    with pytest.raises(EngineError):
        agent.invoke(question(), config)
    engine.error = None
    (message,) = answers(agent.invoke(None, config))
    assert message.status == "success"
    assert KEY not in repr((saver.writes, saver.blobs, saver.storage))


def test_a_tool_node_may_answer_failures(root: Path) -> None:
    """LangGraph's own `handle_tool_errors` shows the model the text for the model."""
    tool = ImageVariationTool(root_dir=root, engine=FailingEngine(RateLimitError(KEY)))
    builder = StateGraph(MessagesState)
    builder.add_node("tools", ToolNode([tool], handle_tool_errors=True))
    builder.add_edge(START, "tools")
    state: Any = {"messages": [asks(image="cat.png")]}
    (message,) = answers(builder.compile().invoke(state))
    assert message.status == "error"
    assert "The image engine has too many requests at the moment." in message.text
    assert KEY not in message.text


def test_handle_tool_error_raises_mistakes(root: Path) -> None:
    """With `handle_tool_error=False`, a mistake is raised too, with its cause."""
    tool = ImageVariationTool(root_dir=root, engine="instant", handle_tool_error=False)
    with pytest.raises(ToolException, match="There is no image") as caught:
        tool.invoke(call(image="dog.png"))
    assert isinstance(caught.value.__cause__, ToolCallError)


def test_raise_on_chooses_the_failures(root: Path) -> None:
    """Only failures of these classes are raised. Others are answered, and the agent goes on."""
    for error, is_raised in ((RateLimitError("x"), True), (EngineError("x"), False)):
        engine = FailingEngine(error)
        tool = ImageVariationTool(root_dir=root, engine=engine, raise_on=(RateLimitError,))
        agent = create_agent(scripted(CAT), [tool])
        if is_raised:
            with pytest.raises(RateLimitError):
                agent.invoke(question())
        else:
            (message,) = answers(agent.invoke(question()))
            assert message.text == text_for_model(error)


@pytest.mark.parametrize(
    ("raise_on", "text"),
    [
        ((ToolCallError,), "raise_on cannot contain ToolCallError: the model made the mistake"),
        ((ContentPolicyError,), "raise_on cannot contain ContentPolicyError: the model"),
        ((TypeError,), "raise_on cannot contain TypeError: .* become EngineError"),
    ],
)
def test_raise_on_with_a_class_never_raised(
    root: Path, raise_on: tuple[type[Exception], ...], text: str
) -> None:
    """A class that the tool never raises is refused, instead of being ignored."""
    with pytest.raises(InvalidRequestError, match=text) as caught:
        ImageVariationTool(root_dir=root, engine="instant", raise_on=raise_on)
    assert caught.value.param == "raise_on"
    ImageVariationTool(root_dir=root, engine="instant", raise_on=(Exception,))


class _Own(RateLimitError):
    """A developer's own error, which makes its text itself."""

    def __init__(self, user: str, *, plan: str) -> None:
        super().__init__(f"{user} used up {plan}")
        self.plan = plan


class _Stubborn(_Own):
    def __str__(self) -> str:
        return f"{KEY} {self.plan}"


def test_a_developers_own_class_is_kept(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An own class keeps its attributes. If it has its own text, its base in the tree is raised."""
    for error, error_class in ((_Own("bob", plan="S"), _Own), (_Stubborn("b", plan="S"), None)):
        tool = ImageVariationTool(root_dir=root, engine=FailingEngine(error))
        with pytest.raises(RateLimitError) as caught:
            tool.invoke(call(image="cat.png"))
        assert str(caught.value) == text_for_model(error)
        assert type(caught.value) is (error_class or RateLimitError)
        assert vars(caught.value)["plan"] == "S"
    check_clean(caplog.text, root)


class OddConstructor(EngineError):
    """A developer's error whose constructors need two arguments."""

    def __new__(cls, *_: object, detail: str) -> Self:
        """Take the detail only by name."""
        return super().__new__(cls)

    def __init__(self, *, detail: str) -> None:
        super().__init__(f"{KEY} {detail}")


class OddText(EngineError):
    """A developer's error whose text cannot be made."""

    def __str__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize("error", [OddConstructor(detail="x"), OddText("x")])
@pytest.mark.parametrize("raise_on", [(), (EngineError,)])
def test_an_odd_error_of_a_developer_is_no_other_failure(
    root: Path, error: EngineError, raise_on: Any
) -> None:
    """A developer's own error with odd methods is answered or raised like its base."""
    tool = ImageVariationTool(root_dir=root, engine=FailingEngine(error), raise_on=raise_on)
    text = "The image engine failed. Try again later, or tell the user."
    if not raise_on:
        assert tool.invoke(call(image="cat.png")).text == text
        return
    with pytest.raises(EngineError) as caught:
        tool.invoke(call(image="cat.png"))
    assert (str(caught.value), caught.value.__cause__) == (text, error)


def test_a_keyboard_interrupt_is_passed_on(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`KeyboardInterrupt` is neither logged nor replaced, even if nothing is raised."""
    keyboard_interrupt = KeyboardInterrupt()
    tool = ImageVariationTool(root_dir=root, engine=FailingEngine(keyboard_interrupt), raise_on=())
    with pytest.raises(KeyboardInterrupt) as caught:
        tool.invoke(call(image="cat.png"))
    assert caught.value is keyboard_interrupt
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(tool.ainvoke(call(image="cat.png")))
    assert error_records(caplog) == []


async def test_a_cancelled_call_is_not_logged(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A cancelled call ends with `CancelledError`, even if nothing is raised."""
    start_event, stop_event = threading.Event(), threading.Event()

    class Slow:
        def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
            is_cancelled = cancellation()
            start_event.set()
            while not is_cancelled():
                stop_event.wait(0.01)
            stop_event.set()
            raise RuntimeError

    tool = ImageVariationTool(root_dir=root, engine=Slow(), raise_on=())
    task = asyncio.create_task(tool.ainvoke(call(image="cat.png")))
    assert await asyncio.to_thread(start_event.wait, 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(stop_event.wait, 30)
    assert error_records(caplog) == []


class Broken(BaseCallbackHandler):
    """A developer's handler that fails, and asks LangChain to raise its error."""

    raise_error = True

    def on_custom_event(self, *arguments: Any, **others: Any) -> None:
        """Fail."""
        raise ZeroDivisionError


async def test_an_error_of_a_handler_is_the_developers(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of a handler with `raise_error` is passed on unchanged, and is no failure."""
    tool = ImageVariationTool(root_dir=root, engine="instant", raise_on=())
    for kind in ("sync", "async"):
        config: Any = {"callbacks": [Broken()]}
        with pytest.raises(ZeroDivisionError):
            if kind == "sync":
                tool.invoke(call(image="cat.png"), config)
            else:
                await tool.ainvoke(call(image="cat.png"), config)
    assert error_records(caplog) == []
