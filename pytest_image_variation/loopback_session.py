"""`LoopbackSession`: the loopback server of one test, with a journal and faults on demand."""

import asyncio
import json
import secrets
from functools import cached_property
from pathlib import Path

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.server import create_app
from pytest_image_variation.expectations import Match, ReceivedRequest, UnexpectedRequest
from pytest_image_variation.forms import Form
from pytest_image_variation.scenarios import Answer, AnswerSource
from pytest_image_variation.session import Session

__all__ = ["Apps", "LoopbackSession", "refuse_unexpected"]

API_KEY = "sk-image-variation-loopback"
"""A key for clients. The server accepts any key."""

_QUEUE = 10_000


class LoopbackSession(Session):
    """A test's session on the loopback server: it answers by scenario, and keeps a journal.

    Until a scenario is named, the app answers every request: legal ones with images, others with
    the error that explains what is wrong.
    """

    def __init__(self, apps: "Apps", base_url: str) -> None:
        super().__init__(base_url, API_KEY)
        self._apps = apps
        self._delay = 0.0

    def fail_next(self, name: str, *, times: int = 1) -> None:
        """Answer the next requests with a fault, whatever they contain.

        Args:
            name: A scenario whose kind is "fault", such as "rate_limit".
            times: How many times to play it.

        Raises:
            ValueError: If the fault does not exist, or `times` is not a positive integer.
        """
        self.expectations.fail_next(name, times)

    def delay(self, seconds: float) -> None:
        """Delay every response from now on. 0 ends the delay.

        Raises:
            ValueError: If `seconds` is not a number from 0 to 3600.
        """
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise ValueError(f"seconds must be a number, got {type(seconds).__name__}.")
        if not 0 <= seconds <= 3600:
            raise ValueError(f"seconds must be from 0 to 3600, got {seconds}.")
        self._delay = float(seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request: the ASGI entry point."""
        request = Request(scope, receive)
        try:
            body = await request.body()
        except ClientDisconnect:
            return
        form = Form.parse(request.headers.get("content-type"), body)
        received = ReceivedRequest.from_form(
            scope["method"], scope["path"], form, has_key="authorization" in request.headers
        )
        exchange = self.add_to_journal(received, request.headers)

        async def send_and_close(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                # A client that nobody closes would keep its socket open, and Python would warn.
                headers = [*message["headers"], (b"connection", b"close")]
                message = {**message, "headers": headers}
            await send(message)

        try:
            # GET and HEAD download images or list models, which no scenario expects.
            reads = received.method in ("GET", "HEAD")
            match = None if reads else self.expectations.match(received)
        except UnexpectedRequest as error:
            await refuse_unexpected(error)(scope, receive, send_and_close)
            return
        exchange.scenario = None if match is None else match.scenario.name
        if self._delay:
            await asyncio.sleep(self._delay)
        await self._answer(match, body, scope, receive, send_and_close)

    async def _answer(
        self, match: Match | None, body: bytes, scope: Scope, receive: Receive, send: Send
    ) -> None:
        answer = Answer() if match is None else match.answer
        if answer.source == "table":
            await _table_response(answer)(scope, receive, send)
            return
        app = self._apps[answer.source]
        if answer.error is not None and answer.error.code == "invalid_api_key":
            scope = _with_wrong_key(scope)
        receive = _replay_body(body, receive)
        if answer.nulls or answer.cut:
            start, content = await _collect(app, scope, receive)
            await _send_modified(answer, start, content, send)
        else:
            await app(scope, receive, send)


def _replay_body(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that starts with a body that was read before."""
    replayed = False

    async def receive_body_first() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_body_first


def _with_wrong_key(scope: Scope) -> Scope:
    """Return a request with a wrong key, even if it had none."""
    others = [pair for pair in scope["headers"] if pair[0] != b"authorization"]
    return {**scope, "headers": [*others, (b"authorization", b"Bearer wrong")]}


def refuse_unexpected(error: UnexpectedRequest) -> Response:
    """Return the response to a request that matches no scenario."""
    return Response(error.to_json(), 400, media_type="application/json")


def _table_response(answer: Answer) -> Response:
    headers = dict(answer.headers)
    if answer.error is not None:
        headers["x-request-id"] = f"req_{secrets.token_hex(16)}"
    return Response(answer.to_bytes(), answer.status, headers)


async def _collect(app: ASGIApp, scope: Scope, receive: Receive) -> tuple[Message, bytes]:
    """Return an app's response: the message that starts it, and the whole body."""
    start: Message = {}
    body = b""

    async def collect(message: Message) -> None:
        nonlocal start, body
        if message["type"] == "http.response.start":
            start = message
        else:
            body += message.get("body", b"")

    await app(scope, receive, collect)
    return start, body


async def _send_modified(answer: Answer, start: Message, body: bytes, send: Send) -> None:
    if start["status"] == 200 and answer.nulls:
        content = json.loads(body)
        content["data"] = [
            {"b64_json": None, "url": None, "revised_prompt": None, **entry}
            for entry in content["data"]
        ]
        body = json.dumps(content, indent=2).encode() + b"\n"
    headers = [pair for pair in start["headers"] if pair[0] != b"content-length"]
    length = (b"content-length", str(len(body)).encode())
    await send({**start, "headers": [*headers, length]})
    content = body[: len(body) // 2] if answer.cut else body
    # uvicorn closes the connection if the app returns before its response is complete.
    await send({"type": "http.response.body", "body": content, "more_body": answer.cut})


class Apps:
    """The apps behind the scenarios, each created on first use."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getitem__(self, source: AnswerSource) -> ASGIApp:
        match source:
            case "app with another key":
                return self._locked_app
            case "app with expired URLs":
                return self._expiring_app
        return self._open_app

    @cached_property
    def _open_app(self) -> ASGIApp:
        return create_app(InstantEngine(), queue=_QUEUE, store_dir=self._folder / "files")

    @cached_property
    def _locked_app(self) -> ASGIApp:
        key = secrets.token_hex()
        return create_app(
            InstantEngine(), queue=_QUEUE, store_dir=self._folder / "files", api_key=key
        )

    @cached_property
    def _expiring_app(self) -> ASGIApp:
        return create_app(
            InstantEngine(), queue=_QUEUE, store_dir=self._folder / "files", url_ttl=0.001
        )
