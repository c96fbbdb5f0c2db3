"""Replays the cassettes inside the process, to any HTTP client, without opening a socket.

vcrpy intercepts the requests of httpx, httpx2, requests, urllib and aiohttp. The scenarios that
the test expects decide which response each request gets.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import httpx
from vcr.cassette import Cassette
from vcr.persisters.filesystem import FilesystemPersister
from vcr.record_mode import RecordMode
from vcr.request import Request
from vcr.serializers import yamlserializer

from langchain_image_variation.http.deadline import DeadlineTransport
from pytest_image_variation.expectations import (
    Expectations,
    Match,
    ReceivedRequest,
    UnexpectedRequest,
)
from pytest_image_variation.forms import form_of, headers_of
from pytest_image_variation.session import Session
from pytest_image_variation.vcr_settings import cassette_dir

__all__ = ["BASE_URL", "Replay", "replay_cassettes"]

BASE_URL = "https://image-variation.example/v1"
"""The base URL in the cassettes. Requests to other addresses match them too."""

_Response = dict[str, Any]
_HINT = (
    " Cassettes intercept all HTTP of the process. To let this request through, use "
    "image_variation_server, which intercepts nothing."
)


class Replay(Session):
    """A session with the cassettes.

    Clients may use any address. Image URLs in responses are below `BASE_URL`.
    """

    def __init__(self) -> None:
        super().__init__(BASE_URL, "sk-image-variation-cassette")
        self.expectations = Expectations(_HINT)
        # By the request's id. The request is kept too, so that no other one gets the same id.
        self._responses: dict[int, tuple[Any, _Response]] = {}
        self._files: dict[str, _Response] = {}
        self._lock = threading.Lock()

    def scenario(self, name: str, *, times: int = 1) -> None:
        """Expect requests that match a scenario, and answer them from its cassette.

        Raises:
            ValueError: If the scenario does not exist, or `times` is not a positive integer.
            FileNotFoundError: If the installation lacks the cassettes.
        """
        super().scenario(name, times=times)
        self._files.update(_load(name)[1])

    def fail_next(self, name: str, *, times: int = 1) -> None:
        """Raise an error: only a server can fail out of order.

        Raises:
            ValueError: Always. The message names the method to call instead.
        """
        raise ValueError(
            f"fail_next() needs image_variation_server. With cassettes, play the fault in order: "
            f"scenario({name!r})."
        )

    def respond(self, request: Any) -> _Response:
        """Return the response to a vcrpy request, which is the same for the same request."""
        with self._lock:
            if id(request) not in self._responses:
                self._responses[id(request)] = request, self._new_response(request)
            return self._responses[id(request)][1]

    def _new_response(self, vcr_request: Any) -> _Response:
        address = urlsplit(vcr_request.uri)
        headers = headers_of(vcr_request)
        request = ReceivedRequest.from_form(
            vcr_request.method,
            address.path,
            form_of(vcr_request),
            has_key="authorization" in headers,
        )
        exchange = self.add_to_journal(request, headers)
        try:
            response = self._files.get(f"{address.path}?{address.query}")
            if request.method != "GET" or response is None:
                match = self._match(request)
                exchange.scenario = match.scenario.name
                response = _load(match.scenario.name)[0][match.index]
        except UnexpectedRequest as error:
            response = _bad_request(error)
        exchange.status = response["status"]["code"]
        return response

    def _match(self, request: ReceivedRequest) -> Match:
        match = self.expectations.match(request)
        if match is None:
            message = (
                f"Unexpected {request.method} {request.path}: the test has not named a scenario "
                "yet."
            )
            self.expectations.add_unexpected(message)
            raise UnexpectedRequest(message)
        return match


@contextmanager
def replay_cassettes() -> Iterator[Replay]:
    """Replay cassettes to every HTTP client of this process while the block runs.

    vcrpy removes its patch of urllib3 for a moment whenever a connection is made. If several
    threads use requests at the same time, one of them may reach the network. Threads that use
    other clients, and a single thread that uses requests, are safe.
    """
    replay = Replay()
    with _ReplayedCassette.use(
        path="scenarios",
        record_mode=RecordMode.NONE,
        custom_patches=((DeadlineTransport, "handle_request", _replaying_transport(replay)),),
    ) as cassette:
        cassette.replay = replay
        yield replay


class _ReplayedCassette(Cassette):  # type: ignore[misc]  # vcrpy is not typed
    """To vcrpy's patches, a cassette with a response to every request."""

    replay: Replay

    def _load(self) -> None:
        """Read no file: the scenarios name the cassettes to play."""

    def _save(self, force: bool = False) -> None:
        """Write no file."""

    def can_play_response_for(self, request: Any) -> bool:
        return True

    def play_response(self, request: Any) -> _Response:
        # Clients may modify the response.
        response = self.replay.respond(request)
        return {**response, "headers": dict(response["headers"]), "body": dict(response["body"])}


def _replaying_transport(replay: Replay) -> Any:
    """Return a method for our own client's transport, which vcrpy does not know."""

    def handle_request(self: DeadlineTransport, request: httpx.Request) -> httpx.Response:
        body = request.read()
        vcr_request = Request(request.method, str(request.url), body, dict(request.headers))
        response = replay.respond(vcr_request)
        headers = [(name, v) for name, values in response["headers"].items() for v in values]
        content = httpx.ByteStream(response["body"]["string"])
        return httpx.Response(response["status"]["code"], headers=headers, stream=content)

    return handle_request


@lru_cache
def _load(name: str) -> tuple[list[_Response], dict[str, _Response]]:
    """Return a cassette's responses to POST in order, and its files by path and query."""
    requests, responses, *_ = FilesystemPersister.load_cassette(
        cassette_dir() / f"{name}.yaml", yamlserializer
    )
    posted, files = [], {}
    for request, response in zip(requests, responses, strict=True):
        if request.method == "POST":
            posted.append(response)
        else:
            address = urlsplit(request.uri)
            files[f"{address.path}?{address.query}"] = response
    return posted, files


def _bad_request(error: UnexpectedRequest) -> _Response:
    return {
        "status": {"code": 400, "message": "Bad Request"},
        "headers": {"Content-Type": ["application/json"]},
        "body": {"string": error.to_json().encode()},
    }
