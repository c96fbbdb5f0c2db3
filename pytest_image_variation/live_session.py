"""Runs a test against a live server instead of ours, and records the traffic with vcrpy."""

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
from pytest_image_variation.expectations import ReceivedRequest, UnexpectedRequest
from pytest_image_variation.forms import form_of, headers_of
from pytest_image_variation.redaction import Redaction
from pytest_image_variation.scenarios import scenario
from pytest_image_variation.session import Session

__all__ = ["LiveSession", "record"]


class LiveSession(Session):
    """A session with a live server.

    The server decides how it responds, but each request is still checked against the scenarios.
    """

    def scenario(self, name: str, *, times: int = 1) -> None:
        """Expect requests that match a scenario. A fault skips the test.

        Raises:
            ValueError: If the scenario does not exist, or `times` is not a positive integer.
        """
        if scenario(name).kind == "fault":
            _skip(f"the fault {name!r}")
        super().scenario(name, times=times)

    def fail_next(self, name: str, *, times: int = 1) -> None:
        """Skip the test, since a live server does not fail on demand."""
        _skip(f"the fault {name!r}")

    def delay(self, seconds: float) -> None:
        """Skip the test, since a live server does not wait on demand."""
        _skip("a delay")

    def add_exchange(self, vcr_request: Any, status: int) -> None:
        """Add a vcrpy request and the status of its response to the journal."""
        headers = headers_of(vcr_request)
        request = ReceivedRequest.from_form(
            vcr_request.method,
            urlsplit(vcr_request.uri).path,
            form_of(vcr_request),
            has_key="authorization" in headers,
        )
        exchange = self.add_to_journal(request, headers)
        exchange.status = status
        if request.method == "GET":
            return
        try:
            match = self.expectations.match(request)
            exchange.scenario = None if match is None else match.scenario.name
        except UnexpectedRequest:
            # The server has responded already, so the test fails only when it ends.
            return


def _skip(behavior: str) -> NoReturn:
    pytest.skip(
        f"A live server cannot produce {behavior} on demand. Run without --image-variation-url."
    )


@contextmanager
def record(session: LiveSession, path: Path | None, *, keep: Callable[[], bool]) -> Iterator[None]:
    """Record what every HTTP client of this process sends while the block runs.

    Args:
        session: The session whose journal gets each request.
        path: The cassette to write, redacted, or None to write none.
        keep: Called at the end. The cassette is written only if it returns True.
    """
    redaction = Redaction(session.api_key)
    with _RecordingCassette.use(
        path=str(path),
        record_mode=RecordMode.ALL,
        before_record_request=redaction.redact_request,
        before_record_response=redaction.redact_response,
    ) as cassette:
        cassette.session = session
        cassette.keep = lambda: path is not None and keep()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(DeadlineTransport, "handle_request", _recording_transport(cassette))
            yield


class _RecordingCassette(Cassette):  # type: ignore[misc]  # vcrpy is not typed
    session: LiveSession
    keep: Callable[[], bool]

    def _load(self) -> None:
        """Start empty, since a recording replaces the one before it."""

    def _save(self, force: bool = False) -> None:
        if self.keep():
            super()._save(force)

    def can_play_response_for(self, request: Any) -> bool:
        # Read aiohttp's forms now, because sending empties them.
        form_of(request)
        return False

    def append(self, request: Any, response: Any) -> None:
        self.session.add_exchange(request, response["status"]["code"])
        super().append(request, response)


def _recording_transport(cassette: _RecordingCassette) -> Any:
    """Return a method for our own client's transport, which vcrpy does not know."""
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
