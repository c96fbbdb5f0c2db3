"""What a client is asked to do, and what comes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Protocol, Self

from pytest_image_variation.conformance.images import picture
from pytest_image_variation.conformance.rule import Breach, unseen
from pytest_image_variation.session import Exchange

if TYPE_CHECKING:
    from pytest_image_variation.loopback import Loopback

__all__ = ["Call", "ClientProbe", "CreateVariation"]

MANY = 50
"""More often than any client tries."""

_SHOWN = 5


class CreateVariation(Protocol):
    """The function of a client that is checked, sync or async."""

    def __call__(
        self, base_url: str, api_key: str, image: bytes, **fields: Any
    ) -> Iterable[bytes] | Awaitable[Iterable[bytes]]:
        """Return the files of the variations; whatever goes wrong is raised."""
        ...


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the function, and what came of it."""

    requests: Sequence[Exchange]
    """What the server was asked, in order."""
    api_key: str
    """The key that it was to send."""
    pictures: object = None
    """What it returned, as a list if it can be one."""
    error: Exception | None = None
    """What it raised."""
    unexpected: Sequence[str] = field(default=())
    """What the server says of requests that are not what was to be asked."""

    def asked(self) -> Self:
        """Return this call, if it asked for variations.

        Raises:
            Unseen: If it did not.
        """
        if not any(request.method == "POST" for request in self.requests):
            unseen("Nothing was asked; see client-asks.")
        return self

    @property
    def posts(self) -> list[Exchange]:
        """The requests for variations.

        Raises:
            Unseen: If there is none.
        """
        return [request for request in self.asked().requests if request.method == "POST"]

    def served(self) -> Sequence[bytes]:
        """Return the pictures.

        Raises:
            Breach: If there are none.
        """
        if self.error is not None:
            raise Breach(f"{type(self.error).__name__}: {self.error}"[:300])
        pictures = self.pictures
        if (
            not isinstance(pictures, list)
            or not pictures
            or not all(isinstance(data, bytes) for data in pictures)
        ):
            raise Breach(f"it returned {pictures!r}"[:100])
        return pictures


class ClientProbe:
    """Calls a client's function.

    Args:
        create: The function.
        loopback: The server that it is to ask.
    """

    def __init__(self, create: CreateVariation, loopback: Loopback) -> None:
        self._create = create
        self._loopback = loopback
        self._exchanges: Sequence[Exchange] = ()

    def asked(self) -> Sequence[str]:
        """Return what the function asked the last time that it was called, and got."""
        return [_line(exchange) for exchange in self._exchanges[:_SHOWN]]

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
            pictures: object = None
            error = None
            try:
                pictures = self._returned(view.base_url, view.api_key, fields)
            except Exception as raised:
                error = raised
            problems = view.expectations.problems(unused=False)
            self._exchanges = view.journal
            return Call(view.journal, view.api_key, pictures, error, problems)

    def works(self) -> bool:
        """Whether the function returns pictures where nothing is wrong."""
        try:
            return bool(self.call(response_format="b64_json", size="256x256").served())
        except Breach:
            return False

    def refused(self, fault: str, **fields: Any) -> Call:
        """Call the function on a server that always fails.

        Raises:
            Breach: If it does not raise.
            Unseen: If it raises in any case.
        """
        asked = {"response_format": "b64_json", "size": "256x256", **fields}
        call = self.call(fault=fault, times=MANY, **asked)
        if call.error is None:
            found = call.pictures
            what = f"{len(found)} pictures" if isinstance(found, list) else repr(found)
            raise Breach(f"it returned {what}"[:100])
        if not self.works():
            unseen("The function raises where nothing is wrong; see client-b64.")
        return call

    def _returned(self, base_url: str, api_key: str, fields: Mapping[str, Any]) -> object:
        """Return what the function does, with nothing left to be done."""
        returned: Any = self._create(base_url, api_key, picture("rgb.png"), **fields)
        if isawaitable(returned):
            returned = asyncio.run(_awaited(returned))
        # A generator asks only as it is read.
        lists = isinstance(returned, Iterable) and not isinstance(returned, bytes | str)
        return list(returned) if lists else returned


def _line(exchange: Exchange) -> str:
    fields = [f"{name}={value[:40]!r}" for name, value in exchange.fields.items()]
    image = exchange.picture
    size = "of no size" if image is None or image.size is None else "{}x{}".format(*image.size)
    sent = [] if image is None else [f"image={image.mode} {size}"]
    return " ".join([exchange.method, exchange.path, *fields, *sent, f"-> {exchange.status}"])


async def _awaited(returned: Awaitable[object]) -> object:
    return await returned
