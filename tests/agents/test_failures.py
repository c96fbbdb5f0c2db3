"""What the developer and the caller of an agent learn when something fails."""

import asyncio
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.tracers.langchain import LangChainTracer
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langsmith import Client

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
    MissingExtraError,
    ModelNotDownloadedError,
    OutputError,
    SourceError,
    ToolCallError,
)
from tests.agents.failing import (
    CAT,
    ENCODED,
    FOR_DEVELOPERS,
    KEY,
    LOGGER,
    TREE,
    FailingEngine,
    Recorder,
    answers,
    chain,
    check_clean,
    error_records,
    question,
    run,
    scripted,
)
from tests.agents.file_systems import bucket
from tests.agents.scripted import asks, call
from tests.agents.test_safety import tracing_server
from tests.calling import failure, success
from tests.http.raw_server import hang_up, raw_server, response

MISTAKES = (ToolCallError, ContentPolicyError)


@pytest.fixture(autouse=True)
def _forget_hints() -> None:
    log_hint.cache_clear()


def tool_node(tool: ImageVariationTool) -> Any:
    """Return a graph with LangGraph's own node for tools."""
    builder = StateGraph(MessagesState)
    builder.add_node("model", lambda _: {"messages": [asks(image="cat.png")]})
    builder.add_node("tools", ToolNode([tool]))
    builder.add_edge(START, "model")
    builder.add_edge("model", "tools")
    return builder.compile()


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


@pytest.mark.parametrize("error_class", TREE)
@pytest.mark.parametrize("answers_all", [False, True])
def test_each_engine_error_keeps_its_class(
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


def test_only_the_log_says_why_an_image_was_refused(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The model only learns that the image was refused. The engine's reason is logged, masked."""
    error = ContentPolicyError(f"No faces. {KEY}")
    tool = ImageVariationTool(root_dir=root, engine=FailingEngine(error))
    with caplog.at_level(logging.INFO, LOGGER):
        assert tool.invoke(call(image="cat.png")).text == text_for_model(error)
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.INFO, "The engine refused an image: No faces. sk-…")
    ]


@pytest.mark.parametrize("error_class", [MissingExtraError, ModelNotDownloadedError])
def test_what_only_the_operator_can_install(
    error_class: type[ImageVariationError],
) -> None:
    """A model is not told to try again if a package or the engine's model is missing."""
    text = text_for_model(error_class("x"))
    assert "Calling it again will not help" in text


@pytest.mark.parametrize(
    "error_class", [c for c in TREE if not issubclass(c, (*MISTAKES, MissingExtraError))]
)
def test_each_server_error_keeps_its_class(
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
async def test_a_faulty_server_is_a_failure(
    root: Path,
    caplog: pytest.LogCaptureFixture,
    reaction: Any,
    error_class: type[ImageVariationError],
) -> None:
    """A call fails if the server hangs up, is silent, sends something else or does not run."""
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


@pytest.mark.parametrize("fault", ["write", "read"])
def test_a_failing_storage_is_a_failure(
    root: Path, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
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


def test_an_unusable_output_folder_is_a_failure(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
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


async def test_an_error_of_a_handler_is_not_a_failure(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of a handler with `raise_error` is passed on unchanged, and is not a failure."""
    tool = ImageVariationTool(root_dir=root, engine="instant", raise_on=())
    for kind in ("sync", "async"):
        config: Any = {"callbacks": [Broken()]}
        with pytest.raises(ZeroDivisionError):
            if kind == "sync":
                tool.invoke(call(image="cat.png"), config)
            else:
                await tool.ainvoke(call(image="cat.png"), config)
    assert error_records(caplog) == []
