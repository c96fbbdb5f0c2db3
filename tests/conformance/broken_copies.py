"""Servers that the kit checks without a socket: any ASGI app, and broken copies of ours."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal

from pytest_image_variation.conformance.rule import SkipCheck, Violation
from pytest_image_variation.conformance.server import Server
from pytest_image_variation.conformance.server_probe import ServerProbe
from pytest_image_variation.conformance.server_tests import SERVER_RULES
from pytest_image_variation.forms import Form

KEY = "sk-in-process"


class InProcess(httpx.BaseTransport):
    """Sends requests to an ASGI app from any thread."""

    def __init__(self, app: Any, portal: BlockingPortal) -> None:
        self._transport = httpx.ASGITransport(app)
        self._portal = portal

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Return the app's response."""
        request.read()
        return self._portal.call(self._send, request)

    async def _send(self, request: httpx.Request) -> httpx.Response:
        response = await self._transport.handle_async_request(request)
        content = await response.aread()
        return httpx.Response(response.status_code, headers=response.headers, content=content)


@contextmanager
def in_process(app: Any) -> Iterator[InProcess]:
    """Serve an app while the block runs."""
    with start_blocking_portal() as portal:
        yield InProcess(app, portal)


@dataclass(frozen=True)
class Received:
    """A request, with its form and headers."""

    request: httpx.Request
    form: Form
    headers: Mapping[str, str] = field(default_factory=dict)
    times: int = 1
    """How often this request was received, including this time."""

    @property
    def path(self) -> str:
        """The path below the root."""
        return self.request.url.path

    @property
    def method(self) -> str:
        """The method."""
        return self.request.method

    def header(self, name: str) -> str | None:
        """A header, or None."""
        return self.headers.get(name)


@dataclass
class Reply:
    """A response that can be changed."""

    status: int
    headers: dict[str, str]
    body: bytes
    reply_to: "Callable[[Received], Reply]" = field(repr=False)
    """Returns our own response to another request."""


Change = Callable[[Received, Reply], Reply]


@dataclass(frozen=True)
class _Original:
    request: httpx.Request
    form: Form
    headers: Mapping[str, str]
    response: httpx.Response
    response_headers: Mapping[str, str]

    def received(self, times: int) -> Received:
        return Received(self.request, self.form, self.headers, times)


class Copies:
    """Our own responses, from which broken copies make theirs.

    A copy changes only a few responses. So ours are requested once, and only the rules that look
    at a changed response are checked again.
    """

    def __init__(self, server: httpx.BaseTransport) -> None:
        self._server = server
        self._originals: dict[object, _Original] = {}
        self._lock = threading.Lock()
        self._requests_by_rule: dict[str, set[object]] = {}

    def original(self, request: httpx.Request) -> tuple[object, _Original]:
        """Return the key of a request, and our response to it."""
        body = request.read()
        names = ("authorization", "content-type", "range", "transfer-encoding")
        # The last part of an Idempotency-Key differs in each run.
        idempotency_key = request.headers.get("idempotency-key", "").rpartition("-")[0]
        headers = (*(request.headers.get(name) for name in names), idempotency_key)
        key = (request.method, str(request.url), headers, body)
        with self._lock:
            original = self._originals.get(key)
        if original is None:
            form = Form.parse(request.headers.get("content-type"), body)
            response = self._server.handle_request(request)
            original = _Original(
                request, form, dict(request.headers), response, dict(response.headers)
            )
            with self._lock:
                self._originals[key] = original
        return key, original

    def reply(self, original: _Original) -> Reply:
        """Return a copy of our response that can be changed."""
        response = original.response
        headers = dict(original.response_headers)
        return Reply(response.status_code, headers, response.content, self._reply_to)

    def affected_rules(self, change: Change, base_url: str, key: str) -> list[str]:
        """Return the ids of the rules that look at a changed response."""
        if not self._requests_by_rule:
            # All rules in one run first: our response to a used idempotency key depends on the run.
            unchanged_copy = BrokenCopy(self, lambda request, reply: reply)
            broken_rules(Server(base_url, key, transport=unchanged_copy))
            for id in SERVER_RULES:
                unchanged_copy = BrokenCopy(self, lambda request, reply: reply)
                broken_rules(Server(base_url, key, transport=unchanged_copy), [id])
                self._requests_by_rule[id] = unchanged_copy.requests
        changed_keys = {
            key
            for key, original in list(self._originals.items())
            if any(
                change(original.received(times), self.reply(original)) != self.reply(original)
                for times in (1, 2)
            )
        }
        return [id for id, requests in self._requests_by_rule.items() if requests & changed_keys]

    def _reply_to(self, request: Received) -> Reply:
        return self.reply(self.original(request.request)[1])


class BrokenCopy(httpx.BaseTransport):
    """Our server with one change."""

    def __init__(self, copies: Copies, change: Change) -> None:
        self._copies = copies
        self._change = change
        self._times: Counter[object] = Counter()
        self._lock = threading.Lock()

    @property
    def requests(self) -> set[object]:
        """The keys of the requests so far."""
        return set(self._times)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Return our response after the change."""
        key, original = self._copies.original(request)
        with self._lock:
            self._times[key] += 1
            times = self._times[key]
        reply = self._change(original.received(times), self._copies.reply(original))
        headers = {k: v for k, v in reply.headers.items() if k != "content-length"}
        return httpx.Response(reply.status, headers=headers, content=reply.body)


def broken_rules(server: Server, ids: Iterable[str] = SERVER_RULES) -> set[str]:
    """Return the ids of those of these rules that a server breaks."""
    probe = ServerProbe(server)
    broken = set()
    for rule in map(SERVER_RULES.__getitem__, ids):
        try:
            rule.check(probe)
        except Violation:
            broken.add(rule.id)
        except SkipCheck:
            pass
    return broken
