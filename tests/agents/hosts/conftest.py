import asyncio
import contextvars
import gc
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from langchain_core.runnables.config import set_config_context

from langchain_image_variation.agents.tool import ImageVariationTool
from tests.docs.pages import ROOT


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ignore what hosts leave open, and what they should no longer use."""
    folder = f"{Path(__file__).parent}{os.sep}"
    for item in items:
        if str(item.path).startswith(folder):
            for category in ("ResourceWarning", "DeprecationWarning"):
                item.add_marker(pytest.mark.filterwarnings(f"ignore::{category}"))


@pytest.fixture(autouse=True, scope="module")
def leftovers() -> Iterator[None]:
    """Close and collect what a host left open, before its warnings are errors again."""
    yield
    with suppress(RuntimeError):
        asyncio.get_event_loop().close()
    asyncio.set_event_loop(None)
    gc.collect()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a photo. OpenAI's SDK finds a key there, and no host reports its use."""
    shutil.copy(ROOT / "examples/chelsea.png", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    for name in ("OPENAI_AGENTS_DISABLE_TRACING", "CREWAI_DISABLE_TELEMETRY", "OTEL_SDK_DISABLED"):
        monkeypatch.setenv(name, "true")
    return tmp_path


@pytest.fixture
def host(root: Path) -> Iterator[Any]:
    """Return a tool with its callbacks, and a server whose model uses it."""
    # Imported here, because they need an extra.
    from tests.agents.hosts.conversation import Events, Host
    from tests.agents.hosts.scripted_server import scripted_server

    events = Events()
    tool = ImageVariationTool(
        root_dir=root, engine="instant", fixed_size="256x256", max_n=4, callbacks=[events]
    )
    with scripted_server() as server:
        yield Host(tool, server, events, root)


@pytest.fixture
def thread() -> Iterator[contextvars.Context]:
    """Return a context whose calls of LangChain belong to a thread."""
    with set_config_context({"configurable": {"thread_id": "user-7"}}) as context:
        yield context
