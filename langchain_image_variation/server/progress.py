"""The progress of running requests, for clients that give their requests an ID."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from langchain_image_variation.engines.context import Progress, ProgressListener
from langchain_image_variation.exceptions import NotFoundError

__all__ = ["MAX_ID_LENGTH", "RequestProgress"]

MAX_ID_LENGTH = 512
"""The maximum length of an `X-Client-Request-Id`, in characters: the vendor's own limit."""


@dataclass(slots=True)
class _RunningRequest:
    """A request that is tracked."""

    progress: Progress


class RequestProgress:
    """The progress of each running request that has an `X-Client-Request-Id`."""

    def __init__(self) -> None:
        self._by_id: dict[str, _RunningRequest] = {}

    @contextmanager
    def track(self, request_id: str | None, n: int) -> Iterator[ProgressListener]:
        """Yield a listener for the progress of a request that ends with the block.

        The listener may be called later, because a cancelled engine needs a while to stop.

        Clients also use the header for other purposes, so no value of it is an error. A request is
        not tracked if it has no ID, a longer one, or the ID of another running request.

        Args:
            request_id: The ID that the client chose.
            n: How many images the request asks for.
        """
        if not request_id or len(request_id) > MAX_ID_LENGTH or request_id in self._by_id:
            yield _ignore
            return
        request = self._by_id[request_id] = _RunningRequest(Progress(0, n, 0.0))

        def listen(progress: Progress) -> None:
            request.progress = progress

        try:
            yield listen
        finally:
            del self._by_id[request_id]

    def get(self, request_id: str) -> Progress:
        """Return the progress of a request. While it waits for a turn, its share is 0.

        Raises:
            NotFoundError: If no request with this ID is running.
        """
        try:
            return self._by_id[request_id].progress
        except KeyError:
            raise NotFoundError("No request with this X-Client-Request-Id is running.") from None


def _ignore(progress: Progress) -> None:
    """Ignore a report."""
