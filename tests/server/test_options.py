"""Options of the engine in a request, and the progress of a request."""

import asyncio
import base64
import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from langchain_image_variation.cli import main
from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.context import progress_reporter
from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.engines.local import LocalEngine
from langchain_image_variation.exceptions import InvalidRequestError
from langchain_image_variation.images.png import SquarePNG
from langchain_image_variation.server import create_app
from pytest_image_variation.samples import square_png
from tests.server.serving import serving

pytestmark = pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")

PATH = "/v1/images/variations"
PNG = square_png(64)


def new_client(folder: Path, engine: Any, **options: Any) -> httpx.AsyncClient:
    """Return a client of a new app, without a socket. It accepts the strength if it can."""
    if isinstance(engine, LocalEngine):
        options = {"accept_fields": ["strength"], **options}
    transport = httpx.ASGITransport(create_app(engine, store_dir=folder, **options))
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


async def post(client: httpx.AsyncClient, **fields: str) -> httpx.Response:
    """Send a small request with these fields."""
    form = {"size": "256x256", "response_format": "b64_json", **fields}
    return await client.post(PATH, data=form, files={"image": ("a.png", PNG, "image/png")})


def test_the_sdk_sets_seed_and_strength(tmp_path: Path) -> None:
    """The official SDK sets a seed and a strength with `extra_body`, and gets their images."""
    with (
        serving(
            create_app(LocalEngine(strength=0.9), store_dir=tmp_path, accept_fields=["strength"])
        ) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="any-text") as client,
    ):
        response = client.images.create_variation(
            image=PNG,
            n=2,
            size="256x256",
            response_format="b64_json",
            extra_body={"seed": 7, "strength": 0.25},
        )
    request = CreateImageVariationRequest(image=SquarePNG(PNG), n=2, size="256x256")
    expected = LocalEngine(seed=7, strength=0.25).create_variation(request)
    assert response.data is not None
    for image, expected_image in zip(response.data, expected.data, strict=True):
        assert base64.b64decode(image.b64_json or "") == expected_image.read()


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"seed": "-1"}, "seed", "seed must be a whole number of at least 0, got -1"),
        ({"seed": "1.5"}, "seed", "got 1.5"),
        ({"seed": "seven"}, "seed", "got 'seven'"),
        ({"seed": "1" + "0" * 18}, "seed", "at most 18 digits, got '1000000000000000000'."),
        ({"seed": "9" * 100}, "seed", "seed must have at most 18 digits, got '9"),
        ({"strength": "0" * 19}, "strength", "strength must have at most 18 digits"),
        ({"strength": "9" * 18}, "strength", "from 0 to 1, got 999999999999999999"),
        ({"strength": "1.01"}, "strength", "strength must be a number from 0 to 1, got 1.01"),
        ({"strength": "nan"}, "strength", "got 'nan'"),
        ({"strength": "null"}, "strength", "must be a number from 0 to 1, got 'null'"),
        ({"strength": "much"}, "strength", "must be a number from 0 to 1, got 'much'"),
        ({"strength": "-0.5"}, "strength", "must be a number from 0 to 1, got -0.5"),
        ({"strength": "1e-3"}, "strength", "got '1e-3'"),
        ({"strength": "0.5,0.6"}, "strength", "got '0.5,0.6'"),
        ({"light": "no"}, "light", "'light' is not a field of this request"),
        ({"threads": "1"}, "threads", "user, seed, strength."),
    ],
)
async def test_invalid_options_are_refused(
    tmp_path: Path, fields: dict[str, str], param: str, words: str
) -> None:
    """An option with an invalid value is a 400, as is one that requests may not set."""
    async with new_client(tmp_path, LocalEngine()) as client:
        response = await post(client, **fields)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert words in error["message"]


async def test_empty_options_count_as_absent(tmp_path: Path) -> None:
    """Web forms send empty fields. The engine's own options hold then."""
    async with new_client(tmp_path, LocalEngine(seed=3, strength=0.1)) as client:
        bodies = [
            (await post(client, **fields)).json()["data"]
            for fields in ({}, {"seed": "", "strength": ""}, {"seed": "3", "strength": ".1"})
        ]
    assert bodies[0] == bodies[1] == bodies[2]


async def test_an_engine_without_options_refuses_them(tmp_path: Path) -> None:
    """Without `with_options`, `seed` is an unknown field, as it was for the vendor."""
    async with new_client(tmp_path, "instant") as client:
        response = await post(client, seed="7")
        document = (await client.get("/openapi.json")).json()
    assert response.status_code == 400
    assert "'seed' is not a field" in response.json()["error"]["message"]
    assert (
        "seed" not in document["components"]["schemas"]["CreateImageVariationRequest"]["properties"]
    )


