"""A page of another origin in a real browser, which calls the server as the vendor's SDK does.

No test here is async: the browser's sync API has a loop running in the thread.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright")

from playwright.sync_api import Browser
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Route

from langchain_image_variation.server import create_app
from pytest_image_variation.samples import square_png
from tests.chromium import CHROMIUM
from tests.server.serving import serving

KEY = "sk-1"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]

CALL = """async ([url, key, bytes, fields]) => {
    const form = new FormData();
    for (const [name, value] of Object.entries(fields)) form.append(name, value);
    form.append("image", new Blob([new Uint8Array(bytes)], { type: "image/png" }), "a.png");
    const headers = { authorization: `Bearer ${key}`, "x-stainless-lang": "js" };
    try {
        const response = await fetch(`${url}/v1/images/variations`, {
            method: "POST", headers: key ? headers : {}, body: form,
        });
        const body = await response.json();
        const file = body.data?.[0].url && await fetch(body.data[0].url);
        return {
            status: response.status,
            id: response.headers.get("x-request-id"),
            message: body.error?.message,
            type: file && (await file.blob()).type,
        };
    } catch (error) {
        return { failure: error.name };
    }
}"""
"""Calls the server, and downloads the first image if there is a URL."""


@pytest.fixture(scope="module")
def page_url() -> Iterator[str]:
    """The address of an empty page on another port, which is another origin."""
    with serving(
        Starlette(routes=[Route("/", lambda _: HTMLResponse("<title>App</title>"))])
    ) as url:
        yield url


def call(browser: Browser, page_url: str, url: str, key: str = "", **fields: str) -> Any:
    """Open the page, let it call a server, and return what it sees."""
    with browser.new_context() as context:
        tab = context.new_page()
        tab.goto(page_url)
        return tab.evaluate(CALL, [url, key, list(square_png(8)), {"size": "256x256", **fields}])


@pytest.mark.parametrize(("key", "all_pages"), [("", False), (KEY, False), (KEY, True)])
def test_an_allowed_page_calls_the_server(
    browser: Browser, page_url: str, tmp_path: Path, key: str, all_pages: bool
) -> None:
    """The page gets images, downloads them, and reads the request's ID and errors."""
    origins = ["*"] if all_pages else [page_url]
    app = create_app("instant", api_key=key or None, cors_origins=origins, store_dir=tmp_path)
    with serving(app) as url:
        seen = call(browser, page_url, url, key)
        assert (seen["status"], seen["type"]) == (200, "image/png")
        assert seen["id"].startswith("req_")
        refused = call(browser, page_url, url, key, n="11")
        assert refused["status"] == 400
        assert refused["message"].startswith("n must be a whole number from 1 to 10")
        assert not key or call(browser, page_url, url, "sk-wrong")["status"] == 401


@pytest.mark.parametrize("key", ["", KEY])
@pytest.mark.parametrize("origins", [(), ("http://localhost:1",)])
def test_another_page_sees_nothing(
    browser: Browser, page_url: str, tmp_path: Path, key: str, origins: tuple[str, ...]
) -> None:
    """The browser keeps each answer from a page whose origin is not allowed."""
    app = create_app("instant", api_key=key or None, cors_origins=origins, store_dir=tmp_path)
    with serving(app) as url:
        assert call(browser, page_url, url, key) == {"failure": "TypeError"}
