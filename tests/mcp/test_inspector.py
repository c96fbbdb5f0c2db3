import json
from pathlib import Path
from typing import Any

import pytest

from tests.mcp.programs import needs_programs, run_program
from tests.mcp.serving import TOOL
from tests.mcp.stdio import COMMAND

pytestmark = [pytest.mark.slow, needs_programs]


def inspect(root: Path, method: str, *arguments: str) -> dict[str, Any]:
    """Return what the inspector prints about a request to the command."""
    server = [*COMMAND, "--root-dir", str(root), "--engine", "instant"]
    completed = run_program("mcp-inspector", "--cli", *server, "--method", method, *arguments)
    assert completed.returncode == 0, completed.stderr
    answer: dict[str, Any] = json.loads(completed.stdout)
    return answer


def test_the_inspector_accepts_the_answers(root: Path) -> None:
    """Another SDK accepts the schemas, the answers and the resources, as the standard demands."""
    tools = inspect(root, "tools/list")["tools"]
    assert [tool["name"] for tool in tools] == [TOOL, "list_images"]
    call = [f"--tool-name={TOOL}", "--tool-arg", "image=cat.png", "--tool-arg", "size=256x256"]
    answer = inspect(root, "tools/call", *call)
    assert [block["type"] for block in answer["content"]] == ["text", "image"]
    (image,) = answer["structuredContent"]["images"]
    (resource,) = inspect(root, "resources/list")["resources"]
    assert resource["uri"] == image["uri"]
    (content,) = inspect(root, "resources/read", "--uri", image["uri"])["contents"]
    assert (content["mimeType"], content["uri"]) == ("image/png", image["uri"])
