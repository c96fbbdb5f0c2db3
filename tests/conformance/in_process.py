"""Servers that the kit asks without a socket: any ASGI app, and broken copies of ours."""

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
    """Asks an ASGI app, from any thread."""

    def __init__(self, app: Any, portal: BlockingPortal) -> None:
        self._transport = httpx.ASGITransport(app)
        self._portal = portal

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Return what the app answers."""
        request.read()
        return self._portal.call(self._ask, request)

    async def _ask(self, request: httpx.Request) -> httpx.Response:
        response = await self._transport.handle_async_request(request)
        content = await response.aread()
        return httpx.Response(response.status_code, headers=response.headers, content=content)


@contextmanager
def in_process(app: Any) -> Iterator[InProcess]:
    """Serve an app while the block runs."""
    with start_blocking_portal() as portal:
        yield InProcess(app, portal)


@dataclass(frozen=True)
class Sent:
    """A request, taken apart."""

    request: httpx.Request
    form: Form
    headers: Mapping[str, str] = field(default_factory=dict)
    times: int = 1
    """The how manieth such request it is."""

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
class Given:
    """An answer that may be changed."""

    status: int
    headers: dict[str, str]
    body: bytes
    again: "Callable[[Sent], Given]" = field(repr=False)
    """Gives our own answer to another request."""


Change = Callable[[Sent, Given], Given]


@dataclass(frozen=True)
class _Known:
    request: httpx.Request
    form: Form
    headers: Mapping[str, str]
    ours: httpx.Response
    our_headers: Mapping[str, str]

    def sent(self, times: int) -> Sent:
        return Sent(self.request, self.form, self.headers, times)


class Copies:
    """Our own answers, from which those of broken copies are made.

    A copy differs in a few answers only, so ours are asked for once, and only the rules are checked
    again that look at one that differs.
    """

    def __init__(self, ours: httpx.BaseTransport) -> None:
        self._ours = ours
        self._known: dict[object, _Known] = {}
        self._lock = threading.Lock()
        self._asked_by: dict[str, set[object]] = {}

    def give(self, request: httpx.Request) -> tuple[object, _Known]:
        """Return which request it is, and what is known of it."""
        body = request.read()
        names = ("authorization", "content-type", "range", "transfer-encoding")
        # The last part of an Idempotency-Key is another one in each run.
        twice = request.headers.get("idempotency-key", "").rpartition("-")[0]
        headers = (*(request.headers.get(name) for name in names), twice)
        key = (request.method, str(request.url), headers, body)
        with self._lock:
            known = self._known.get(key)
        if known is None:
            form = Form.parse(request.headers.get("content-type"), body)
            ours = self._ours.handle_request(request)
            known = _Known(request, form, dict(request.headers), ours, dict(ours.headers))
            with self._lock:
                self._known[key] = known
        return key, known

    def given(self, known: _Known) -> Given:
        """Return our answer, which may be changed."""
        ours = known.ours
        return Given(ours.status_code, dict(known.our_headers), ours.content, self._again)

    def looking_at(self, change: Change, base_url: str, key: str) -> list[str]:
        """Return the ids of the rules that look at an answer which differs."""
        if not self._asked_by:
            # In one run first: our answer to a key that was used before depends on the run.
            unchanged = BrokenCopy(self, lambda sent, given: given)
            broken_rules(Server(base_url, key, transport=unchanged))
            for id in SERVER_RULES:
                whole = BrokenCopy(self, lambda sent, given: given)
                broken_rules(Server(base_url, key, transport=whole), [id])
                self._asked_by[id] = whole.asked
        differing = {
            key
            for key, known in list(self._known.items())
            if any(
                change(known.sent(times), self.given(known)) != self.given(known)
                for times in (1, 2)
            )
        }
        return [id for id, asked in self._asked_by.items() if asked & differing]

    def _again(self, sent: Sent) -> Given:
        return self.given(self.give(sent.request)[1])


class BrokenCopy(httpx.BaseTransport):
    """Our server, but for one change."""

    def __init__(self, copies: Copies, change: Change) -> None:
        self._copies = copies
        self._change = change
        self._times: Counter[object] = Counter()
        self._lock = threading.Lock()

    @property
    def asked(self) -> set[object]:
        """Which requests there were."""
        return set(self._times)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Return our answer, changed."""
        key, known = self._copies.give(request)
        with self._lock:
            self._times[key] += 1
            times = self._times[key]
        given = self._change(known.sent(times), self._copies.given(known))
        headers = {k: v for k, v in given.headers.items() if k != "content-length"}
        return httpx.Response(given.status, headers=headers, content=given.body)


def broken_rules(server: Server, ids: Iterable[str] = SERVER_RULES) -> set[str]:
    """Return the ids of the rules that a server breaks, of these."""
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
