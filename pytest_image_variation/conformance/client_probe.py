"""What a client is asked to do, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pytest_image_variation.conformance.pictures import picture
from pytest_image_variation.conformance.rule import Breach, unseen
from pytest_image_variation.door import Exchange

if TYPE_CHECKING:
    from pytest_image_variation.loopback import Loopback

__all__ = ["Call", "ClientProbe", "CreateVariation"]

MANY = 50
"""More often than any client tries."""


class CreateVariation(Protocol):
    """The function of a client that is checked."""

    def __call__(self, base_url: str, api_key: str, image: bytes, **fields: Any) -> Sequence[bytes]:
        """Return the files of the variations; whatever goes wrong is raised."""
        ...


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the function, and what came of it."""

    requests: Sequence[Exchange]
    """What the server was asked, in order."""
    pictures: Sequence[bytes] | None = None
    """What it returned."""
    error: Exception | None = None
    """What it raised."""
    unexpected: Sequence[str] = field(default=())
    """What the server says of requests that are not what was to be asked."""

    @property
    def posts(self) -> list[Exchange]:
        """The requests for variations.

        Raises:
            Unseen: If there is none.
        """
        found = [request for request in self.requests if request.method == "POST"]
        if not found:
            unseen("Nothing was asked; see client-asks.")
        return found

    def served(self) -> Sequence[bytes]:
        """Return the pictures.

        Raises:
            Breach: If there are none.
        """
        if self.error is not None:
            raise Breach(f"{type(self.error).__name__}: {self.error}"[:300])
        if not self.pictures or not all(isinstance(data, bytes) for data in self.pictures):
            raise Breach(f"it returned {self.pictures!r}"[:100])
        return self.pictures


class ClientProbe:
    """Calls a client's function.

    Args:
        create: The function.
        loopback: The server that it is to ask.
    """

    def __init__(self, create: CreateVariation, loopback: Loopback) -> None:
        self._create = create
        self._loopback = loopback

    def call(
        self, *, fault: str | None = None, times: int = 1, play: str | None = None, **fields: Any
    ) -> Call:
        """Call the function once, on a server of its own.

        Args:
            fault: The scenario by which the server fails.
            times: How often it does.
            play: The scenario that the server expects.
            **fields: What the function is called with.
        """
        with self._loopback.view() as view:
            if fault is not None:
                view.fail_next(fault, times=times)
            if play is not None:
                view.scenario(play)
            pictures = error = None
            try:
                pictures = self._create(view.base_url, view.api_key, picture("rgb.png"), **fields)
            except Exception as raised:
                error = raised
            problems = view.expectations.problems(unused=False)
            return Call(view.journal, pictures, error, problems)

    def refused(self, fault: str) -> Call:
        """Call the function on a server that always fails.

        Raises:
            Breach: If it does not raise.
        """
        call = self.call(fault=fault, times=MANY, response_format="b64_json", size="256x256")
        if call.error is None:
            raise Breach(f"it returned {len(call.pictures or ())} pictures")
        return call
