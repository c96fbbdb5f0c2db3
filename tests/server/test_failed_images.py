"""Answers that lack images, because the engine could not make all of them."""

import base64
import json
import logging
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from langchain_image_variation.contract import CreateImageVariationRequest, Image, ImagesResponse
from langchain_image_variation.exceptions import (
    AuthenticationError,
    EngineTimeoutError,
    ImageVariationError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServiceUnavailableError,
)
from langchain_image_variation.images.png import SquarePNG
from langchain_image_variation.server import create_app
from langchain_image_variation.server.log import JSONLines
from pytest_image_variation.samples import square_png
from tests.server.serving import serving
from tests.server.test_app import PATH, error_of, image_part, new_client

FORM = {"n": "3", "size": "256x256", "response_format": "b64_json"}


class LocalEngine:
    """Returns the given files. In place of an error, it returns an image with this failure."""

    def __init__(self, *outcomes: bytes | ImageVariationError) -> None:
        self.calls = 0
        self._outcomes = outcomes

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Return the images, whatever the request."""
        self.calls += 1
        images = []
        for outcome in self._outcomes:
            image = Image()
            if isinstance(outcome, bytes):
                image.b64_json = base64.b64encode(outcome).decode()
            else:
                image.set_failure(outcome)
            images.append(image)
        return ImagesResponse(created=1, data=images)


class HostedEngine(LocalEngine):
    """The same, but hosted: each call is billed."""

    base_url = "http://127.0.0.1:8000/v1"


class UnavailableEngine(HostedEngine):
    """A hosted engine whose calls fail."""

    def __init__(self, error: ImageVariationError) -> None:
        super().__init__()
        self._error = error

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Fail."""
        self.calls += 1
        raise self._error


GOOD = square_png(256)
LIMITED = RateLimitError("The account sent too many calls.")


def sides(answer: httpx.Response) -> list[int]:
    """Return the sides of the images in an answer."""
    assert answer.status_code == 200, answer.text
    return [SquarePNG(base64.b64decode(image["b64_json"])).side for image in answer.json()["data"]]


@pytest.mark.parametrize("response_format", ["b64_json", "url"])
async def test_a_header_says_how_many_images_failed(tmp_path: Path, response_format: str) -> None:
    """An answer without some images says how many, and one with all images has no such header."""
    form = {**FORM, "response_format": response_format}
    async with new_client(tmp_path, HostedEngine(GOOD, LIMITED, GOOD)) as client:
        answer = await client.post(PATH, data=form, files=image_part())
    assert len(answer.json()["data"]) == 2
    assert answer.headers["x-failed-images"] == "1"
    async with new_client(tmp_path, HostedEngine(GOOD, GOOD, GOOD)) as client:
        answer = await client.post(PATH, data=form, files=image_part())
    assert len(answer.json()["data"]) == 3
    assert "x-failed-images" not in answer.headers


async def test_the_operator_learns_why_images_failed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says how many images an answer lacks and why, and a metric counts them."""
    caplog.set_level(logging.WARNING, "langchain_image_variation.server")
    async with new_client(tmp_path, HostedEngine(GOOD, LIMITED, LIMITED)) as client:
        answer = await client.post(PATH, data=FORM, files=image_part())
        metrics = (await client.get("/metrics")).text
    request_id, reason = answer.headers["x-request-id"], "The account sent too many calls."
    [record] = caplog.records
    assert record.getMessage() == f"request {request_id}: 2 of 3 images failed: {reason}"
    line = json.loads(JSONLines().format(record))
    fields = {"request_id": request_id, "failed": 2, "n": 3, "error": reason}
    assert line == {"level": "warning", **fields}
    assert "image_variation_failed_images_total 2.0" in metrics


async def test_an_answer_without_some_images_is_remembered(tmp_path: Path) -> None:
    """A repeated key gets the same images, which are not paid for again, and the same header.

    Another server with the same store answers so, too. A new key asks the engine again.
    """
    engine, key = HostedEngine(GOOD, LIMITED, GOOD), {"idempotency-key": "k1"}
    answers = []
    for _ in range(2):
        async with new_client(tmp_path, engine) as client:
            for _ in range(2):
                answers.append(await client.post(PATH, data=FORM, files=image_part(), headers=key))
    assert engine.calls == 1
    assert {answer.content for answer in answers} == {answers[0].content}
    assert [answer.headers["x-failed-images"] for answer in answers] == ["1"] * 4
    async with new_client(tmp_path, engine) as client:
        await client.post(PATH, data=FORM, files=image_part(), headers={"idempotency-key": "k2"})
    assert engine.calls == 2


async def test_an_image_that_cannot_be_decoded_loses_no_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If a hosted engine returns a page in place of an image, the client gets the others."""
    engine = HostedEngine(GOOD, b"<html>Sorry</html>", square_png(64))
    async with new_client(tmp_path, engine) as client:
        answer = await client.post(PATH, data=FORM, files=image_part())
    assert sides(answer) == [256, 256]
    assert answer.headers["x-failed-images"] == "1"
    assert "1 of 3 images failed" in caplog.text


@pytest.mark.parametrize("fault", [square_png(64), LIMITED])
async def test_an_engine_without_a_server_makes_all_images(
    tmp_path: Path, fault: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """If an image of an engine without a server is wrong, the request fails, and the log has it."""
    async with new_client(tmp_path, LocalEngine(GOOD, GOOD, fault)) as client:
        answer = await client.post(PATH, data=FORM, files=image_part())
    if fault is LIMITED:
        assert error_of(answer, 429)["message"] == "The account sent too many calls."
    else:
        error_of(answer, 500)
        assert "LocalEngine.create_variation returned image 3 of 3 with 64x64 pixels" in caplog.text


@pytest.mark.parametrize("kind", [AuthenticationError, NotFoundError, PermissionDeniedError])
async def test_the_engines_key_is_not_the_clients(
    tmp_path: Path, kind: type[ImageVariationError]
) -> None:
    """If each image failed because of the engine's key, the client does not get a 401."""
    async with new_client(tmp_path, HostedEngine(*[kind("Wrong key sk-ours.")] * 3)) as client:
        answer = await client.post(PATH, data=FORM, files=image_part())
    error_of(answer, 500)
    assert "sk-ours" not in answer.text


@pytest.mark.mostly_slow("unusable", "lost")
@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    ("engine", "calls"),
    [
        (HostedEngine(b"<html>Sorry</html>"), 1),
        (UnavailableEngine(EngineTimeoutError("The answer was lost.")), 1),
        (UnavailableEngine(ServiceUnavailableError("Overloaded.", retry_after=0.01)), 2),
        (LocalEngine(b"<html>Sorry</html>"), 2),
    ],
    ids=["unusable", "lost", "overloaded", "local"],
)
def test_sdks_do_not_pay_again(tmp_path: Path, engine: LocalEngine, calls: int) -> None:
    """The vendor's SDK does not repeat a request after a call that may have been billed."""
    app = create_app(engine, store_dir=tmp_path, public_url="http://127.0.0.1")
    with serving(app) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="sk-any", max_retries=1)
        with client, pytest.raises(openai.InternalServerError):
            client.images.create_variation(image=("a.png", GOOD, "image/png"), size="256x256")
    assert engine.calls == calls
