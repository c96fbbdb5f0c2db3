"""The services' own SDKs send the same bytes, so nobody here made the wire format up."""

import base64
import io
from typing import Any

import httpx
import pytest

from langchain_image_variation.contract import CreateImageVariationRequest
from langchain_image_variation.engines.call import call_engine
from langchain_image_variation.engines.loading import load_engine
from langchain_image_variation.engines.traits import close_engine
from langchain_image_variation.images.png import SquarePNG
from pytest_image_variation.samples import square_png
from tests.hosted.services.fakes import (
    KEY,
    FakeFal,
    FakeRecraft,
    FakeReplicate,
    FakeService,
    Received,
)

SOURCE = square_png(300)


def received_from_us(name: str, service: FakeService) -> list[Received]:
    """Return what a service receives from our engine for one image of seed 3."""
    engine = load_engine(name, base_url=service.url, api_key=KEY, seed=3)
    request = CreateImageVariationRequest(
        image=SquarePNG(SOURCE), n=1, size="1024x1024", response_format="b64_json"
    )
    call_engine(engine, request)
    close_engine(engine)
    received, service.received = service.received, []
    return received


class Redirected(httpx.HTTPTransport):
    """Sends requests for a service to its fake on loopback."""

    def __init__(self, service: FakeService) -> None:
        super().__init__()
        self._url = httpx.URL(service.url)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request to the same path of the fake."""
        request.url = request.url.copy_with(scheme="http", host=self._url.host, port=self._url.port)
        return super().handle_request(request)


def test_fal_client_sends_the_same(fal: FakeFal, monkeypatch: pytest.MonkeyPatch) -> None:
    """fal-client submits, polls, fetches and cancels a job as our engine does."""
    fal_client = pytest.importorskip("fal_client")
    ours = received_from_us("fal", fal)
    monkeypatch.setattr("fal_client.client.BackupDomainTransport", lambda: Redirected(fal))
    client: Any = fal_client.SyncClient(key=KEY)
    client.submit("fal-ai/flux-1/dev/redux", arguments=ours[0].json)
    # The fake's links lead elsewhere, so the SDK makes them of the job's ID.
    handle = client.get_handle("fal-ai/flux-1/dev/redux", "job-1")
    handle.status()
    client._client.get(handle.response_url)
    theirs = fal.received
    for our_request, their_request in zip(ours, theirs, strict=True):
        assert our_request.method == their_request.method
        their_path = their_request.path.replace("job-1", "job-0").partition("?")[0]
        assert our_request.path == their_path
        assert our_request.body == their_request.body
        for header in ("authorization", "content-type"):
            assert our_request.headers.get(header) == their_request.headers.get(header)
    handle.cancel()
    assert (fal.received[-1].method, fal.received[-1].path) == (
        "PUT",
        "/fal-ai/flux-1/requests/job-1/cancel",
    )
    client._client.close()


def test_replicate_sends_the_same(replicate: FakeReplicate) -> None:
    """The SDK of Replicate creates, fetches and cancels a prediction as our engine does."""
    sdk: Any = pytest.importorskip("replicate")
    [ours, _] = received_from_us("replicate", replicate)
    client = sdk.Client(api_token=KEY, transport=Redirected(replicate))
    model_input = {**ours.json["input"], "redux_image": io.BytesIO(SOURCE)}
    prediction = client.models.predictions.create(
        "black-forest-labs/flux-redux-dev",
        input=model_input,
        wait=5,
        file_encoding_strategy="base64",
    )
    [theirs] = replicate.received
    assert (ours.method, f"/v1{ours.path}") == (theirs.method, theirs.path)
    theirs_json = theirs.json
    sent = theirs_json["input"].pop("redux_image")
    ours_json = ours.json
    assert ours_json["input"].pop("redux_image").partition(",")[2] == sent.partition(",")[2]
    assert ours_json == theirs_json
    for header in ("authorization", "content-type", "prefer"):
        assert ours.headers.get(header) == theirs.headers.get(header)
    assert base64.b64decode(sent.partition(",")[2]) == SOURCE
    prediction.cancel()
    assert replicate.received[-1].path.endswith("/predictions/p1/cancel")


def test_openai_sends_recraft_the_same(recraft: FakeRecraft) -> None:
    """Recraft documents the vendor's SDK as its client: it sends the same form."""
    openai = pytest.importorskip("openai")
    [ours] = received_from_us("recraft", recraft)
    fields = {name: value.decode() for name, value in ours.form.items() if name != "image"}
    with openai.OpenAI(base_url=recraft.url, api_key=KEY) as client:
        client.post(
            "/images/variateImage",
            cast_to=object,
            body=fields,
            files={"image": ("image.png", SOURCE, "image/png")},
            options={"headers": {"Content-Type": "multipart/form-data"}},
        )
    [theirs] = recraft.received
    assert (ours.method, ours.path, ours.form) == (theirs.method, theirs.path, theirs.form)
    assert ours.headers["authorization"] == theirs.headers["authorization"]
