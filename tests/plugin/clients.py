"""The HTTP clients and SDKs that programs ask for variations with, behind one call."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import aiohttp
import httpx
import httpx2
import openai
import requests

from tests.plugin.asking import Got

Fields = Mapping[str, str]
Send = Callable[[str, Fields, bytes | None, Mapping[str, str]], Got]
"""Asks an address: with the fields, the picture and the headers if there is a picture or a field,
else without a body."""

URL = "https://anywhere.example/v1"


def _files(fields: Fields, image: bytes | None) -> list[tuple[str, Any]]:
    parts: list[tuple[str, Any]] = [(name, (None, value)) for name, value in fields.items()]
    return parts if image is None else [*parts, ("image", ("a.png", image, "image/png"))]


@contextmanager
def _sync(library: Any) -> Iterator[Send]:
    with library.Client() as client:

        def send(url: str, fields: Fields, image: bytes | None, headers: Mapping[str, str]) -> Got:
            files = _files(fields, image)
            if files:
                answer = client.post(url, files=files, headers=headers)
            else:
                answer = client.get(url)
            return Got(answer.status_code, answer.headers, answer.content)

        yield send


@contextmanager
def _awaited(library: Any) -> Iterator[Send]:
    with asyncio.Runner() as runner:
        client = library.AsyncClient()

        async def ask(
            url: str, fields: Fields, image: bytes | None, headers: Mapping[str, str]
        ) -> Got:
            files = _files(fields, image)
            if files:
                answer = await client.post(url, files=files, headers=headers)
            else:
                answer = await client.get(url)
            return Got(answer.status_code, answer.headers, answer.content)

        yield lambda *arguments: runner.run(ask(*arguments))
        runner.run(client.aclose())


@contextmanager
def _requests() -> Iterator[Send]:
    with requests.Session() as session:

        def send(url: str, fields: Fields, image: bytes | None, headers: Mapping[str, str]) -> Got:
            files = _files(fields, image)
            if files:
                answer = session.post(url, files=files, headers=dict(headers))
            else:
                answer = session.get(url)
            return Got(answer.status_code, answer.headers, answer.content)

        yield send


@contextmanager
def _aiohttp() -> Iterator[Send]:
    with asyncio.Runner() as runner:

        async def opened() -> aiohttp.ClientSession:
            return aiohttp.ClientSession()

        session = runner.run(opened())

        async def ask(
            url: str, fields: Fields, image: bytes | None, headers: Mapping[str, str]
        ) -> Got:
            if not fields and image is None:
                call = session.get(url)
            else:
                form = aiohttp.FormData()
                for name, value in fields.items():
                    form.add_field(name, value)
                if image is not None:
                    form.add_field("image", image, filename="a.png", content_type="image/png")
                call = session.post(url, data=form, headers=headers)
            async with call as answer:
                return Got(answer.status, answer.headers, await answer.read())

        yield lambda *arguments: runner.run(ask(*arguments))
        runner.run(session.close())


Raw = Coroutine[Any, Any, Any]


def _call(sdk: Any, url: str, fields: Fields, image: bytes | None, headers: Fields) -> Any:
    """Make the SDK's own call; what it has no argument for goes by `extra_body`."""
    known = {"n", "size", "response_format", "user", "model"}
    named = {name: value for name, value in fields.items() if name in known}
    others = {name: value for name, value in fields.items() if name not in known}
    own = sdk.with_options(base_url=url.removesuffix("/images/variations"))
    return own.images.with_raw_response.create_variation(
        image=("a.png", image, "image/png"),
        extra_body=others or None,
        extra_headers={"authorization": headers.get("authorization", openai.Omit())},
        **named,
    )


@contextmanager
def _openai() -> Iterator[Send]:
    with openai.OpenAI(base_url=URL, api_key="x", max_retries=0) as sdk, httpx.Client() as files:

        def send(url: str, fields: Fields, image: bytes | None, headers: Mapping[str, str]) -> Got:
            if image is None:
                answer: Any = files.get(url)
            else:
                try:
                    answer = _call(sdk, url, fields, image, headers)
                except openai.APIStatusError as error:
                    answer = error.response
            return Got(answer.status_code, answer.headers, answer.content)

        yield send


@contextmanager
def _async_openai() -> Iterator[Send]:
    with asyncio.Runner() as runner, httpx.Client() as files:
        sdk = openai.AsyncOpenAI(base_url=URL, api_key="x", max_retries=0)

        async def ask(
            url: str, fields: Fields, image: bytes | None, headers: Mapping[str, str]
        ) -> Got:
            try:
                answer = await _call(sdk, url, fields, image, headers)
            except openai.APIStatusError as error:
                answer = error.response
            return Got(answer.status_code, answer.headers, answer.content)

        def send(url: str, fields: Fields, image: bytes | None, headers: Mapping[str, str]) -> Got:
            if image is None:
                got = files.get(url)
                return Got(got.status_code, got.headers, got.content)
            return runner.run(ask(url, fields, image, headers))

        yield send
        runner.run(sdk.close())


CLIENTS = {
    "httpx": lambda: _sync(httpx),
    "httpx-async": lambda: _awaited(httpx),
    "httpx2": lambda: _sync(httpx2),
    "httpx2-async": lambda: _awaited(httpx2),
    "requests": _requests,
    "aiohttp": _aiohttp,
    "openai": _openai,
    "openai-async": _async_openai,
}
