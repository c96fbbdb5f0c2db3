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

Answer: TypeAlias = str | dict[str, Any] | tuple[str, dict[str, Any]]
"""A text, the arguments of a call of the first tool, or the name and the arguments of another."""


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

    def _next(self, tool: str) -> tuple[str, str, dict[str, Any]]:
        """Return the text of an answer, and the name and the arguments of its call, if any."""
        answer = self.script.pop(0)
        if isinstance(answer, str):
            return answer, "", {}
        return "", *(answer if isinstance(answer, tuple) else (tool, answer))

    async def openai(self, request: Request) -> Response:
        """Answer as `POST /v1/chat/completions` of OpenAI and of Mistral."""
        fields = await request.json()
        self.requests.append(fields)
        tools = fields.get("tools") or [{"function": {"name": ""}}]
        text, name, arguments = self._next(tools[0]["function"]["name"])
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if name:
            function = {"name": name, "arguments": json.dumps(arguments)}
            # Mistral's IDs have nine characters.
            call = {"id": f"call{len(self.requests):05}", "type": "function", "function": function}
            message = {"role": "assistant", "content": None, "tool_calls": [call]}
        reason = "tool_calls" if name else "stop"
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
        text, name, arguments = self._next(fields["tools"][0]["name"])
        block: dict[str, Any] = {"type": "text", "text": text}
        if name:
            identity = f"toolu_{len(self.requests)}"
            block = {"type": "tool_use", "id": identity, "name": name, "input": arguments}
        return _response(
            {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "model": "scripted",
                "content": [block],
                "stop_reason": "tool_use" if name else "end_turn",
                "stop_sequence": None,
                "usage": {"input_tokens": 1, "output_tokens": 1},
            }
        )

    async def gemini(self, request: Request) -> Response:
        """Answer as `POST /v1/models/...:generateContent`."""
        fields = await request.json()
        self.requests.append(fields)
        (declaration,) = fields["tools"][0]["functionDeclarations"]
        text, name, arguments = self._next(declaration["name"])
        part: dict[str, Any] = {"text": text}
        if name:
            part = {"functionCall": {"name": name, "args": arguments}}
        content = {"role": "model", "parts": [part]}
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
        text, name, arguments = self._next(fields["tools"][0]["function"]["name"])
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if name:
            message["tool_calls"] = [{"function": {"name": name, "arguments": arguments}}]
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
