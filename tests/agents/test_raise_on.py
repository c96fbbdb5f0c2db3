"""Which failures the tool raises, and which it answers as text."""

from pathlib import Path
from typing import Any, Self

import pytest
from langchain.agents import create_agent
from langchain_core.tools import ToolException
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

from langchain_image_variation.agents.failures import text_for_model
from langchain_image_variation.agents.tool import ImageVariationTool
from langchain_image_variation.exceptions import (
    ContentPolicyError,
    EngineError,
    InvalidRequestError,
    RateLimitError,
    ToolCallError,
)
from tests.agents.failing import CAT, KEY, FailingEngine, answers, check_clean, question, scripted
from tests.agents.scripted import asks, call


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
def test_a_class_that_is_never_raised_is_refused(
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
    """A developer's class keeps its attributes. If it makes its own text, its base is raised."""
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
def test_an_odd_error_counts_as_its_base(root: Path, error: EngineError, raise_on: Any) -> None:
    """A developer's own error with odd methods is answered or raised like its base."""
    tool = ImageVariationTool(root_dir=root, engine=FailingEngine(error), raise_on=raise_on)
    text = "The image engine failed. Try again later, or tell the user."
    if not raise_on:
        assert tool.invoke(call(image="cat.png")).text == text
        return
    with pytest.raises(EngineError) as caught:
        tool.invoke(call(image="cat.png"))
    assert (str(caught.value), caught.value.__cause__) == (text, error)
