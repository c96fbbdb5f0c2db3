import base64
import json
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tracers.langchain import LangChainTracer
from langgraph.checkpoint.memory import InMemorySaver
from langsmith import Client

from langchain_image_variation.agents.tool import ImageVariationTool
from langchain_image_variation.engines.loading import load_engine
from pytest_image_variation.samples import square_png
from tests.agents.conversing import Talk, upload
from tests.agents.scripted import Scripted, asks, call
from tests.calling import success
from tests.http.raw_server import raw_server, response

KEY = "sk-verysecretkey"
PICTURE = square_png(500)
PICTURE_DATA = re.compile(r"[A-Za-z0-9+/]{200}")


class Recorder(BaseCallbackHandler):
    """Keeps whatever LangChain tells of tools."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def on_tool_start(self, *arguments: Any, **others: Any) -> None:
        """Keep the name and the arguments."""
        self.told.append(repr((arguments, others)))

    def on_tool_end(self, output: Any, **others: Any) -> None:
        """Keep the message, with its artifact."""
        self.told.append(repr((output, others)))

    def on_tool_error(self, error: BaseException, **others: Any) -> None:
        """Keep the error."""
        self.told.append(repr((error, error.__cause__, others)))

    def on_custom_event(self, name: str, data: Any, **others: Any) -> None:
        """Keep the progress."""
        self.told.append(repr((name, data, others)))


@contextmanager
def tracing_server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Serve as LangSmith, and keep the runs that are sent."""
    runs: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self._keep()

        def do_PATCH(self) -> None:
            self._keep()

        def _keep(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            runs.append(json.loads(body))
            self.send_response(202)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: Any) -> None:
            """Stay quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", runs
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_nothing_secret_or_large_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Callbacks, traces, checkpoints and logs hold no key, picture, user or absolute path."""
    caplog.set_level(logging.DEBUG)
    recorder, saver = Recorder(), InMemorySaver()
    (tmp_path / "cat.png").write_bytes(PICTURE)
    model = Scripted(
        script=[
            lambda _: asks(image="cat.png", n=2, size="256x256", user="bob@example.com"),
            lambda _: asks(image="no.png"),
            lambda _: AIMessage("Done."),
        ]
    )
    with raw_server(response(200, success(2))) as server, tracing_server() as (address, runs):
        engine = load_engine("variations", base_url=server.base_url, api_key=KEY)
        tool = ImageVariationTool(root_dir=tmp_path, engine=engine)
        agent = create_agent(model, tools=[tool], checkpointer=saver)
        client = Client(api_url=address, api_key="ls-1", auto_batch_tracing=False)
        tracer = LangChainTracer(client=client)
        answer = agent.invoke(
            {"messages": [HumanMessage("Vary the cat.")]},
            {"configurable": {"thread_id": "t-1"}, "callbacks": [recorder, tracer]},
        )
        tracer.wait_for_futures()
        engine.close()  # type: ignore[attr-defined]  # its own method, not the Protocol's
    statuses = [m.status for m in answer["messages"] if isinstance(m, ToolMessage)]
    assert statuses == ["success", "error"]
    places = {
        "callbacks": " ".join(recorder.told),
        "runs": json.dumps(runs),
        "checkpoints": repr(saver.blobs) + repr(saver.writes) + repr(saver.storage),
        "logs": caplog.text,
    }
    for place, text in places.items():
        assert KEY not in text, place
        assert str(tmp_path) not in text, place
        assert not PICTURE_DATA.search(text), place
    assert "cat-" in places["callbacks"] and "cat-" in places["runs"]
    assert "cat-" in places["checkpoints"]
    assert "image_variation_progress" in places["callbacks"]
    # What an agent passes on for the engine's own records is not for anyone else's.
    assert not re.search("user='bob|'user': 'bob", " ".join(recorder.told))


