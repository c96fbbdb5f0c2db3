"""A live server in the place of ours, with what is sent and answered recorded by vcrpy."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import httpx
import pytest
from vcr.cassette import Cassette
from vcr.record_mode import RecordMode
from vcr.request import Request

from langchain_image_variation.http.deadline import DeadlineTransport
from pytest_image_variation.expectations import Asked, Unexpected
from pytest_image_variation.forms import form_of, headers_of
from pytest_image_variation.redaction import Redaction
from pytest_image_variation.scenarios import scenario
from pytest_image_variation.session import Session

__all__ = ["LiveSession", "recording"]


class LiveSession(Session):
    """A test's view of a live server.

    What a request is answered is the server's affair; whether it was expected is still checked.
    """

    def scenario(self, name: str, *, times: int = 1) -> None:
        """Expect requests that fit a scenario; a fault, which cannot be ordered, skips the test.

        Raises:
            ValueError: If there is no such scenario, or `times` is no whole number from 1.
        """
        if scenario(name).kind == "fault":
            _skip(f"{name!r}")
        super().scenario(name, times=times)

    def fail_next(self, name: str, *, times: int = 1) -> None:
        """Skip the test: a live server cannot be told to fail."""
        _skip(f"{name!r}")

    def delay(self, seconds: float) -> None:
        """Skip the test: a live server cannot be told to wait."""
        _skip("a delay")

    def seen(self, request: Any, status: int) -> None:
        """Take note of a request of vcrpy that was answered."""
        headers = headers_of(request)
        asked = Asked.of(
            request.method,
            urlsplit(request.uri).path,
            form_of(request),
            has_key="authorization" in headers,
        )
        exchange = self.enter(asked, headers)
        exchange.status = status
        if asked.method == "GET":
            return
        try:
            play = self.expectations.take(asked)
            exchange.scenario = None if play is None else play.scenario.name
        except Unexpected:
            # It is told at the end; the server has answered it already.
            return


def _skip(what: str) -> NoReturn:
    pytest.skip(f"A live server cannot be told to give {what}; run without --image-variation-url.")


@contextmanager
def recording(live: LiveSession, path: Path | None, *, keep: Callable[[], bool]) -> Iterator[None]:
    """Watch what every client of this process sends while the block runs.

    Args:
        live: What takes note of it.
        path: The cassette to write, redacted; None for none.
        keep: Asked at the end whether to write it.
    """
    redaction = Redaction(live.api_key)
    with _Watching.use(
        path=str(path),
        record_mode=RecordMode.ALL,
        before_record_request=redaction.request,
        before_record_response=redaction.response,
    ) as cassette:
        cassette.live = live
        cassette.keep = lambda: path is not None and keep()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(DeadlineTransport, "handle_request", _watched(cassette))
            yield


class _Watching(Cassette):  # type: ignore[misc]  # vcrpy is not typed
    live: LiveSession
    keep: Callable[[], bool]

    def _load(self) -> None:
        """Start empty, since a recording replaces the one before it."""

    def _save(self, force: bool = False) -> None:
        if self.keep():
            super()._save(force)

    def can_play_response_for(self, request: Any) -> bool:
        # aiohttp's forms can be read only before they are sent.
        form_of(request)
        return False

    def append(self, request: Any, response: Any) -> None:
        self.live.seen(request, response["status"]["code"])
        super().append(request, response)


def _watched(cassette: _Watching) -> Any:
    """Return what our own client's transport does: vcrpy does not know it."""
    send = DeadlineTransport.handle_request

    def handle_request(self: DeadlineTransport, request: httpx.Request) -> httpx.Response:
        body = request.read()
        response = send(self, request)
        assert isinstance(response.stream, httpx.SyncByteStream)
        content = b"".join(response.stream)
        response.stream.close()
        headers: dict[str, list[str]] = {}
        for name, value in response.headers.multi_items():
            headers.setdefault(name, []).append(value)
        status = {"code": response.status_code, "message": response.reason_phrase}
        cassette.append(
            Request(request.method, str(request.url), body, dict(request.headers)),
            {"status": status, "headers": headers, "body": {"string": content}},
        )
        response.stream = httpx.ByteStream(content)
        return response

    return handle_request
