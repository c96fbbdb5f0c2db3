import io
import json
from pathlib import Path

import httpx
import pytest
from PIL import Image as PILImage

from langchain_image_variation.engines import AsyncVariationEngine, VariationEngine
from langchain_image_variation.exceptions import (
    InvalidRequestError,
)
from langchain_image_variation.hosted.client import AsyncImageVariationClient, ImageVariationClient
from langchain_image_variation.images.png import SquarePNG
from langchain_image_variation.source import load_source
from pytest_image_variation.samples import jpeg
from tests.calling import (
    BASE_URL,
    PNG,
    answering,
    b64,
    ok,
    parts,
)


def test_the_examples_of_the_reference_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference's examples run with only the import changed: a file, its bytes, a BytesIO."""
    monkeypatch.setenv("OPENAI_BASE_URL", BASE_URL)
    path = tmp_path / "image.png"
    path.write_bytes(PNG)
    handler, requests = answering(ok(json.dumps({"created": 1, "data": [{"url": "x"}]}).encode()))
    http_client = httpx.Client(transport=httpx.MockTransport(handler))
    with http_client, open(path, "rb") as file:
        client = ImageVariationClient(http_client=http_client)
        response = client.images.create_variation(
            image=file, n=1, model="dall-e-2", size="1024x1024"
        )
        assert response.data[0].url == "x"
        for image in (
            PNG,
            io.BytesIO(PNG),
            str(path),
            path,
            ("image.png", PNG),
            ("image.png", io.BytesIO(PNG), "image/png"),
            SquarePNG(PNG),
            load_source(path),
            PILImage.open(path),
            f"data:image/png;base64,{b64()}",
        ):
            client.images.create_variation(image=image)
    assert len(requests) == 11
    assert {parts(request)[-1][2] == PNG for request in requests[:9]} == {True}
    assert {parts(request)[0][2] for request in requests} == {b"dall-e-2"}


async def test_the_async_call_in_the_shape_of_the_sdk() -> None:
    """The async client is called like the SDK's, and crops an image to a square."""
    handler, requests = answering(ok())
    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as http_client:
        client = AsyncImageVariationClient(base_url=BASE_URL, http_client=http_client)
        await client.images.create_variation(image=jpeg(), n=3, user="u")
    assert SquarePNG(parts(requests[0])[-1][2]).side == 64
    assert {name: value for name, _, value in parts(requests[0])[:-1]}["n"] == b"3"


def test_bad_arguments_are_refused_before_any_traffic() -> None:
    """A bad argument is refused before anything is sent, and the error names it."""
    handler, requests = answering(ok())
    with httpx.Client(transport=httpx.MockTransport(handler)) as http_client:
        client = ImageVariationClient(base_url=BASE_URL, http_client=http_client)
        with pytest.raises(InvalidRequestError, match="n must be"):
            client.images.create_variation(image=PNG, n=11)
        with pytest.raises(InvalidRequestError, match="image"):
            client.images.create_variation(image=("x",))
        with pytest.raises(InvalidRequestError, match="image"):
            client.images.create_variation(image=7)  # type: ignore[arg-type]  # on purpose
    assert requests == []


def test_both_clients_are_engines() -> None:
    """Both clients satisfy the Protocols of engines."""
    assert isinstance(ImageVariationClient(base_url=BASE_URL), VariationEngine)
    assert isinstance(AsyncImageVariationClient(base_url=BASE_URL), AsyncVariationEngine)


def test_an_http_client_stays_open() -> None:
    """Closing a client closes only connections that it opened, not those of your `http_client`."""
    handler, _ = answering(ok())
    with httpx.Client(transport=httpx.MockTransport(handler)) as http_client:
        with ImageVariationClient(base_url=BASE_URL, http_client=http_client):
            pass
        assert not http_client.is_closed
