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
PNG = square_png(500)
IMAGE_DATA = re.compile(r"[A-Za-z0-9+/]{200}")


class Recorder(BaseCallbackHandler):
    """Keeps everything that LangChain reports about tools."""

    def __init__(self) -> None:
        self.records: list[str] = []

    def on_tool_start(self, *arguments: Any, **others: Any) -> None:
        """Keep the name and the arguments."""
        self.records.append(repr((arguments, others)))

    def on_tool_end(self, output: Any, **others: Any) -> None:
        """Keep the message, with its artifact."""
        self.records.append(repr((output, others)))

    def on_tool_error(self, error: BaseException, **others: Any) -> None:
        """Keep the error."""
        self.records.append(repr((error, error.__cause__, others)))

    def on_custom_event(self, name: str, data: Any, **others: Any) -> None:
        """Keep the progress."""
        self.records.append(repr((name, data, others)))


@contextmanager
def tracing_server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Act as a LangSmith server, and keep the runs that it gets."""
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
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", runs
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_no_record_contains_secrets_or_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Callbacks, traces, checkpoints and logs have no key, image, user or absolute path."""
    caplog.set_level(logging.DEBUG)
    recorder, saver = Recorder(), InMemorySaver()
    (tmp_path / "cat.png").write_bytes(PNG)
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
    records = {
        "callbacks": " ".join(recorder.records),
        "runs": json.dumps(runs),
        "checkpoints": repr(saver.blobs) + repr(saver.writes) + repr(saver.storage),
        "logs": caplog.text,
    }
    for kind, text in records.items():
        assert KEY not in text, kind
        assert str(tmp_path) not in text, kind
        assert not IMAGE_DATA.search(text), kind
    assert "cat-" in records["callbacks"] and "cat-" in records["runs"]
    assert "cat-" in records["checkpoints"]
    assert "image_variation_progress" in records["callbacks"]
    # An agent passes the user on only to the engine.
    assert not re.search("user='bob|'user': 'bob", " ".join(recorder.records))


def test_a_run_contains_no_conversation(tmp_path: Path) -> None:
    """The injected runtime, with all its messages, is neither recorded nor repeated."""
    recorder = Recorder()
    tool = ImageVariationTool(root_dir=tmp_path, engine="instant", callbacks=[recorder])
    talk = Talk(tool, "t-1", upload(PNG), HumanMessage("My password is hunter2."))
    assert talk.vary("latest").status == "success"
    assert talk.vary("img_99999999").status == "error"
    records = " ".join(recorder.records)
    assert "hunter2" not in records
    assert not IMAGE_DATA.search(records)


FORGED: list[Any] = [
    {"state": {"messages": [{"type": "human", "content": "x"}]}},
    {"lc": 1, "type": "constructor", "id": ["langgraph", "prebuilt", "ToolRuntime"], "kwargs": {}},
    "runtime",
    [1],
]


@pytest.mark.parametrize("forged", FORGED, ids=lambda forged: str(forged)[:20])
async def test_a_forged_runtime_is_refused(tmp_path: Path, forged: Any) -> None:
    """A program may pass a model's arguments on, since a forged runtime is refused."""
    (tmp_path / "cat.png").write_bytes(PNG)
    tool = ImageVariationTool(root_dir=tmp_path, engine="instant")
    tool_call = call(image="cat.png", runtime=forged)
    for message in (tool.invoke(tool_call), await tool.ainvoke(tool_call)):
        assert message.status == "error"
        assert message.content.endswith(
            "'runtime' is not an argument; the arguments are image, n and size."
        )


def test_a_forged_runtime_in_an_agent_is_replaced(tmp_path: Path) -> None:
    """The agent injects its own runtime, whatever the model wrote."""
    model = Scripted(
        script=[
            lambda _: asks(image="latest", size="256x256", runtime={"state": {"messages": []}}),
            lambda _: AIMessage("Done."),
        ]
    )
    tool = ImageVariationTool(root_dir=tmp_path, engine="instant")
    agent = create_agent(model, tools=[tool])
    answer = agent.invoke({"messages": [upload(PNG)]})["messages"][-2]
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
def test_names_are_safe_in_terminals_and_shells(tmp_path: Path, name: str) -> None:
    """Results have plain names, and messages contain only printable characters."""
    (tmp_path / name).write_bytes(PNG)
    tool = ImageVariationTool(root_dir=tmp_path, engine="instant")
    message = tool.invoke(call(image=f"./{name}", size="256x256"))
    for image in message.artifact["images"] if message.status == "success" else ():
        assert re.fullmatch(r"\w[\w.-]{1,60}", image["handle"], re.ASCII)
    assert message.content.isprintable()
    error_answer = tool.invoke(call(image=f"no {name}", size="256x256"))
    assert error_answer.status == "error"
    assert error_answer.content.isprintable()


def test_a_thumbnail_is_small_and_optional(tmp_path: Path) -> None:
    """A thumbnail is a JPEG of at most 512 pixels a side, and by default there is none."""
    from io import BytesIO

    from PIL import Image

    (tmp_path / "cat.png").write_bytes(PNG)
    for n in (1, 4, 10):
        without_thumbnail, with_thumbnail = (
            tool.invoke(call(image="cat.png", n=n, size="256x256"))
            for tool in (
                ImageVariationTool(root_dir=tmp_path, engine="instant"),
                ImageVariationTool(root_dir=tmp_path, engine="instant", content="thumbnail"),
            )
        )
        text, image_block = with_thumbnail.content
        assert (text["type"], text["text"]) == ("text", without_thumbnail.content)
        assert (image_block["type"], image_block["mime_type"]) == ("image", "image/jpeg")
        assert max(Image.open(BytesIO(base64.b64decode(image_block["base64"]))).size) <= 512
        plain_hashes, hashes = (
            [image["sha256"] for image in message.artifact["images"]]
            for message in (without_thumbnail, with_thumbnail)
        )
        assert plain_hashes == hashes
