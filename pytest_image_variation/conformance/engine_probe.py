"""Sends requests to an engine, and keeps its responses."""

import asyncio
from collections.abc import Sequence
from inspect import isawaitable
from typing import Any, Never

from langchain_image_variation.contract import (
    SIZES,
    CreateImageVariationRequest,
    ImagesResponse,
)
from langchain_image_variation.engines import AsyncVariationEngine, VariationEngine
from langchain_image_variation.engines.checks import (
    check_engine,
    describe_answer,
    find_place_of_error,
)
from langchain_image_variation.exceptions import ImageVariationError
from langchain_image_variation.images.png import SquarePNG
from pytest_image_variation.conformance.capabilities import Capabilities
from pytest_image_variation.conformance.images import make_image
from pytest_image_variation.conformance.rule import Violation

__all__ = ["Engine", "EngineProbe"]

Engine = VariationEngine | AsyncVariationEngine


class EngineProbe:
    """Sends requests to an engine.

    Args:
        engine: The engine, sync or async.
        capabilities: What it supports.
        deterministic: Whether the same request always gives the same bytes.

    Raises:
        InvalidRequestError: If it is not an engine.
        ValueError: If it supports no size of the contract.
    """

    def __init__(
        self, engine: Engine, capabilities: Capabilities, *, deterministic: bool = False
    ) -> None:
        if not any(size in SIZES for size in capabilities.sizes):
            raise ValueError(f"An engine's sizes must include one of {', '.join(SIZES)}.")
        check_engine(engine)
        self.engine = engine
        self.capabilities = capabilities
        self.deterministic = deterministic
        self._outcomes: dict[CreateImageVariationRequest, object] = {}
        # One loop for all calls, because an async engine's connections belong to a loop.
        self._runner = asyncio.Runner()
        self._last_requests: Sequence[CreateImageVariationRequest] = ()

    def close(self) -> None:
        """Close the event loop."""
        self._runner.close()

    def request_lines(self) -> Sequence[str]:
        """Return a line for each request that was last sent."""
        return [
            " ".join(
                [
                    *(f"{field}={value}" for field, value in request.to_form().items()),
                    f"image={request.image.side}x{request.image.side}",
                ]
            )
            for request in self._last_requests
        ]

    def request(self, name: str = "rgb.png", **fields: Any) -> CreateImageVariationRequest:
        """Return a legal request, by default for one image of the first supported size."""
        defaults = {
            "image": SquarePNG(make_image(name)),
            "response_format": self.capabilities.response_format,
            "size": next(size for size in self.capabilities.sizes if size in SIZES),
        }
        return CreateImageVariationRequest.model_validate({**defaults, **fields})

    def outcomes(
        self, *requests: CreateImageVariationRequest, is_concurrent: bool = False
    ) -> Sequence[object]:
        """Send requests, and return what the engine returns or raises for each of them.

        Args:
            *requests: The requests.
            is_concurrent: Whether to send all of them at the same time.
        """
        self._last_requests = requests
        return self._runner.run(self._call_all(requests, is_concurrent))

    def response(self, name: str = "rgb.png", **fields: Any) -> ImagesResponse:
        """Return the response to a request, which is sent only the first time.

        Raises:
            Violation: If the engine returns something else, or raises.
        """
        request = self.request(name, **fields)
        self._last_requests = (request,)
        if request not in self._outcomes:
            (self._outcomes[request],) = self.outcomes(request)
        return self.require_response(self._outcomes[request])

    def require_response(self, outcome: object) -> ImagesResponse:
        """Return an outcome if it is a response.

        Raises:
            Violation: If it is something else.
        """
        if isinstance(outcome, ImagesResponse):
            return outcome
        if not isinstance(outcome, Exception):
            raise Violation(describe_answer(outcome))
        self.fail(outcome)

    def fail(self, outcome: object) -> Never:
        """Report an outcome that breaks a rule.

        Raises:
            Violation: Always.
        """
        if isinstance(outcome, ImageVariationError):
            raise Violation(f"{type(outcome).__name__}: {outcome.message}")
        place = (
            find_place_of_error(self.engine, outcome) if isinstance(outcome, Exception) else None
        )
        text = f"{type(outcome).__name__}: {outcome}"[:300]
        raise Violation(f"{text}, at {place}" if place else text)

    def images(self, response: ImagesResponse) -> list[bytes]:
        """Return the files of a response.

        Raises:
            Violation: If one cannot be read.
        """
        try:
            return [image.read() for image in response.data]
        except ImageVariationError as error:
            raise Violation(f"{type(error).__name__}: {error.message}") from None

    async def _call_all(
        self, requests: Sequence[CreateImageVariationRequest], is_concurrent: bool
    ) -> list[object]:
        if is_concurrent:
            return list(await asyncio.gather(*map(self._call, requests)))
        return [await self._call(request) for request in requests]

    async def _call(self, request: CreateImageVariationRequest) -> object:
        try:
            response: object = await asyncio.to_thread(self.engine.create_variation, request)
            return await response if isawaitable(response) else response
        except Exception as error:
            return error
