"""Plays the cassettes in process: no socket is opened, whatever client is used.

vcrpy catches what httpx, httpx2, requests, urllib and aiohttp send; which answer a request gets is
decided by the scenarios that the test asked for.
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
from pytest_image_variation.expectations import Asked, Expectations, Play, Unexpected
from pytest_image_variation.forms import form_of, headers_of
from pytest_image_variation.session import Session
from pytest_image_variation.vcr_settings import cassette_dir

__all__ = ["BASE_URL", "Replay", "replaying"]

BASE_URL = "https://image-variation.example/v1"
"""The address under which the cassettes were recorded. A request of another fits them too."""

_Response = dict[str, Any]
_ELSEWHERE = (
    " Cassettes catch all HTTP of the process; if this is to reach its address, "
    "image_variation_server catches nothing."
)


class Replay(Session):
    """A test's scenarios, played from the cassettes.

    Any address will do for a client, but the pictures that are given as url are at `BASE_URL`.
    """

    def __init__(self) -> None:
        super().__init__(BASE_URL, "sk-image-variation-cassette")
        self.expectations = Expectations(_ELSEWHERE)
        # By the request, which is kept so that its id stays its own.
        self._answers: dict[int, tuple[Any, _Response]] = {}
        self._files: dict[str, _Response] = {}
        self._lock = threading.Lock()

    def scenario(self, name: str, *, times: int = 1) -> None:
        """Expect requests that fit a scenario, and answer them from its cassette.

        Raises:
            ValueError: If there is no such scenario, or `times` is no whole number from 1.
            FileNotFoundError: If the installation lacks the cassettes.
        """
        super().scenario(name, times=times)
        self._files.update(_loaded(name)[1])

    def fail_next(self, name: str, *, times: int = 1) -> None:
        """Refuse: a cassette has no server that could fail out of turn.

        Raises:
            ValueError: Always; the message names what to call instead.
        """
        raise ValueError(
            f"Only image_variation_server can fail whatever is asked; from cassettes, a fault is "
            f"played in its turn: scenario({name!r})."
        )

    def answer(self, request: Any) -> _Response:
        """Return the answer to a request of vcrpy; asked about the same one again, the same."""
        with self._lock:
            if id(request) not in self._answers:
                self._answers[id(request)] = request, self._answered(request)
            return self._answers[id(request)][1]

    def _answered(self, request: Any) -> _Response:
        address = urlsplit(request.uri)
        headers = headers_of(request)
        asked = Asked.of(
            request.method, address.path, form_of(request), has_key="authorization" in headers
        )
        exchange = self.enter(asked, headers)
        try:
            response = self._files.get(f"{address.path}?{address.query}")
            if request.method != "GET" or response is None:
                play = self._play(asked)
                exchange.scenario = play.scenario.name
                response = _loaded(play.scenario.name)[0][play.index]
        except Unexpected as error:
            response = _refused(error)
        exchange.status = response["status"]["code"]
        return response

    def _play(self, asked: Asked) -> Play:
        play = self.expectations.take(asked)
        if play is None:
            message = f"{asked.method} {asked.path} came before any scenario was asked for."
            self.expectations.note(message)
            raise Unexpected(message)
        return play


@contextmanager
def replaying() -> Iterator[Replay]:
    """Play cassettes to every client of this process while the block runs.

    vcrpy takes its patch of urllib3 off for a moment whenever a connection is made, so of several
    threads that use requests at once, one may get through to the network. A thread that uses
    another client, or a single one that uses requests, is safe.
    """
    replay = Replay()
    with _Playing.use(
        path="scenarios",
        record_mode=RecordMode.NONE,
        custom_patches=((DeadlineTransport, "handle_request", _patched(replay)),),
    ) as cassette:
        cassette.replay = replay
        yield replay


class _Playing(Cassette):  # type: ignore[misc]  # vcrpy is not typed
    """vcrpy's cassette as its patches see it: it has an answer to everything."""

    replay: Replay

    def _load(self) -> None:
        """Read no file: the scenarios name the cassettes to play."""

    def _save(self, force: bool = False) -> None:
        """Write no file."""

    def can_play_response_for(self, request: Any) -> bool:
        return True

    def play_response(self, request: Any) -> _Response:
        # Clients may change what they get.
        response = self.replay.answer(request)
        return {**response, "headers": dict(response["headers"]), "body": dict(response["body"])}


def _patched(replay: Replay) -> Any:
    """Return what our own client's transport does instead of sending: vcrpy does not know it."""

    def handle_request(self: DeadlineTransport, request: httpx.Request) -> httpx.Response:
        body = request.read()
        asked = Request(request.method, str(request.url), body, dict(request.headers))
        response = replay.answer(asked)
        headers = [(name, v) for name, values in response["headers"].items() for v in values]
        content = httpx.ByteStream(response["body"]["string"])
        return httpx.Response(response["status"]["code"], headers=headers, stream=content)

    return handle_request


@lru_cache
def _loaded(name: str) -> tuple[list[_Response], dict[str, _Response]]:
    """Return what a cassette holds: the answers in order, and what is at each address."""
    requests, responses, *_ = FilesystemPersister.load_cassette(
        cassette_dir() / f"{name}.yaml", yamlserializer
    )
    answers, files = [], {}
    for request, response in zip(requests, responses, strict=True):
        if request.method == "POST":
            answers.append(response)
        else:
            address = urlsplit(request.uri)
            files[f"{address.path}?{address.query}"] = response
    return answers, files


def _refused(error: Unexpected) -> _Response:
    return {
        "status": {"code": 400, "message": "Bad Request"},
        "headers": {"Content-Type": ["application/json"]},
        "body": {"string": error.to_json().encode()},
    }
