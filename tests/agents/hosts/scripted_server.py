"""A server of chat models that follows a script, in the wire formats of five vendors."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.server.serving import serving

Arguments: TypeAlias = dict[str, Any]
Answer: TypeAlias = str | list[Arguments] | tuple[str, Arguments]
"""A text, the arguments of parallel calls of the first tool, or the name and those of another."""


class ScriptedServer:
    """Answers each request with the next line of a script, and keeps the requests.

    Attributes:
        script: What it still has to answer.
        requests: The JSON of each request, as it came over the wire.
        address: Where it listens.
    """

    def __init__(self) -> None:
        self.script: list[Answer] = []
        self.requests: list[dict[str, Any]] = []
        self.address = ""

    @property
    def conversation(self) -> str:
        """The messages of the last request as JSON, and with them all results of tools."""
        request = self.requests[-1]
        return json.dumps(request.get("messages", request.get("contents")), ensure_ascii=False)

    def _next(self, tool: str) -> tuple[str, list[tuple[str, Arguments]]]:
        """Return the text of an answer, and the names and the arguments of its calls."""
        answer = self.script.pop(0)
        if isinstance(answer, str):
            return answer, []
        calls = [answer] if isinstance(answer, tuple) else [(tool, item) for item in answer]
        return "", calls

    async def openai(self, request: Request) -> Response:
        """Answer as `POST /v1/chat/completions` of OpenAI and of Mistral."""
        fields = await request.json()
        self.requests.append(fields)
        tools = fields.get("tools") or [{"function": {"name": ""}}]
        text, calls = self._next(tools[0]["function"]["name"])
        message: dict[str, Any] = {"role": "assistant", "content": text or None}
        if calls:
            message["tool_calls"] = [
                {
                    # Mistral's IDs have nine characters.
                    "id": f"call{len(self.requests):04}{number}",
                    "type": "function",
                    "function": {"name": name, "arguments": json.dumps(arguments)},
                }
                for number, (name, arguments) in enumerate(calls)
            ]
        reason = "tool_calls" if calls else "stop"
        return _response(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1,
                "model": "scripted",
                "choices": [{"index": 0, "message": message, "finish_reason": reason}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
            }
        )

    async def anthropic(self, request: Request) -> Response:
        """Answer as `POST /v1/messages`."""
        fields = await request.json()
        self.requests.append(fields)
        text, calls = self._next(fields["tools"][0]["name"])
        blocks: list[dict[str, Any]] = [
            {
                "type": "tool_use",
                "id": f"toolu_{len(self.requests)}_{number}",
                "name": name,
                "input": arguments,
            }
            for number, (name, arguments) in enumerate(calls)
        ]
        return _response(
            {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "model": "scripted",
                "content": blocks or [{"type": "text", "text": text}],
                "stop_reason": "tool_use" if calls else "end_turn",
                "stop_sequence": None,
                "usage": {"input_tokens": 1, "output_tokens": 1},
            }
        )

    async def gemini(self, request: Request) -> Response:
        """Answer as `POST /v1/models/...:generateContent`."""
        fields = await request.json()
        self.requests.append(fields)
        (declaration,) = fields["tools"][0]["functionDeclarations"]
        text, calls = self._next(declaration["name"])
        parts: list[dict[str, Any]] = [
            {"functionCall": {"name": name, "args": arguments}} for name, arguments in calls
        ]
        content = {"role": "model", "parts": parts or [{"text": text}]}
        usage = {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2}
        return _response(
            {
                "candidates": [{"content": content, "finishReason": "STOP", "index": 0}],
                "usageMetadata": usage,
            }
        )

    async def ollama(self, request: Request) -> Response:
        """Answer as `POST /api/chat`, in one line of a stream."""
        fields = await request.json()
        self.requests.append(fields)
        text, calls = self._next(fields["tools"][0]["function"]["name"])
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if calls:
            message["tool_calls"] = [
                {"function": {"name": name, "arguments": arguments}} for name, arguments in calls
            ]
        answer = {"model": "scripted", "created_at": "2026-01-01T00:00:00Z", "message": message}
        return _response({**answer, "done": True, "done_reason": "stop"}, newline=True)


def _response(fields: dict[str, Any], *, newline: bool = False) -> Response:
    """Return an answer and close the connection, since few hosts do."""
    text = json.dumps(fields) + "\n" * newline
    return Response(text, media_type="application/json", headers={"connection": "close"})


@contextmanager
def scripted_server() -> Iterator[ScriptedServer]:
    """Serve a script on loopback during the block."""
    server = ScriptedServer()
    routes = [
        Route("/v1/chat/completions", server.openai, methods=["POST"]),
        Route("/v1/messages", server.anthropic, methods=["POST"]),
        Route("/v1/models/{call}", server.gemini, methods=["POST"]),
        Route("/api/chat", server.ollama, methods=["POST"]),
    ]
    with serving(Starlette(routes=routes)) as server.address:
        yield server
