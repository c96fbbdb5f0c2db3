"""Servers that the tests use as upstreams: one that answers well, and sockets that do not."""

import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from langchain_image_variation.server import create_app
from tests.server.serving import serving

WORDS = ("Two", " small", " cats")
CHAT_ID = "chatcmpl-1"
UPSTREAM_HEADERS = {"x-request-id": "req_upstream", "openai-processing-ms": "7"}

HOST_HEADERS = {
    "strict-transport-security": "max-age=31536000",
    "clear-site-data": '"storage"',
    "nel": '{"report_to": "nel", "max_age": 604800}',
    "report-to": '{"group": "nel", "max_age": 604800, "endpoints": [{"url": "https://a.example"}]}',
    "reporting-endpoints": 'default="https://a.example"',
    "service-worker-allowed": "/",
    "accept-ch": "Sec-CH-UA-Model",
    "critical-ch": "Sec-CH-UA-Model",
}
"""What the fake vendor tells browsers about its host."""


class FakeVendor:
    """The vendor's API below `/base/v1`, as far as the tests need it. Keeps what it was sent."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        """The target, the headers and the body of each request."""
        self.app = Starlette(
            routes=[
                Route("/base/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/base/v1/embeddings", self._embed, methods=["POST"]),
                Route("/base/v1/files", self._upload, methods=["POST"]),
                Route("/base/v1/models", self._list_models),
                Route("/base/v1/elsewhere", self._redirect),
                Route("/base/v1/limited", self._limit, methods=["GET", "POST"]),
                Route("/{path:path}", _Everything(self)),
            ]
        )

    @property
    def targets(self) -> list[str]:
        """The targets of all requests."""
        return [target for target, _, _ in self.requests]

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the latest request."""
        return self.requests[-1][1]

    async def keep(self, request: Request) -> bytes:
        """Keep a request, and return its body."""
        body = await request.body()
        query = request.scope["query_string"].decode()
        target = request.scope["raw_path"].decode() + (f"?{query}" if query else "")
        self.requests.append((target, dict(request.headers), body))
        return body

    async def _chat(self, request: Request) -> Response:
        await self.keep(request)
        fields = await request.json()

        def chunk(delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            return {
                "id": CHAT_ID,
                "object": "chat.completion.chunk",
                "created": 1,
                "model": fields["model"],
                "choices": [choice],
            }

        async def events() -> AsyncIterator[bytes]:
            for word in WORDS:
                yield b"data: " + JSONResponse(chunk({"content": word})).body + b"\n\n"
            yield b"data: " + JSONResponse(chunk({}, "stop")).body + b"\n\n"
            yield b"data: [DONE]\n\n"

        if fields.get("stream"):
            return StreamingResponse(
                events(), media_type="text/event-stream", headers=UPSTREAM_HEADERS
            )
        message = {"role": "assistant", "content": "".join(WORDS)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = {**chunk({}), "object": "chat.completion", "choices": [choice]}
        body["usage"] = {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}
        return JSONResponse(body, headers=UPSTREAM_HEADERS)

    async def _embed(self, request: Request) -> Response:
        await self.keep(request)
        vector = {"object": "embedding", "index": 0, "embedding": [0.25, -0.5]}
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        return JSONResponse({"object": "list", "data": [vector], "model": "m", "usage": usage})

    async def _upload(self, request: Request) -> Response:
        body = await self.keep(request)
        file = {"id": "file-1", "object": "file", "bytes": len(body), "filename": "a.jsonl"}
        return JSONResponse({**file, "created_at": 1, "purpose": "batch", "status": "processed"})

    async def _list_models(self, request: Request) -> Response:
        await self.keep(request)
        models = [{"id": name, "object": "model"} for name in ("gpt-9", "dall-e-2")]
        return JSONResponse({"object": "list", "data": models})

    async def _redirect(self, request: Request) -> Response:
        await self.keep(request)
        return RedirectResponse("http://127.0.0.1:9/stolen", 307)

    async def _limit(self, request: Request) -> Response:
        await self.keep(request)
        error = {"message": "Slow down.", "type": "requests", "param": None, "code": "too_fast"}
        headers = {
            **UPSTREAM_HEADERS,
            "retry-after": "9",
            "set-cookie": "__cf_bm=1",
            "alt-svc": 'h3=":443"',
            "access-control-allow-origin": "*",
            **HOST_HEADERS,
            "connection": "x-hop",
            "x-hop": "1",
        }
        return JSONResponse({"error": error}, 429, headers=headers)


class _Everything:
    """Answers every method with what it was sent, as an ASGI app."""

    def __init__(self, vendor: FakeVendor) -> None:
        self._vendor = vendor

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        await self._vendor.keep(request)
        answer = {"method": request.method, "target": self._vendor.targets[-1]}
        await JSONResponse(answer)(scope, receive, send)


@contextmanager
def forwarding(folder: Path, upstream: str, **settings: Any) -> Iterator[str]:
    """Serve an app with this upstream, and yield its address."""
    app = create_app("instant", upstream=upstream, store_dir=folder / "store", **settings)
    with serving(app) as address:
        yield address


@contextmanager
def forwarding_to_vendor(folder: Path, **settings: Any) -> Iterator[tuple[str, FakeVendor]]:
    """Serve an app whose upstream is a fake vendor, and yield the app's address and the vendor."""
    vendor = FakeVendor()
    with (
        serving(vendor.app) as upstream,
        forwarding(folder, f"{upstream}/base/v1", **settings) as address,
    ):
        yield address, vendor


@contextmanager
def raw_upstream(
    answer: Callable[[socket.socket], None],
    *,
    heads: list[bytes] | None = None,
    tls: ssl.SSLContext | None = None,
) -> Iterator[str]:
    """Listen during the block, and yield the URL. Each connection gets a thread.

    Args:
        answer: Called with the connection once the head of a request has been read.
        heads: Gets the head of each request.
        tls: How to speak TLS. By default, the server speaks plain HTTP.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connections: list[socket.socket] = []

        def wrap(connection: socket.socket) -> socket.socket:
            return tls.wrap_socket(connection, server_side=True) if tls else connection

        def handle(connection: socket.socket) -> None:
            connection.settimeout(30)
            with suppress(OSError), wrap(connection) as connection:
                connections.append(connection)
                head = b""
                while b"\r\n\r\n" not in head:
                    data = connection.recv(1)
                    if not data:
                        return
                    head += data
                if heads is not None:
                    heads.append(head)
                answer(connection)

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=handle, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            scheme = "http" if tls is None else "https"
            yield f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/v1"
        finally:
            # Otherwise `accept` goes on.
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            for connection in connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


def exchange(address: str, request: bytes) -> bytes:
    """Send bytes to a server, and return all that it answers until it closes the connection."""
    host, _, port = address.rpartition("/")[2].partition(":")
    answer = b""
    with socket.create_connection((host, int(port)), timeout=30) as client:
        client.sendall(request)
        while data := client.recv(65536):
            answer += data
    return answer
