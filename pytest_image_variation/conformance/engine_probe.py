"""What is asked of an engine, and what it answers."""

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
from langchain_image_variation.exceptions import ImageVariationError
from langchain_image_variation.images.png import SquarePNG
from pytest_image_variation.conformance.capabilities import Capabilities
from pytest_image_variation.conformance.images import picture
from pytest_image_variation.conformance.rule import Breach

__all__ = ["Engine", "EngineProbe"]

Engine = VariationEngine | AsyncVariationEngine


class EngineProbe:
    """Asks an engine.

    Args:
        engine: The engine, sync or async.
        capabilities: What it claims to do.
        deterministic: Whether it claims the same bytes for the same request.

    Raises:
        ValueError: If it claims no size that a request can ask for.
    """

    def __init__(
        self, engine: Engine, capabilities: Capabilities, *, deterministic: bool = False
    ) -> None:
        if not any(size in SIZES for size in capabilities.sizes):
            raise ValueError(f"Of an engine, sizes must have one of {', '.join(SIZES)}.")
        self.engine = engine
        self.capabilities = capabilities
        self.deterministic = deterministic
        self._answers: dict[CreateImageVariationRequest, object] = {}
        # One loop for all: an async engine may keep connections, which belong to theirs.
        self._runner = asyncio.Runner()
        self._asked: Sequence[CreateImageVariationRequest] = ()

    def close(self) -> None:
        """End the loop on which an async engine was asked."""
        self._runner.close()

    def asked(self) -> Sequence[str]:
        """Return the requests that were sent together last."""
        return [
            " ".join(
                [
                    *(f"{field}={value}" for field, value in request.to_form().items()),
                    f"image={request.image.side}x{request.image.side}",
                ]
            )
            for request in self._asked
        ]

    def request(self, name: str = "rgb.png", **fields: Any) -> CreateImageVariationRequest:
        """Return a legal request for one picture of the smallest size, or what is asked for."""
        usual = {
            "image": SquarePNG(picture(name)),
            "response_format": self.capabilities.response_format,
            "size": next(size for size in self.capabilities.sizes if size in SIZES),
        }
        return CreateImageVariationRequest.model_validate({**usual, **fields})

    def outcomes(
        self, *requests: CreateImageVariationRequest, at_once: bool = False
    ) -> Sequence[object]:
        """Return what each request comes to: what the engine returns or raises.

        Args:
            *requests: The requests.
            at_once: Whether all are asked at the same time.
        """
        self._asked = requests
        return self._runner.run(self._outcomes(requests, at_once))

    def answer(self, name: str = "rgb.png", **fields: Any) -> ImagesResponse:
        """Return the answer to a request, which is asked only if it was not before.

        Raises:
            Breach: If there is none.
        """
        request = self.request(name, **fields)
        self._asked = (request,)
        if request not in self._answers:
            (self._answers[request],) = self.outcomes(request)
        return self.served(self._answers[request])

    def served(self, outcome: object) -> ImagesResponse:
        """Return an outcome that is an answer.

        Raises:
            Breach: If it is none.
        """
        if isinstance(outcome, ImagesResponse):
            return outcome
        self.breach(outcome)

    def breach(self, outcome: object) -> Never:
        """Say what an outcome is.

        Raises:
            Breach: Always.
        """
        if isinstance(outcome, ImageVariationError):
            raise Breach(f"{type(outcome).__name__}: {outcome.message}")
        raise Breach(f"{type(outcome).__name__}: {outcome}"[:300])

    def pictures(self, answer: ImagesResponse) -> list[bytes]:
        """Return the files of an answer.

        Raises:
            Breach: If one cannot be read.
        """
        try:
            return [image.read() for image in answer.data]
        except ImageVariationError as error:
            raise Breach(f"{type(error).__name__}: {error.message}") from None

    async def _outcomes(
        self, requests: Sequence[CreateImageVariationRequest], at_once: bool
    ) -> list[object]:
        if at_once:
            return list(await asyncio.gather(*map(self._outcome, requests)))
        return [await self._outcome(request) for request in requests]

    async def _outcome(self, request: CreateImageVariationRequest) -> object:
        try:
            answer: object = await asyncio.to_thread(self.engine.create_variation, request)
            return await answer if isawaitable(answer) else answer
        except Exception as error:
            return error
