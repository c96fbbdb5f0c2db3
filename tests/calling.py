"""One way to call the sync and the async client, so that one test covers both."""

import asyncio
import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio
import httpx

from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.hosted.client import AsyncImageVariationClient, ImageVariationClient
from langchain_image_variation.images.png import SquarePNG
from pytest_image_variation.samples import square_png
from tests.extras import skip_without

KINDS = ("sync", "asyncio", "trio")
PNG = square_png(8)
BASE_URL = "https://pictures.example/v1"

Handler = Callable[[httpx.Request], httpx.Response]


@dataclass(frozen=True)
class Caller:
    """Makes one call with a client of its kind, and closes the client."""

    kind: str

    def __call__(
        self, handler: Handler | None = None, fields: dict[str, Any] | None = None, **settings: Any
    ) -> ImagesResponse:
        """Call through a `MockTransport` with `handler`, or over real sockets without one."""
        settings = {"base_url": BASE_URL, **settings}
        arguments = {"image": SquarePNG(PNG), "size": "256x256", **(fields or {})}
        request = CreateImageVariationRequest(**arguments)
        if self.kind == "sync":
            return _sync(handler, request, settings)
        if self.kind == "trio":
            skip_without("trio")
        backend = asyncio.run if self.kind == "asyncio" else _trio
        return backend(_async(handler, request, settings))


def _sync(
    handler: Handler | None, request: CreateImageVariationRequest, settings: dict[str, Any]
) -> ImagesResponse:
    if handler is None:
        with ImageVariationClient(**settings) as client:
            return client.create_variation(request)
    with httpx.Client(transport=httpx.MockTransport(handler)) as http_client:
        client = ImageVariationClient(**settings, http_client=http_client)
        return client.create_variation(request)


async def _async(
    handler: Handler | None, request: CreateImageVariationRequest, settings: dict[str, Any]
) -> ImagesResponse:
    if handler is None:
        async with AsyncImageVariationClient(**settings) as client:
            return await client.create_variation(request)
    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as http_client:
        client = AsyncImageVariationClient(**settings, http_client=http_client)
        return await client.create_variation(request)


def _trio(call: Any) -> ImagesResponse:
    async def main() -> ImagesResponse:
        answer: ImagesResponse = await call
        return answer

    return anyio.run(main, backend="trio")


def b64(data: bytes = PNG) -> str:
    """Return an image file in base64."""
    return base64.b64encode(data).decode()


def success(n: int = 1, data: bytes = PNG, **extra: object) -> bytes:
    """Return the body of an answer with n images."""
    content = {"created": 1, "data": [{"b64_json": b64(data)}] * n, **extra}
    return json.dumps(content, indent=2).encode()


def failure(message: str, **extra: str | None) -> bytes:
    """Return an error body in the vendor's envelope."""
    keys = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return json.dumps({"error": {**keys, **extra}}, indent=2).encode()


def answering(*answers: httpx.Response | Exception) -> tuple[Handler, list[httpx.Request]]:
    """Return a handler that gives each answer in turn and repeats the last, and its requests."""
    requests: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        answer = answers[min(len(requests), len(answers) - 1)]
        requests.append(request)
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    return handler, requests


def ok(body: bytes | None = None, **headers: str) -> httpx.Response:
    """Return a success, by default with one image."""
    return httpx.Response(200, content=success() if body is None else body, headers=headers)


def parts(request: httpx.Request) -> list[tuple[str, str, bytes]]:
    """Return the name, the other headers and the content of each part of a form."""
    boundary = request.headers["content-type"].partition("boundary=")[2].encode()
    form_parts = []
    for part in request.content.split(b"--" + boundary)[1:-1]:
        head, _, content = part.strip(b"\r\n").partition(b"\r\n\r\n")
        name, _, headers = head.decode().partition('name="')[2].partition('"')
        form_parts.append((name, headers, content))
    return form_parts