async def test_the_document_has_the_options(tmp_path: Path) -> None:
    """The OpenAPI document lists the options of the engine after the fields of the contract."""
    async with new_client(tmp_path, LocalEngine()) as client:
        document = (await client.get("/openapi.json")).json()
    fields = document["components"]["schemas"]["CreateImageVariationRequest"]["properties"]
    assert list(fields) == [*CreateImageVariationRequest.model_fields, "seed", "strength"]


async def test_options_are_part_of_the_idempotency(tmp_path: Path) -> None:
    """A key that was used with another seed is a conflict."""
    headers = {"idempotency-key": "a"}
    async with new_client(tmp_path, LocalEngine(strength=0.1)) as client:
        client.headers.update(headers)
        first, again, other = [await post(client, seed=seed) for seed in ("1", "1", "2")]
    assert first.json() == again.json()
    assert other.status_code == 409


async def test_a_strength_needs_to_be_accepted(tmp_path: Path) -> None:
    """By default, `strength` is an unknown field, in the answer and in the document."""
    async with new_client(tmp_path, LocalEngine(), accept_fields=()) as client:
        response = await post(client, strength="0.3")
        seeded_response = await post(client, seed="3")
        document = (await client.get("/openapi.json")).json()
        page = (await client.get("/")).text
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "strength")
    assert "'strength' is not a field of this request. The fields are: image, " in error["message"]
    assert seeded_response.status_code == 200
    fields = document["components"]["schemas"]["CreateImageVariationRequest"]["properties"]
    assert "seed" in fields
    assert "strength" not in fields
    assert "&quot;strength&quot;" not in page


async def test_a_strength_is_sent_only_once(tmp_path: Path) -> None:
    """A form with two strengths is a 400, because nobody can tell which one counts."""
    async with new_client(tmp_path, LocalEngine()) as client:
        files: Any = [
            ("image", ("a.png", PNG, "image/png")),
            ("strength", (None, "0.2")),
            ("strength", (None, "0.2")),
        ]
        response = await client.post(PATH, files=files)
    assert response.status_code == 400
    assert "strength was sent more than once." in response.text


async def test_strengths_are_part_of_the_idempotency(tmp_path: Path) -> None:
    """A key that was used with another strength, or without one, is a conflict."""
    async with new_client(tmp_path, LocalEngine(seed=1)) as client:
        client.headers["idempotency-key"] = "a"
        forms: list[dict[str, str]] = [
            *({"strength": "0.2"}, {"strength": "0.20"}, {"strength": "0.3"}, {})
        ]
        first, again, *others = [await post(client, **form) for form in forms]
    assert first.json() == again.json()
    assert [response.status_code for response in others] == [409, 409]


class MoodyEngine(InstantEngine):
    """Lets a request set a strength, which it does not check, and a mood."""

    def with_options(self, *, strength: float = 0.5, mood: str = "calm") -> "MoodyEngine":
        """Return an engine whose color depends on the mood."""
        assert isinstance(strength, float)
        assert 0 <= strength <= 1
        return MoodyEngine(seed=len(mood))


async def test_other_options_need_to_be_accepted(tmp_path: Path) -> None:
    """Each option of an engine except the seed is off unless the server accepts it."""
    async with new_client(tmp_path, MoodyEngine()) as client:
        assert (await post(client, mood="calm")).status_code == 400
    async with new_client(tmp_path, MoodyEngine(), accept_fields="mood") as client:
        answers = [await post(client, mood=mood) for mood in ("calm", "wild!")]
        assert (await post(client, strength="0.5")).status_code == 400
    assert answers[0].json()["data"] != answers[1].json()["data"]


class PromptEngine(InstantEngine):
    """Lets a request set a prompt."""

    def with_options(self, *, prompt: str) -> "PromptEngine":
        """Return an engine whose color depends on the prompt."""
        assert isinstance(prompt, str)
        return PromptEngine(seed=len(prompt))


async def test_a_prompt_is_always_a_text(tmp_path: Path) -> None:
    """A prompt that looks like a number reaches the engine as text."""
    async with new_client(tmp_path, PromptEngine(), accept_fields=["prompt"]) as client:
        answers = [await post(client, prompt=prompt) for prompt in ("1984", "4.5", "9" * 50)]
    assert [answer.status_code for answer in answers] == [200] * 3


async def test_the_server_checks_the_strength(tmp_path: Path) -> None:
    """The server checks the strength for every engine, before the engine gets it."""
    async with new_client(tmp_path, MoodyEngine(), accept_fields=["strength"]) as client:
        for strength in ("nan", "null", "2", "-1", "much"):
            response = await post(client, strength=strength)
            assert response.status_code == 400
            assert "strength must be a number from 0 to 1, got " in response.text
        for strength in ("0", "1", "0.5", ""):
            assert (await post(client, strength=strength)).status_code == 200


