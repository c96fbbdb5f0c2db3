"""A program with models of langchain-openai and the tool, which has one variable for its server."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from langchain_image_variation.images.png import SquarePNG
from pytest_image_variation.samples import square_png
from tests.server.serving import serving
from tests.server.upstreams import WORDS, forwarding, forwarding_to_vendor

pytestmark = pytest.mark.skipif(
    find_spec("langchain_openai") is None, reason="'langchain_openai' is not installed"
)
STREAMS = """
import asyncio, json
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

model = ChatOpenAI(model="gpt-9")
embeddings = OpenAIEmbeddings(check_embedding_ctx_length=False)

async def stream():
    return [chunk.content async for chunk in model.astream("Hello")]

words = [[chunk.content for chunk in model.stream("Hello")], asyncio.run(stream())]
print(json.dumps([words, embeddings.embed_query("x")]))
"""
AGENT = """
import json
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI
from langchain_image_variation import ImageVariationTool

tool = ImageVariationTool(engine="variations", fixed_size="256x256", output_dir="output")
agent = create_agent(ChatOpenAI(model="gpt-9"), tools=[tool])
messages = agent.invoke({"messages": [{"role": "user", "content": "Vary photo.png."}]})["messages"]
print(json.dumps([[message.type, message.text] for message in messages]))
"""
BLOCKS = """
import json
from langchain_core.messages import AIMessage, HumanMessage
from langchain_openai import ChatOpenAI
from langchain_image_variation import ImageVariationTool

tool = ImageVariationTool(engine="instant", fixed_size="256x256", content="blocks")
call = {"name": tool.name, "args": {"image": "photo.png", "n": 2}, "id": "1", "type": "tool_call"}
messages = [HumanMessage("Vary it."), AIMessage("", tool_calls=[call]), tool.invoke(call)]
print(json.dumps(ChatOpenAI(model="gpt-9", use_responses_api=True).invoke(messages).text))
"""


def run_program(program: str, address: str, folder: Path) -> Any:
    """Run a program that finds its server in the environment, and return what it printed."""
    process = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, "OPENAI_BASE_URL": f"{address}/v1", "OPENAI_API_KEY": "sk-1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_models_stream_and_embed(tmp_path: Path) -> None:
    """`ChatOpenAI` streams the upstream's words, and `OpenAIEmbeddings` gets its numbers."""
    with forwarding_to_vendor(tmp_path) as (address, vendor):
        streams, numbers = run_program(STREAMS, address, tmp_path)
    assert [[word for word in words if word] for words in streams] == [[*WORDS]] * 2
    assert numbers == [0.25, -0.5]
    assert vendor.headers["authorization"] == "Bearer sk-1"


async def call_the_tool(request: Request) -> Response:
    """Be a model that calls the tool once, and is then done."""
    fields = await request.json()
    message: dict[str, Any] = {"role": "assistant", "content": "Here it is."}
    if fields["messages"][-1]["role"] != "tool":
        name = fields["tools"][0]["function"]["name"]
        call = {"name": name, "arguments": '{"image": "photo.png", "n": 2}'}
        calls = [{"id": "call_1", "type": "function", "function": call}]
        message = {"role": "assistant", "content": None, "tool_calls": calls}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    answer = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-9"}
    return JSONResponse({**answer, "choices": [choice]})


def test_one_variable_for_an_agent(tmp_path: Path) -> None:
    """An agent's chats go to the upstream, and its variations to the server."""
    (tmp_path / "photo.png").write_bytes(square_png(32))
    vendor = Starlette(routes=[Route("/v1/chat/completions", call_the_tool, methods=["POST"])])
    with serving(vendor) as upstream, forwarding(tmp_path, f"{upstream}/v1") as address:
        messages = run_program(AGENT, address, tmp_path)
    assert [kind for kind, _ in messages] == ["human", "ai", "tool", "ai"]
    assert messages[-1][1] == "Here it is."
    images = sorted((tmp_path / "output").rglob("*.png"))
    assert [SquarePNG(path.read_bytes()).side for path in images] == [256, 256]


def test_blocks_reach_the_responses_api(tmp_path: Path) -> None:
    """With `content="blocks"`, the Responses API gets each result as an image."""
    requests: list[dict[str, Any]] = []

    async def answer(request: Request) -> Response:
        requests.append(await request.json())
        text = {"type": "output_text", "text": "Two.", "annotations": []}
        message = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed"}
        return JSONResponse(
            {
                "id": "resp_1",
                "object": "response",
                "created_at": 1,
                "model": "gpt-9",
                "status": "completed",
                "output": [{**message, "content": [text]}],
                "parallel_tool_calls": True,
                "tool_choice": "auto",
                "tools": [],
            }
        )

    (tmp_path / "photo.png").write_bytes(square_png(32))
    vendor = Starlette(routes=[Route("/v1/responses", answer, methods=["POST"])])
    with serving(vendor) as address:
        assert run_program(BLOCKS, address, tmp_path) == "Two."
    output = requests[0]["input"][-1]["output"]
    assert [part["type"] for part in output] == ["input_text", "input_image", "input_image"]
    assert output[1]["image_url"].startswith("data:image/jpeg;base64,")