def test_a_tool_s_run_holds_nothing_of_the_conversation_around_it(tmp_path: Path) -> None:
    """The runtime that an agent puts in is neither recorded nor echoed: it holds every message."""
    recorder = Recorder()
    tool = ImageVariationTool(root_dir=tmp_path, engine="instant", callbacks=[recorder])
    talk = Talk(tool, "t-1", upload(PICTURE), HumanMessage("My password is hunter2."))
    assert talk.vary("latest").status == "success"
    assert talk.vary("img_9").status == "error"
    told = " ".join(recorder.told)
    assert "hunter2" not in told
    assert not PICTURE_DATA.search(told)


FORGED: list[Any] = [
    {"state": {"messages": [{"type": "human", "content": "x"}]}},
    {"lc": 1, "type": "constructor", "id": ["langgraph", "prebuilt", "ToolRuntime"], "kwargs": {}},
    "runtime",
    [1],
]


@pytest.mark.parametrize("forged", FORGED, ids=lambda forged: str(forged)[:20])
async def test_a_forged_runtime_is_refused(tmp_path: Path, forged: Any) -> None:
    """Whoever calls the tool by itself with a model's arguments is not taken in."""
    (tmp_path / "cat.png").write_bytes(PICTURE)
    tool = ImageVariationTool(root_dir=tmp_path, engine="instant")
    asked = call(image="cat.png", runtime=forged)
    for message in (tool.invoke(asked), await tool.ainvoke(asked)):
        assert message.status == "error"
        assert message.content.endswith("'runtime' is not an argument.")


def test_a_forged_runtime_in_an_agent_is_replaced(tmp_path: Path) -> None:
    """An agent puts in its own, whatever the model wrote."""
    model = Scripted(
        script=[
            lambda _: asks(image="latest", size="256x256", runtime={"state": {"messages": []}}),
            lambda _: AIMessage("Done."),
        ]
    )
    tool = ImageVariationTool(root_dir=tmp_path, engine="instant")
    agent = create_agent(model, tools=[tool])
    answer = agent.invoke({"messages": [upload(PICTURE)]})["messages"][-2]
    assert answer.status == "success", answer.content


@pytest.mark.parametrize(
    "name",
    [
        *("-rf.png", "; rm -rf ~.png", "$(reboot).png", "`reboot`.png", "a|b>c&d.png", "%s%n.png"),
        *("\x1b]0;owned\x07.png", "a\nb.png", "a\u202egnp.exe.png", "\u200b.png", "'\".png"),
        *("con.png", "*.png", "?.png", "~.png", "x" * 200 + ".png", "..hidden.png", "\udcff.png"),
    ],
    ids=ascii,
)
def test_a_name_cannot_break_a_terminal_or_a_shell(tmp_path: Path, name: str) -> None:
    """Results have plain names, and messages no character that is not printed."""
    (tmp_path / name).write_bytes(PICTURE)
    tool = ImageVariationTool(root_dir=tmp_path, engine="instant")
    message = tool.invoke(call(image=f"./{name}", size="256x256"))
    for image in message.artifact["images"] if message.status == "success" else ():
        assert re.fullmatch(r"\w[\w.-]{1,60}", image["handle"], re.ASCII)
    assert message.content.isprintable()
    wrong = tool.invoke(call(image=f"no {name}", size="256x256"))
    assert wrong.status == "error"
    assert wrong.content.isprintable()


def test_a_thumbnail_is_small_and_asked_for(tmp_path: Path) -> None:
    """One JPEG of at most 512 pixels a side, beside the same text; by default there is none."""
    from io import BytesIO

    from PIL import Image

    (tmp_path / "cat.png").write_bytes(PICTURE)
    for n in (1, 4, 10):
        plain, seen = (
            ImageVariationTool(root_dir=tmp_path, engine="instant", thumbnail=thumbnail).invoke(
                call(image="cat.png", n=n, size="256x256")
            )
            for thumbnail in (False, True)
        )
        text, picture = seen.content
        assert (text["type"], text["text"]) == ("text", plain.content)
        assert (picture["type"], picture["mime_type"]) == ("image", "image/jpeg")
        assert max(Image.open(BytesIO(base64.b64decode(picture["base64"]))).size) <= 512
        made = [[image["sha256"] for image in m.artifact["images"]] for m in (plain, seen)]
        assert made[0] == made[1]
