"""One client of a vendor's SDK for variations here and for everything else at the upstream."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from pytest_image_variation.samples import square_png
from tests.server.serving import check_image, installed_client
from tests.server.upstreams import WORDS, FakeVendor, forwarding_to_vendor

MESSAGES: list[openai.types.chat.ChatCompletionMessageParam] = [
    {"role": "user", "content": "Describe the photo."}
]


@pytest.fixture(params=["server has a key", "no key"])
def door(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeVendor]:
    """The upstream of a server that the environment names."""
    settings = {"api_key": "sk-ours", "upstream_api_key": "sk-upstreams"}
    if request.param == "no key":
        settings = {}
    with forwarding_to_vendor(tmp_path, **settings) as (address, vendor):
        monkeypatch.setenv("OPENAI_BASE_URL", f"{address}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "sk-ours" if settings else "sk-upstreams")
        yield vendor
        # A test that was skipped has sent none.
        keys = {headers["authorization"] for _, headers, _ in vendor.requests}
        assert keys <= {"Bearer sk-upstreams"}


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_one_python_client_for_everything(door: FakeVendor) -> None:
    """One client streams a chat, embeds, uploads a file, lists models and makes variations."""
    with openai.OpenAI() as client:
        with client.chat.completions.create(
            model="gpt-9", messages=MESSAGES, stream=True
        ) as stream:
            deltas = [chunk.choices[0].delta.content for chunk in stream]
        assert deltas == [*WORDS, None]
        answer = client.chat.completions.create(model="gpt-9", messages=MESSAGES)
        assert answer.choices[0].message.content == "".join(WORDS)
        assert answer._request_id == "req_upstream"
        assert client.embeddings.create(model="m", input="x").data[0].embedding == [0.25, -0.5]
        file = client.files.create(file=("a.jsonl", b"{}\n" * 100_000), purpose="batch")
        assert file.bytes > 300_000
        assert [model.id for model in client.models.list()] == ["dall-e-2", "instant", "gpt-9"]
        response = client.images.create_variation(
            image=square_png(64), n=2, size="256x256", response_format="b64_json"
        )
        assert response.data is not None
        for image in response.data:
            check_image(image.b64_json or "", "256x256")


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
async def test_one_async_client_for_everything(door: FakeVendor) -> None:
    """The async client does the same with the transport aiohttp."""
    async with openai.AsyncOpenAI(http_client=openai.DefaultAioHttpClient()) as client:
        stream = await client.chat.completions.create(model="gpt-9", messages=MESSAGES, stream=True)
        assert [chunk.choices[0].delta.content async for chunk in stream] == [*WORDS, None]
        response = await client.images.create_variation(image=square_png(64), size="256x256")
        assert response.data is not None
        check_image(response.data[0].url or "", "256x256")


def test_the_upstreams_errors_are_the_sdks(door: FakeVendor) -> None:
    """An error of the upstream becomes the SDK's exception, with its code and request ID."""
    with openai.OpenAI(max_retries=0) as client, pytest.raises(openai.RateLimitError) as caught:
        client.post("/limited", cast_to=object, body={})
    assert caught.value.code == "too_fast"
    assert caught.value.request_id == "req_upstream"


@pytest.mark.slow
@pytest.mark.parametrize("release", ["newest", "4"])
def test_one_node_client_for_everything(door: FakeVendor, tmp_path: Path, release: str) -> None:
    """One client of the npm package does the same."""
    folder = installed_client(f"node-{release}/node_modules/openai").parents[1]
    photo = tmp_path / "image.png"
    photo.write_bytes(square_png(64))
    script = Path(__file__).with_name("clients") / "everything.mjs"
    process = subprocess.run(
        [shutil.which("node") or "node", script, folder, photo],
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ,
    )
    assert process.returncode == 0, process.stderr
    output = json.loads(process.stdout)
    assert output["words"] == [*WORDS]
    assert output["embedding"] == [0.25, -0.5]
    assert output["bytes"] > 300_000
    assert output["models"] == ["dall-e-2", "instant", "gpt-9"]
    assert output["error"] == ["RateLimitError", "too_fast"]
    check_image(output["image"], "256x256")
