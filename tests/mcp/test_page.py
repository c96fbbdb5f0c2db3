import argparse
import inspect
import json
import re
from typing import Any, get_args

import pytest

from langchain_image_variation import cli
from langchain_image_variation.agents.arguments import Exposable
from langchain_image_variation.cli.mcp import add_mcp
from langchain_image_variation.mcp.arguments import MAX_SEED
from langchain_image_variation.mcp.engine_threads import MAX_ENGINE_CALLS
from langchain_image_variation.mcp.thumbnails import MAX_BASE64, Thumbnail
from tests.docs.pages import find_page, table
from tests.mcp.serving import TOOL, serve

from mcp import Client  # isort: skip  # not before the module that skips without it
from mcp.server.streamable_http_manager import DEFAULT_MAX_SESSIONS, DEFAULT_SESSION_IDLE_TIMEOUT
from mcp.server.transport_security import DEFAULT_MAX_REQUEST_BODY_SIZE

from langchain_image_variation.mcp.http import HOST, IDLE_SECONDS, MIN_TOKEN_LENGTH, PATH
from langchain_image_variation.mcp.resources import MAX_RESOURCE_BYTES, MAX_RESOURCES
from langchain_image_variation.mcp.server import MAX_LISTED_IMAGES, ImageVariationMCPServer

PAGE = find_page("docs/mcp.md")
CONFIGURATIONS = [json.loads(block.text) for block in PAGE.blocks if block.language == "json"]


def test_the_limits_of_the_mcp_server_match_the_code() -> None:
    """The page on security states each limit of the MCP server with the value in the code."""
    limits = table("docs/security.md", "| limit of the MCP server | value | option |")
    idle = f"{DEFAULT_SESSION_IDLE_TIMEOUT:,} idle seconds"
    for limit, value in {
        "characters of base64 of the images of an answer": f"{MAX_BASE64:,} | `--max-thumbnail-",
        "bytes of a resource": f"{MAX_RESOURCE_BYTES:,} |",
        "listed resources": f"{MAX_RESOURCES} |",
        "listed files, and listed results": f"{MAX_LISTED_IMAGES} each |",
        "largest seed": f"{MAX_SEED:,} |",
        "bytes of a request over HTTP": f"{DEFAULT_MAX_REQUEST_BODY_SIZE:,} |",
        "sessions over HTTP": f"{DEFAULT_MAX_SESSIONS:,}, which end after {idle} |",
        "calls at once of hosted engines, and of others": f"{MAX_ENGINE_CALLS} each |",
        "seconds for the head of a request over HTTP": f"{IDLE_SECONDS} |",
        "shortest token": f"{MIN_TOKEN_LENGTH} characters | `IMAGE_VARIATION_MCP_TOKEN`",
    }.items():
        assert limits.pop(limit).startswith(f"| {limit} | {value}")
    assert not limits
    for figure in (
        f"{MAX_BASE64:,} characters",
        f"{MAX_RESOURCE_BYTES // 2**20} MiB",
        f"newest {MAX_RESOURCES} results",
        f"At most {MAX_ENGINE_CALLS} calls of hosted engines and {MAX_ENGINE_CALLS} of others",
        f"within {IDLE_SECONDS} seconds",
        f"at least {MIN_TOKEN_LENGTH} characters",
        f"http://{HOST}:8001{PATH}",
    ):
        assert figure in PAGE.text


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=range(len(CONFIGURATIONS)))
def test_the_configurations_have_options_of_the_command(configuration: dict[str, Any]) -> None:
    """The arguments in each host's configuration are those of the command."""
    (servers,) = configuration.values()
    (server,) = servers.values()
    if server.get("type") == "http":
        assert server["url"] == f"http://{HOST}:8001{PATH}"
        assert server["headers"] == {"Authorization": "Bearer YOUR_TOKEN"}
        return
    assert server["command"] == "/path/to/image-variation"
    arguments = cli._parse(server["args"])
    assert (arguments.run.__name__, arguments.http) == ("_run_mcp", False)


def test_the_commands_have_options_of_the_command() -> None:
    """Each command of the page that starts a server can be parsed."""
    commands = re.findall(r"image-variation (mcp --[^\n]+)", PAGE.text)
    assert len(commands) >= 3
    for command in commands:
        assert cli._parse(command.split()).root_dir


def test_the_options_are_those_of_the_server() -> None:
    """The command offers what the server takes, and has the same defaults."""
    parser = argparse.ArgumentParser()
    add_mcp(parser)
    options = {action.dest: action for action in parser._actions}
    assert options["thumbnail"].choices == get_args(Thumbnail)
    # The server exposes the strength to every model.
    assert {"strength", *(options["expose"].choices or ())} == {*get_args(Exposable)}
    parameters = inspect.signature(ImageVariationMCPServer).parameters
    assert options["thumbnail"].default == parameters["thumbnail"].default
    assert parameters["max_thumbnail_base64"].default == MAX_BASE64
    assert f"(default: {MAX_BASE64})" in (options["max_thumbnail_base64"].help or "")


async def test_the_table_of_tools_is_complete(tmp_path: Any) -> None:
    """The page lists each tool with its arguments, in order."""
    rows = table("docs/mcp.md", "| tool | arguments |")
    async with Client(serve(tmp_path, "local")) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    arguments = ", ".join(f"`{name}`" for name in tools[TOOL].input_schema["properties"])
    assert rows == {
        f"`{TOOL}`": f"| `{TOOL}` | {arguments} |",
        "`list_images`": "| `list_images` | none |",
    }
