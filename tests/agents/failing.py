"""Engines that fail, agents that call them, and checks of what the agents and the log learn."""

import base64
import inspect
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from langchain_image_variation import exceptions
from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.exceptions import ImageVariationError
from pytest_image_variation.samples import square_png
from tests.agents.file_systems import SECRET
from tests.agents.scripted import Scripted, asks

__all__ = [
    "CAT",
    "ENCODED",
    "FOR_DEVELOPERS",
    "KEY",
    "LOGGER",
    "TREE",
    "FailingEngine",
    "Limiter",
    "Recorder",
    "answers",
    "chain",
    "check_clean",
    "error_records",
    "question",
    "run",
    "scripted",
]

KEY = "sk-verysecretkey"
ENCODED = base64.b64encode(square_png(500)).decode("ascii")
LOGGER = "langchain_image_variation.tool"
CAT = {"image": "cat.png"}
TREE = [
    value
    for value in vars(exceptions).values()
    if inspect.isclass(value) and issubclass(value, ImageVariationError)
]
FOR_DEVELOPERS = re.compile(
    r"URLPolicy|\burls=|--\w|\w_(?:dir|url|key|options|bytes|size)\b|pip install|\bfit\b|install|"
    r"permission|base_url|\bparameter|\bsetting|\boption|environment|[A-Z]{3,}_[A-Z]+|\bbug\b|"
    r"package|Traceback|engine '|\w+\(",
    re.IGNORECASE,
)
"""Words that only a developer can use, and that no text for a model contains."""


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
