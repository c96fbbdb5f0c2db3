"""Rate limits: those of a server, of LangChain's limiters and of the tool, and retries."""

from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ToolErrorMiddleware, ToolRetryMiddleware
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from langchain_image_variation.agents.tool import ImageVariationTool
from langchain_image_variation.engines.loading import load_engine
from langchain_image_variation.exceptions import (
    EngineError,
    ImageVariationError,
    RateLimitError,
)
from tests.agents.failing import (
    CAT,
    FOR_DEVELOPERS,
    KEY,
    FailingEngine,
    Limiter,
    Recorder,
    answers,
    check_clean,
    error_records,
    question,
    run,
    scripted,
)
from tests.agents.scripted import Scripted, asks, call
from tests.calling import failure, success
from tests.http.raw_server import raw_server, response


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
