"""What LlamaIndex's agents and programs learn when something fails."""

import logging
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llama_index.core")

from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.tools import ToolOutput

from langchain_image_variation import ImageVariationToolSpec
from langchain_image_variation.agents.conversation import scope_name
from langchain_image_variation.engines.loading import load_engine
from langchain_image_variation.exceptions import (
    ContentPolicyError,
    EngineError,
    ImageVariationError,
    RateLimitError,
    ToolCallError,
)
from pytest_image_variation.samples import square_png
from tests.agents.failing import (
    FOR_DEVELOPERS,
    KEY,
    FailingEngine,
    Limiter,
    chain,
    check_clean,
    error_records,
)
from tests.agents.llama import asks, outputs, reasons, says, scripted
from tests.calling import failure, success
from tests.http.raw_server import raw_server, response

pytestmark = [
    # LlamaIndex's agents access their own deprecated attributes.
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning"),
]
FAILED = "The image engine failed. Try again later, or tell the user."


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder with a photo."""
    (tmp_path / "cat.png").write_bytes(square_png(16))
    return tmp_path


def make_spec(root: Path, error: BaseException, **settings: Any) -> ImageVariationToolSpec:
    """Return a spec whose engine fails."""
    return ImageVariationToolSpec(root_dir=root, engine=FailingEngine(error), **settings)


async def call_both(spec: ImageVariationToolSpec, **arguments: Any) -> list[Any]:
    """Call the tool in its sync and async form. Return the outputs, or what they raise."""
    (tool,) = spec.to_tool_list()
    results: list[Any] = []
    for kind in ("sync", "async"):
        try:
            results.append(
                tool.call(**arguments) if kind == "sync" else await tool.acall(**arguments)
            )
        except Exception as error:
            results.append(error)
    return results


@pytest.mark.parametrize("kind", ["FunctionAgent", "AgentWorkflow", "ReActAgent"])
@pytest.mark.parametrize("raise_on", [(ImageVariationError,), ()])
async def test_a_bug_in_an_engine_shows(
    root: Path,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    raise_on: tuple[type[Exception], ...],
) -> None:
    """The agent goes on with a text for the model; the output has the chain, the log all of it."""
    bug = TypeError(KEY)
    tools: Any = make_spec(root, bug, raise_on=raise_on).to_tool_list()
    one: Any
    if kind == "ReActAgent":
        one = ReActAgent(tools=tools, llm=scripted(reasons(image="cat.png"), says()))
    else:
        one = FunctionAgent(tools=tools, llm=scripted(asks(image="cat.png"), says()))
    if kind == "AgentWorkflow":
        one = AgentWorkflow(agents=[one])
    (output,) = await outputs(one, memory=ChatMemoryBuffer.from_defaults())
    assert (output.is_error, output.content) == (True, FAILED)
    assert bug in chain(output.exception)
    (record,) = error_records(caplog)
    assert record.exc_info is not None
    assert "in create_variation" in caplog.text
    check_clean(caplog.text, root)


async def test_a_record_names_its_conversation(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The record of a failure has the folder of the conversation that the memory belongs to."""
    for key in ("user-1", "user-2"):
        tools: Any = make_spec(root, TypeError("a bug")).to_tool_list()
        one = FunctionAgent(tools=tools, llm=scripted(asks(image="cat.png"), says()))
        await outputs(one, memory=ChatMemoryBuffer.from_defaults(chat_store_key=key))
    folders = [vars(record)["conversation_folder"] for record in error_records(caplog)]
    assert folders == [scope_name("user-1"), scope_name("user-2")]


async def test_a_program_gets_the_failure(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A program that calls the tool or the spec gets the error itself, with its chain."""
    bug = TypeError(KEY)
    spec = make_spec(root, bug)
    errors = await call_both(spec, image="cat.png")
    with pytest.raises(EngineError) as caught:
        spec.image_variation("cat.png")
    for error in (*errors, caught.value):
        assert (type(error), str(error)) == (EngineError, FAILED)
        assert chain(error)[-1] is bug
    assert len(error_records(caplog)) == 3


async def test_a_mistake_is_an_output(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A mistake of the model is an output with the error, whatever `raise_on` says."""
    spec = make_spec(root, ContentPolicyError(f"{KEY} urls=..."))
    for arguments, error_class in (
        ({"image": "dog.png"}, ToolCallError),
        ({"image": "cat.png", "n": 99}, ToolCallError),
        ({"image": "cat.png"}, ContentPolicyError),
    ):
        for output in await call_both(spec, **arguments):
            assert isinstance(output, ToolOutput)
            assert output.is_error
            assert type(output.exception) is error_class
            assert not FOR_DEVELOPERS.search(output.content)
            check_clean(output.content, root)
    assert caplog.records == []


async def test_raise_on_chooses_the_failures(root: Path) -> None:
    """Failures of other classes are outputs."""
    for error, is_raised in ((RateLimitError("x"), True), (EngineError("x"), False)):
        for result in await call_both(
            make_spec(root, error, raise_on=(RateLimitError,)), image="cat.png"
        ):
            if is_raised:
                assert type(result) is RateLimitError
                assert result.__cause__ is error
            else:
                assert (result.is_error, result.content, result.exception) == (True, FAILED, error)


async def test_failures_of_a_server_and_a_limiter(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A server's 429 and an error of a rate limiter are raised, and the next call works."""
    limited = response(429, failure(f"Slow down, {KEY}.", type="requests"))
    with raw_server(limited, response(200, success(1))) as server:
        engine: Any = load_engine("variations", base_url=server.base_url, max_retries=0)
        first, second = await call_both(
            ImageVariationToolSpec(root_dir=root, engine=engine), image="cat.png"
        )
        engine.close()
    assert type(first) is RateLimitError
    assert not second.is_error
    limiter = Limiter(ConnectionError(KEY))
    spec = ImageVariationToolSpec(root_dir=root, engine="instant", rate_limiter=limiter)
    for error in await call_both(spec, image="cat.png"):
        assert type(error) is EngineError
        assert not FOR_DEVELOPERS.search(str(error))
    assert len(error_records(caplog)) == 3
    check_clean(caplog.text, root)


def test_a_keyboard_interrupt_is_passed_on(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`KeyboardInterrupt` is neither logged nor replaced."""
    caplog.set_level(logging.DEBUG, "langchain_image_variation")
    with pytest.raises(KeyboardInterrupt):
        make_spec(root, KeyboardInterrupt(), raise_on=()).image_variation("cat.png")
    assert error_records(caplog) == []
