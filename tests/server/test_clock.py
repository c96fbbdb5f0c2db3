"""The server on a machine whose clock is put ahead or back."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.extras import skip_without

skip_without("starlette")

SCRIPT = """
import asyncio, sys, time

true_time, offset = time.time, 0.0
time.time = lambda: true_time() + offset

import httpx
from langchain_image_variation.server import create_app
from pytest_image_variation.samples import square_png

async def main():
    global offset
    app = create_app("local", store_dir=sys.argv[1])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:

        async def post(key):
            headers, files = {"idempotency-key": key}, {"image": ("a.png", square_png(8))}
            path, data = "/v1/images/variations", {"size": "256x256"}
            response = await client.post(path, data=data, files=files, headers=headers)
            return response.json()["data"][0]["url"]

        async def status(url):
            return (await client.get(url)).status_code

        first = await post("k1")
        print(await post("k1") == first, await status(first))
        offset = float(sys.argv[2])
        second = await post("k1")
        print(second == first, await status(first), await status(second))
        third = await post("k2")
        print(await post("k2") == third, await status(third), await status("/healthz"))

asyncio.run(main())
"""
"""Prints what holds before and after the clock is put ahead or back by some seconds."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seconds", "outcome"),
    [(172_800.0, "False 403 200"), (-172_800.0, "True 200 200")],
    ids=["ahead", "back"],
)
def test_an_answer_is_remembered_while_its_urls_work(
    tmp_path: Path, seconds: float, outcome: str
) -> None:
    """URLs and the answers that contain them expire together, and new requests work."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), str(seconds)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == ["True 200", outcome, "True 200 200"]
