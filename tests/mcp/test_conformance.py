"""The protocol's own conformance suite, over HTTP, on a server that also has tools of a developer.

Scenarios that only test the library, such as elicitation and tasks, are left out.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from pytest_image_variation.samples import square_png
from tests.mcp.programs import needs_programs, run_program
from tests.mcp.serving import serve
from tests.server.serving import serving

from mcp import MCPError  # isort: skip  # not before the module that skips without it
from mcp.server.mcpserver import Context
from mcp_types import MISSING_REQUIRED_CLIENT_CAPABILITY

from langchain_image_variation.mcp.http import HOST, PATH, Gate, transport_security
from langchain_image_variation.mcp.server import ImageVariationMCPServer
from langchain_image_variation.server.run import listen

pytestmark = [pytest.mark.slow, needs_programs]

TOKEN = "a-token-of-a-test"


def add_what_the_suite_calls(server: ImageVariationMCPServer) -> None:
    """Give the server the tools and the resources that the scenarios use."""

    @server.tool()
    def test_simple_text() -> str:
        """Return a text."""
        return "This is a simple text response for testing."

    @server.tool()
    def test_error_handling() -> None:
        """Fail."""
        raise RuntimeError("This tool intentionally returns an error for testing.")

    @server.tool()
    async def test_tool_with_progress(context: Context[Any, Any]) -> str:
        """Report progress."""
        for progress in (0, 50, 100):
            await context.report_progress(progress, 100)
        return "Done."

    @server.tool()
    def test_missing_capability(context: Context[Any, Any]) -> None:
        """Refuse clients that cannot sample."""
        if context.client_capabilities is None or context.client_capabilities.sampling is None:
            needed: dict[str, Any] = {"requiredCapabilities": {"sampling": {}}}
            raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, "This tool needs sampling.", needed)

    @server.resource("test://static-text", mime_type="text/plain")
    def text() -> str:
        """Return a text."""
        return "This is the content of the static text resource."

    @server.resource("test://static-binary", mime_type="image/png")
    def binary() -> bytes:
        """Return an image."""
        return square_png(16)

    @server.resource("test://template/{id}/data", mime_type="application/json")
    def template(id: str) -> str:
        """Return an object."""
        return f'{{"id": "{id}", "templateTest": true, "data": "Data for ID: {id}"}}'


def send_token(app: Any) -> Any:
    """Return an app that adds the token to each request. The suite cannot send headers."""

    async def with_token(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            token = (b"authorization", f"Bearer {TOKEN}".encode())
            scope = {**scope, "headers": [*scope["headers"], token]}
        await app(scope, receive, send)

    return with_token


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the URL of a server."""
    server = serve(tmp_path_factory.mktemp("root"))
    add_what_the_suite_calls(server)
    with listen(HOST, 0) as listener:
        security = transport_security(listener.getsockname()[1])
        app = server.streamable_http_app(streamable_http_path=PATH, transport_security=security)
        with serving(send_token(Gate(app, TOKEN)), listener) as address:
            yield f"{address}{PATH}"


@pytest.mark.parametrize(
    "scenario",
    [
        "caching",
        "dns-rebinding-protection",
        "http-header-validation",
        "ping",
        "prompts-list",
        "resources-list",
        "resources-read-binary",
        "resources-read-text",
        "resources-templates-read",
        "sep-2164-resource-not-found",
        "server-initialize",
        "server-session-lifecycle",
        "server-sse-multiple-streams",
        "server-stateless",
        "tools-call-error",
        "tools-call-simple-text",
        "tools-call-with-progress",
        "tools-list",
    ],
)
def test_the_suite_finds_no_fault(url: str, scenario: str) -> None:
    """No check of the scenario fails."""
    completed = run_program("conformance", "server", "--url", url, "--scenario", scenario)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert "0 failed" in completed.stdout
