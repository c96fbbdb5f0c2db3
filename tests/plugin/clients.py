"""The HTTP clients and SDKs that programs use, behind one function."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import aiohttp
import httpx
import httpx2
import openai
import requests

from tests.plugin.scenario_requests import Reply

Fields = Mapping[str, str]
Send = Callable[[str, Fields, bytes | None, Mapping[str, str]], Reply]
"""Posts the fields and the image to a URL with the headers, or without either, sends a GET."""

URL = "https://anywhere.example/v1"


def _files(fields: Fields, image: bytes | None) -> list[tuple[str, Any]]:
    parts: list[tuple[str, Any]] = [(name, (None, value)) for name, value in fields.items()]
    return parts if image is None else [*parts, ("image", ("a.png", image, "image/png"))]


@contextmanager
def _sync(library: Any) -> Iterator[Send]:
    with library.Client() as client:

        def send(
            url: str, fields: Fields, image: bytes | None, headers: Mapping[str, str]
        ) -> Reply:
            files = _files(fields, image)
            if files:
                answer = client.post(url, files=files, headers=headers)
            else:
                answer = client.get(url)
            return Reply(answer.status_code, answer.headers, answer.content)

        yield send


@contextmanager
def _async_client(library: Any) -> Iterator[Send]:
    with asyncio.Runner() as runner:
        client = library.AsyncClient()

        async def send_async(
            url: str, fields: Fields, image: bytes | None, headers: Mapping[str, str]
        ) -> Reply:
            files = _files(fields, image)
            if files:
                answer = await client.post(url, files=files, headers=headers)
            else:
                answer = await client.get(url)
            return Reply(answer.status_code, answer.headers, answer.content)

        yield lambda *arguments: runner.run(send_async(*arguments))
        runner.run(client.aclose())


@contextmanager
def _requests() -> Iterator[Send]:
    with requests.Session() as session:

        def send(
            url: str, fields: Fields, image: bytes | None, headers: Mapping[str, str]
        ) -> Reply:
            files = _files(fields, image)
            if files:
                answer = session.post(url, files=files, headers=dict(headers))
            else:
                answer = session.get(url)
            return Reply(answer.status_code, answer.headers, answer.content)

        yield send


@contextmanager
def _aiohttp() -> Iterator[Send]:
    with asyncio.Runner() as runner:

        async def open_session() -> aiohttp.ClientSession:
            return aiohttp.ClientSession()

        session = runner.run(open_session())

        async def send_async(
            url: str, fields: Fields, image: bytes | None, headers: Mapping[str, str]
        ) -> Reply:
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
                return Reply(answer.status, answer.headers, await answer.read())

        yield lambda *arguments: runner.run(send_async(*arguments))
        runner.run(session.close())


Raw = Coroutine[Any, Any, Any]


def _call(sdk: Any, url: str, fields: Fields, image: bytes | None, headers: Fields) -> Any:
    """Call the SDK. Fields without an argument go into `extra_body`."""
    names = {"n", "size", "response_format", "user", "model"}
    arguments = {name: value for name, value in fields.items() if name in names}
    others = {name: value for name, value in fields.items() if name not in names}
    client = sdk.with_options(base_url=url.removesuffix("/images/variations"))
    return client.images.with_raw_response.create_variation(
        image=("a.png", image, "image/png"),
        extra_body=others or None,
        extra_headers={"authorization": headers.get("authorization", openai.Omit())},
        **arguments,
    )


@contextmanager
def _openai() -> Iterator[Send]:
    with openai.OpenAI(base_url=URL, api_key="x", max_retries=0) as sdk, httpx.Client() as files:

        def send(
            url: str, fields: Fields, image: bytes | None, headers: Mapping[str, str]
        ) -> Reply:
            if image is None:
                answer: Any = files.get(url)
            else:
                try:
                    answer = _call(sdk, url, fields, image, headers)
                except openai.APIStatusError as error:
                    answer = error.response
            return Reply(answer.status_code, answer.headers, answer.content)

        yield send


@contextmanager
def _async_openai() -> Iterator[Send]:
    with asyncio.Runner() as runner, httpx.Client() as files:
        sdk = openai.AsyncOpenAI(base_url=URL, api_key="x", max_retries=0)

        async def send_async(
            url: str, fields: Fields, image: bytes | None, headers: Mapping[str, str]
        ) -> Reply:
            try:
                answer = await _call(sdk, url, fields, image, headers)
            except openai.APIStatusError as error:
                answer = error.response
            return Reply(answer.status_code, answer.headers, answer.content)

        def send(
            url: str, fields: Fields, image: bytes | None, headers: Mapping[str, str]
        ) -> Reply:
            if image is None:
                got = files.get(url)
                return Reply(got.status_code, got.headers, got.content)
            return runner.run(send_async(url, fields, image, headers))

        yield send
        runner.run(sdk.close())


CLIENTS = {
    "httpx": lambda: _sync(httpx),
    "httpx-async": lambda: _async_client(httpx),
    "httpx2": lambda: _sync(httpx2),
    "httpx2-async": lambda: _async_client(httpx2),
    "requests": _requests,
    "aiohttp": _aiohttp,
    "openai": _openai,
    "openai-async": _async_openai,
}
