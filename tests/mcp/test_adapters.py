import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.mcp.serving import TOOL, serve
from tests.mcp.stdio import COMMAND

pytestmark = pytest.mark.slow

CAT = {"image": "cat.png", "n": 2, "size": "256x256"}


async def langchain_tools(target: Any) -> AsyncIterator[dict[str, Any]]:
    """Yield the tools that LangChain makes of a server."""
    mcp = pytest.importorskip("langchain.mcp", reason="langchain[mcp] is not installed")
    async with mcp.MCPAdapter(target) as adapter:
        yield {tool.name: tool for tool in await adapter.list_tools()}


@pytest.mark.parametrize("kind", ["object", "command"])
async def test_langchain_uses_the_server(root: Path, kind: str) -> None:
    """LangChain's MCPAdapter gets text, one image and the artifact, and errors as its own."""
    command = {
        "command": COMMAND[0],
        "args": [*COMMAND[1:], "--root-dir", str(root), "--engine", "instant"],
    }
    target = serve(root) if kind == "object" else {"mcpServers": {"images": command}}
    async for tools in langchain_tools(target):
        names = {name.removeprefix("images_"): tool for name, tool in tools.items()}
        tool = names[TOOL]
        assert {*tool.tool_call_schema["properties"]} >= {"image", "n", "size", "engine"}
        call = {"type": "tool_call", "id": "1", "name": tool.name, "args": CAT}
        message = await tool.ainvoke(call)
        kinds = [block["type"] for block in message.content_blocks]
        assert (message.status, kinds) == ("success", ["text", "image"])
        base64.b64decode(message.content_blocks[1]["base64"], validate=True)
        assert len(json.dumps(message.artifact)) < 2_000
        message = await tool.ainvoke({**call, "args": {"image": "dog.png"}})
        assert message.status == "error"
        assert "Files: cat.png." in message.text


async def test_llama_index_uses_the_server(root: Path) -> None:
    """LlamaIndex's McpToolSpec makes functions of the tools, with their arguments."""
    package = pytest.importorskip(
        "llama_index.tools.mcp", reason="llama-index-tools-mcp is not installed"
    )
    client = package.BasicMCPClient(
        COMMAND[0], args=[*COMMAND[1:], "--root-dir", str(root), "--engine", "instant"]
    )
    tools = await package.McpToolSpec(client=client).to_tool_list_async()
    functions = {tool.metadata.get_name(): tool for tool in tools}
    assert {*functions} == {TOOL, "list_images"}
    schema = json.loads(functions[TOOL].metadata.fn_schema_str)
    assert {*schema["properties"]} >= {"image", "n", "size", "engine"}
    output = await functions[TOOL].acall(**CAT)
    assert "Made 2 variations of cat" in str(output)
    output = await functions[TOOL].acall(image="dog.png")
    assert "Files: cat.png." in str(output)
