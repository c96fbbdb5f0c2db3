"""A server that langchain-mcp-adapters makes from the tool."""

from typing import Any

import pytest

from tests.agents.hosts.conversation import BOUNDS, CALLS, Host

adapters = pytest.importorskip("langchain_mcp_adapters.tools")
memory = pytest.importorskip("mcp.shared.memory")


async def test_a_client_sees_what_a_model_sees(host: Host) -> None:
    """A client of MCP sees the model's arguments, and gets the texts that a model gets."""
    server = host.run_example("langchain-mcp-adapters", None)["server"]
    async with memory.create_connected_server_and_client_session(server._mcp_server) as client:
        (tool,) = (await client.list_tools()).tools
        assert (tool.name, tool.description) == (host.tool.name, host.tool.description)
        assert [*tool.inputSchema["properties"]] == ["image", "n"]
        assert tool.inputSchema["properties"]["n"].items() >= BOUNDS.items()
        results: list[Any] = [
            await client.call_tool(tool.name, call) for calls in CALLS for call in calls
        ]
    assert not any(result.isError for result in results)
    texts = [block.text for result in results for block in result.content]
    host.check_texts(" ".join(texts))


def test_the_tool_itself_is_refused(host: Host) -> None:
    """`to_fastmcp` refuses a tool that LangGraph passes a runtime to, so the page wraps it."""
    with pytest.raises(NotImplementedError):
        adapters.to_fastmcp(host.tool)