def test_fields_that_no_request_can_set_are_refused(tmp_path: Path) -> None:
    """A server does not start with a field that its engine does not let requests set."""
    for engine, field, names in (("instant", "strength", "none"), ("local", "light", "seed, str")):
        with pytest.raises(InvalidRequestError, match=f"got {field!r}. The engine '{engine}' has"):
            create_app(engine, store_dir=tmp_path, accept_fields=[field])
        with pytest.raises(InvalidRequestError, match=f"these: {names}"):
            create_app(engine, store_dir=tmp_path, accept_fields=field)


def test_the_command_names_its_option(capsys: pytest.CaptureFixture[str]) -> None:
    """`serve --accept-field` with a field that the engine lacks is one line, and exit code 2."""
    assert main(["serve", "--engine", "instant", "--accept-field", "strength"]) == 2
    assert capsys.readouterr().err == (
        "image-variation: --accept-field must name options that a request can set, got 'strength'. "
        "The engine 'instant' has these: none.\n"
    )


class SteppingEngine(InstantEngine):
    """Reports a share of the work each time it is released."""

    def __init__(self) -> None:
        self.step = threading.Semaphore(0)
        self.reported = threading.Semaphore(0)

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Report 25 %, then 50 %, and answer."""
        reporter = progress_reporter()
        for share in (0.25, 0.5):
            reporter.work_done(share)
            self.reported.release()
            assert self.step.acquire(timeout=30)
        return super().create_variation(request)


async def test_a_running_request_shows_its_progress(tmp_path: Path) -> None:
    """While a request runs, its ID shows its progress. Before and afterwards, it is a 404."""
    engine = SteppingEngine()
    async with new_client(tmp_path, engine) as client:
        assert (await client.get("/progress/a")).status_code == 404
        client.headers["x-client-request-id"] = "a"
        call = asyncio.create_task(post(client, n="3"))
        for share in (0.25, 0.5):
            assert await asyncio.to_thread(engine.reported.acquire, timeout=30)
            response = await client.get("/progress/a")
            progress = {"finished": 0, "n": 3, "share": share, "activity": None}
            assert response.json() == progress
            assert response.headers["cache-control"] == "no-store"
            engine.step.release()
        assert (await call).status_code == 200
        gone = await client.get("/progress/a")
    assert gone.status_code == 404
    assert "No request with this X-Client-Request-Id is running." in gone.text


async def test_an_id_belongs_to_one_request(tmp_path: Path) -> None:
    """A second request with a running request's ID is served, and does not change its progress."""
    engine = SteppingEngine()
    async with new_client(tmp_path, engine, workers=2) as client:
        client.headers["x-client-request-id"] = "a"
        first = asyncio.create_task(post(client, n="1"))
        assert await asyncio.to_thread(engine.reported.acquire, timeout=30)
        second = asyncio.create_task(post(client, n="2"))
        assert await asyncio.to_thread(engine.reported.acquire, timeout=30)
        assert (await client.get("/progress/a")).json()["n"] == 1
        for _ in range(4):
            engine.step.release()
        assert [(await call).status_code for call in (first, second)] == [200, 200]
        assert (await client.get("/progress/a")).status_code == 404


def test_a_client_that_left_has_no_progress(tmp_path: Path) -> None:
    """What an engine reports after its client has left is not kept, and frees the ID."""
    engine = SteppingEngine()
    with (
        serving(create_app(engine, store_dir=tmp_path, workers=1)) as address,
        httpx.Client(base_url=address, headers={"x-client-request-id": "a"}) as client,
    ):
        files = {"image": ("a.png", PNG, "image/png")}
        request = client.build_request("POST", PATH, files=files)
        head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        with socket.create_connection((request.url.host, request.url.port or 80)) as connection:
            connection.sendall(f"POST {PATH} HTTP/1.1\r\n{head}\r\n".encode() + request.read())
            assert engine.reported.acquire(timeout=30)
            assert client.get("/progress/a").json()["share"] == 0.25
        while client.get("/progress/a").status_code != 404:
            time.sleep(0.01)
        # The engine does not know yet. It reports a second time.
        engine.step.release()
        assert engine.reported.acquire(timeout=30)
        assert client.get("/progress/a").status_code == 404
        for _ in range(3):
            engine.step.release()
        again = client.post(PATH, files=files, data={"response_format": "b64_json"}, timeout=30)
        assert again.status_code == 200
        assert client.get("/progress/a").status_code == 404


async def test_odd_ids_are_not_errors(tmp_path: Path) -> None:
    """A long or empty `X-Client-Request-Id` is ignored, because clients also use it for logs."""
    async with new_client(tmp_path, "instant") as client:
        for value in ("", "x" * 5000, "a/b"):
            client.headers["x-client-request-id"] = value
            assert (await post(client)).status_code == 200


async def test_progress_needs_the_key(tmp_path: Path) -> None:
    """On a server with a key, only clients with the key may read the progress of requests."""
    async with new_client(tmp_path, "instant", api_key="sk-right") as client:
        assert (await client.get("/progress/a")).status_code == 401
        client.headers["authorization"] = "Bearer sk-right"
        assert (await client.get("/progress/a")).status_code == 404
