"""Calls a client's function on the loopback server, and keeps what it sent and returned."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Protocol, Self

from pytest_image_variation.conformance.images import make_image
from pytest_image_variation.conformance.rule import Violation, skip
from pytest_image_variation.session import Exchange

if TYPE_CHECKING:
    from pytest_image_variation.loopback import Loopback

__all__ = ["ALWAYS", "Call", "ClientProbe", "CreateVariation"]

ALWAYS = 50
"""How often to play a fault that never ends: more often than any client retries."""

_MAX_LINES = 5


class CreateVariation(Protocol):
    """The function of a client under test, sync or async."""

    def __call__(
        self, base_url: str, api_key: str, image: bytes, **fields: Any
    ) -> Iterable[bytes] | Awaitable[Iterable[bytes]]:
        """Return the files of the variations. Raise an exception if anything fails."""
        ...


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the function, and its outcome."""

    requests: Sequence[Exchange]
    """The requests that the server received, in order."""
    api_key: str
    """The key that the function got."""
    images: object = None
    """The return value, as a list if it is iterable."""
    error: Exception | None = None
    """The exception that the function raised."""
    unexpected_requests: Sequence[str] = field(default=())
    """The server's messages about requests that match no scenario."""

    def require_requests(self) -> Self:
        """Return this call if it requested variations.

        Raises:
            SkipCheck: If it did not.
        """
        if not any(request.method == "POST" for request in self.requests):
            skip("The client sent no request; see client-asks.")
        return self

    @property
    def posts(self) -> list[Exchange]:
        """The requests for variations.

        Raises:
            SkipCheck: If there are none.
        """
        return [r for r in self.require_requests().requests if r.method == "POST"]

    def require_images(self) -> Sequence[bytes]:
        """Return the images.

        Raises:
            Violation: If the function raised, or did not return a list of bytes.
        """
        if self.error is not None:
            raise Violation(f"{type(self.error).__name__}: {self.error}"[:300])
        images = self.images
        if (
            not isinstance(images, list)
            or not images
            or not all(isinstance(data, bytes) for data in images)
        ):
            raise Violation(f"it returned {images!r}"[:100])
        return images


class ClientProbe:
    """Calls a client's function.

    Args:
        create: The function.
        loopback: The server that it talks to.
    """

    def __init__(self, create: CreateVariation, loopback: Loopback) -> None:
        self._create = create
        self._loopback = loopback
        self._exchanges: Sequence[Exchange] = ()

    def request_lines(self) -> Sequence[str]:
        """Return a line for each of the first requests of the last call."""
        return [_line(exchange) for exchange in self._exchanges[:_MAX_LINES]]

    def call(
        self,
        *,
        fault: str | None = None,
        times: int = 1,
        scenario: str | None = None,
        **fields: Any,
    ) -> Call:
        """Call the function once, with its own view of the server, and return what happened.

        Args:
            fault: The fault with which the server responds first.
            times: How many times it does.
            scenario: The scenario that the server expects.
            **fields: The fields to call the function with.
        """
        with self._loopback.view() as view:
            if fault is not None:
                view.fail_next(fault, times=times)
            if scenario is not None:
                view.scenario(scenario)
            images: object = None
            error = None
            try:
                images = self._result(view.base_url, view.api_key, fields)
            except Exception as exception:
                error = exception
            problems = view.expectations.problems(unused=False)
            self._exchanges = view.journal
            return Call(view.journal, view.api_key, images, error, problems)

    def works(self) -> bool:
        """Return whether the function returns images if nothing fails."""
        try:
            return bool(self.call(response_format="b64_json", size="256x256").require_images())
        except Violation:
            return False

    def require_error(self, fault: str, **fields: Any) -> Call:
        """Call the function on a server that always fails.

        Raises:
            Violation: If the function does not raise.
            SkipCheck: If the function raises even if nothing fails.
        """
        fields = {"response_format": "b64_json", "size": "256x256", **fields}
        call = self.call(fault=fault, times=ALWAYS, **fields)
        if call.error is None:
            images = call.images
            result = f"{len(images)} images" if isinstance(images, list) else repr(images)
            raise Violation(f"it returned {result}"[:100])
        if not self.works():
            skip("The function raises even if nothing fails; see client-b64.")
        return call

    def _result(self, base_url: str, api_key: str, fields: Mapping[str, Any]) -> object:
        """Return the function's result, after awaiting it and reading it to the end."""
        result: Any = self._create(base_url, api_key, make_image("rgb.png"), **fields)
        if isawaitable(result):
            result = asyncio.run(_wait_for(result))
        # A generator sends its requests only while it is read.
        is_iterable = isinstance(result, Iterable) and not isinstance(result, bytes | str)
        return list(result) if is_iterable else result


def _line(exchange: Exchange) -> str:
    fields = [f"{name}={value[:40]!r}" for name, value in exchange.fields.items()]
    image = exchange.image
    size = "of no size" if image is None or image.size is None else "{}x{}".format(*image.size)
    image_field = [] if image is None else [f"image={image.mode} {size}"]
    return " ".join(
        [exchange.method, exchange.path, *fields, *image_field, f"-> {exchange.status}"]
    )


async def _wait_for(result: Awaitable[object]) -> object:
    return await result
