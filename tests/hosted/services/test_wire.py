"""What each service receives, byte for byte, and how its jobs are waited for and cancelled."""

import asyncio
import base64
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from PIL import Image as PILImage

from langchain_image_variation.engines.call import call_engine, call_engine_async
from langchain_image_variation.engines.loading import load_engine
from langchain_image_variation.exceptions import (
    ContentPolicyError,
    EngineError,
    EngineResponseError,
    EngineTimeoutError,
    InvalidRequestError,
    ModelNotFoundError,
)
from langchain_image_variation.images.png import SquarePNG
from pytest_image_variation.samples import square_png
from tests.hosted.services.fakes import (
    KEY,
    FakeFal,
    FakeRecraft,
    FakeReplicate,
    FakeService,
    Reply,
    data_url,
)
from tests.hosted.services.requesting import make_request

SOURCE = square_png(300)
VERSION = "a" * 64

OpenEngine = Callable[..., Any]


def test_recraft_gets_a_form(recraft: FakeRecraft, open_engine: OpenEngine) -> None:
    """One call carries the image and asks for PNG files of 1024 pixels in base64."""
    call_engine(open_engine("recraft", recraft), make_request(4, SOURCE))
    [request] = recraft.received
    assert request.path == "/images/variateImage"
    assert request.form == {
        "size": b"1024x1024",
        "n": b"4",
        "response_format": b"b64_json",
        "image_format": b"png",
        "image": SOURCE,
    }


def test_recraft_is_asked_for_six_at_most(recraft: FakeRecraft, open_engine: OpenEngine) -> None:
    """Ten images without a seed are two billed calls, of six and of four."""
    call_engine(open_engine("recraft", recraft), make_request(10))
    assert sorted(int(one.form["n"]) for one in recraft.received) == [4, 6]


def test_recraft_images_are_prepared_once(
    recraft: FakeRecraft, open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calls of one request share the image that is sent."""
    enlarged: list[tuple[int, int]] = []
    resize = PILImage.Image.resize

    def count_enlarged(image: PILImage.Image, size: tuple[int, int], *options: Any) -> Any:
        if size > image.size:
            enlarged.append(size)
        return resize(image, size, *options)

    monkeypatch.setattr(PILImage.Image, "resize", count_enlarged)
    call_engine(open_engine("recraft", recraft, seed=1), make_request(3))
    assert enlarged == [(256, 256)]
    assert len({one.form["image"] for one in recraft.received}) == 1


def test_recraft_makes_each_seed_alone(recraft: FakeRecraft, open_engine: OpenEngine) -> None:
    """With a seed, each image is a call with its own random_seed."""
    call_engine(open_engine("recraft", recraft, seed=8), make_request(3))
    forms = [one.form for one in recraft.received]
    assert sorted((form["n"], form["random_seed"]) for form in forms) == [
        (b"1", b"10"),
        (b"1", b"8"),
        (b"1", b"9"),
    ]


def test_recraft_gets_small_images_enlarged(recraft: FakeRecraft, open_engine: OpenEngine) -> None:
    """An image below 256 pixels is sent at 256, the smallest side that the service takes."""
    call_engine(open_engine("recraft", recraft), make_request())
    assert SquarePNG(recraft.received[0].form["image"]).side == 256


def test_fal_gets_a_job_in_json(fal: FakeFal, open_engine: OpenEngine) -> None:
    """The job has the image as a data: URL, and asks for one PNG that fal does not keep."""
    engine = open_engine("fal", fal, seed=3, extra_input={"num_inference_steps": 40})
    call_engine(engine, make_request(image=SOURCE, size="1024x1024"))
    assert fal.received[0].json == {
        "image_url": data_url(SOURCE),
        "image_size": {"width": 1024, "height": 1024},
        "num_images": 1,
        "output_format": "png",
        "sync_mode": True,
        "num_inference_steps": 40,
        "seed": 3,
    }
    job = "/fal-ai/flux-1/requests/job-0"
    assert fal.paths() == ["/fal-ai/flux-1/dev/redux", f"{job}/status", job]


def test_fal_polls_until_a_job_is_done(fal: FakeFal, open_engine: OpenEngine) -> None:
    """The status is asked for until the job is completed."""
    fal.polls_until_done = 2
    call_engine(open_engine("fal", fal), make_request())
    assert len([path for path in fal.paths() if path.endswith("/status")]) == 3


def test_fal_never_follows_given_links(fal: FakeFal, open_engine: OpenEngine) -> None:
    """Addresses in an answer are not used, so a key cannot reach another host."""
    call_engine(open_engine("fal", fal), make_request())
    assert len(fal.received) == 3


@pytest.mark.parametrize("job_id", ["../admin", "a/b", "", None, 7, "x" * 200, "a?b", "a b"])
def test_hostile_job_ids_are_refused(fal: FakeFal, open_engine: OpenEngine, job_id: object) -> None:
    """An ID that would change the address of the next request is an error."""
    fal.faults.append(Reply(200, {"request_id": job_id, "status": "IN_QUEUE"}))
    with pytest.raises(EngineResponseError, match="ID"):
        call_engine(open_engine("fal", fal), make_request())


def test_fal_never_returns_a_black_image(fal: FakeFal, open_engine: OpenEngine) -> None:
    """An image that the safety checker refused raises an error, and the others are kept."""
    fal.refused_seeds, fal.failing_seeds = {5}, {6}
    response = call_engine(open_engine("fal", fal, seed=4), make_request(3))
    assert SquarePNG(response.data[0].read()).side == 256
    for image in response.data[1:]:
        with pytest.raises(ContentPolicyError):
            image.read()


def test_refusals_without_an_image_are_named(fal: FakeFal, open_engine: OpenEngine) -> None:
    """If fal.ai leaves out the image that its safety checker refused, the error says why."""
    refusal = Reply(200, {"images": [], "has_nsfw_concepts": [True]})
    fal.faults_after_post = [Reply(200, {"status": "COMPLETED"}), refusal]
    with pytest.raises(ContentPolicyError):
        call_engine(open_engine("fal", fal), make_request())


def test_all_refused_images_raise(fal: FakeFal, open_engine: OpenEngine) -> None:
    """If every image is refused, so is the request."""
    fal.refused_seeds = {4, 5}
    with pytest.raises(ContentPolicyError):
        call_engine(open_engine("fal", fal, seed=4), make_request(2))


def test_replicate_gets_a_prediction(replicate: FakeReplicate, open_engine: OpenEngine) -> None:
    """The prediction names the model in its path, and asks for one PNG."""
    engine = open_engine("replicate", replicate, seed=3, extra_input={"guidance": 2.5})
    call_engine(engine, make_request(image=SOURCE, size="1024x1024"))
    request = replicate.received[0]
    assert request.path == "/models/black-forest-labs/flux-redux-dev/predictions"
    assert request.headers["prefer"] == "wait=5"
    assert request.json == {
        "input": {
            "redux_image": data_url(SOURCE),
            "aspect_ratio": "1:1",
            "num_outputs": 1,
            "output_format": "png",
            "megapixels": "1",
            "guidance": 2.5,
            "seed": 3,
        }
    }


def test_replicate_takes_a_version(replicate: FakeReplicate, open_engine: OpenEngine) -> None:
    """A model with a version is created by its version."""
    call_engine(open_engine("replicate", replicate, model=f"me/mine:{VERSION}"), make_request())
    request = replicate.received[0]
    assert (request.path, request.json["version"]) == ("/predictions", VERSION)


def test_small_sizes_take_a_quarter_megapixel(
    replicate: FakeReplicate, open_engine: OpenEngine
) -> None:
    """Up to 512 pixels, a quarter of a megapixel is asked for and billed."""
    call_engine(open_engine("replicate", replicate), make_request(size="512x512"))
    assert replicate.received[0].json["input"]["megapixels"] == "0.25"


def test_replicate_is_polled(replicate: FakeReplicate, open_engine: OpenEngine) -> None:
    """A prediction that is not ready is asked for until it is."""
    replicate.polls_until_done = 1
    call_engine(open_engine("replicate", replicate), make_request())
    assert "/predictions/p0" in replicate.paths("GET")


@pytest.mark.parametrize(
    ("reason", "error_class"),
    [
        ("NSFW content detected. Try running it again.", ContentPolicyError),
        ("CUDA out of memory", EngineError),
        ("", EngineError),
    ],
)
def test_failed_predictions_are_errors(
    replicate: FakeReplicate, open_engine: OpenEngine, reason: str, error_class: type[Exception]
) -> None:
    """A failed prediction raises its reason and is not paid for again."""
    replicate.errors_by_seed = {1: reason}
    with pytest.raises(error_class, match=reason[:20] or "failed"):
        call_engine(open_engine("replicate", replicate, seed=1), make_request())
    assert len(replicate.received) == 1


@pytest.mark.parametrize("resend_lost", [False, True])
@pytest.mark.parametrize("polls", [0, 1])
def test_final_failures_are_asked_for_once(
    replicate: FakeReplicate, open_engine: OpenEngine, polls: int, resend_lost: bool
) -> None:
    """A prediction that failed is neither asked for nor made again."""
    replicate.errors_by_seed = {1: "CUDA out of memory"}
    replicate.polls_until_done = polls
    with pytest.raises(EngineError, match="CUDA"):
        call_engine(
            open_engine("replicate", replicate, seed=1, resend_lost=resend_lost), make_request()
        )
    assert len(replicate.paths("POST")) == 1
    assert len(replicate.paths("GET")) == polls


@pytest.mark.parametrize("name", ["fal", "replicate"])
def test_unknown_states_are_asked_for_once(
    name: str, fal: FakeFal, replicate: FakeReplicate, open_engine: OpenEngine
) -> None:
    """A state that the service does not document is raised at once, and the job is cancelled."""
    service: FakeService = {"fal": fal, "replicate": replicate}[name]
    service.polls_until_done = 1
    service.faults_after_post = [Reply(200, {"id": "p0", "status": "dreaming"})]
    with pytest.raises(EngineResponseError, match="unknown status"):
        call_engine(open_engine(name, service), make_request())
    assert len(service.paths("GET")) == 1
    assert len(service.cancelled) == 1


def test_missing_images_are_asked_for_once(fal: FakeFal, open_engine: OpenEngine) -> None:
    """A result of fal.ai without an image is raised at once."""
    fal.faults_after_post = [Reply(200, {"status": "COMPLETED"}), Reply(200, {"images": []})]
    with pytest.raises(EngineResponseError, match="without an image"):
        call_engine(open_engine("fal", fal), make_request())
    assert len(fal.paths("GET")) == 2
    assert fal.cancelled == []


@pytest.mark.parametrize("name", ["fal", "replicate"])
def test_cancelled_calls_cancel_their_jobs(
    name: str, fal: FakeFal, replicate: FakeReplicate, open_engine: OpenEngine
) -> None:
    """When the caller goes away, every job of the request is cancelled at the service."""
    service: FakeService = {"fal": fal, "replicate": replicate}[name]
    service.polls_until_done = 1000

    async def main() -> None:
        engine = open_engine(name, service)
        task = asyncio.create_task(
            call_engine_async(engine, make_request(3), wait_when_cancelled=True)
        )
        while len(service.paths("GET")) < 3:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert len(service.cancelled) == 3


@pytest.mark.parametrize("name", ["fal", "replicate"])
def test_jobs_are_cancelled_once_accepted(
    name: str, fal: FakeFal, replicate: FakeReplicate, open_engine: OpenEngine
) -> None:
    """A call that is cancelled before the service has named the job waits for the name."""
    service: FakeService = {"fal": fal, "replicate": replicate}[name]
    service.polls_until_done = 1000
    service.accepts_jobs.clear()

    async def main() -> None:
        engine = open_engine(name, service)
        task = asyncio.create_task(
            call_engine_async(engine, make_request(), wait_when_cancelled=True)
        )
        while not service.received:
            await asyncio.sleep(0.01)
        task.cancel()
        # Longer than a thread needs to notice that its call is cancelled.
        await asyncio.sleep(0.5)
        service.accepts_jobs.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert len(service.cancelled) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fal", "replicate"])
def test_jobs_past_the_deadline_are_cancelled(
    name: str, fal: FakeFal, replicate: FakeReplicate, open_engine: OpenEngine
) -> None:
    """A job that is late is cancelled before the deadline, however slow the service is then."""
    service: FakeService = {"fal": fal, "replicate": replicate}[name]
    service.polls_until_done = 1000
    seconds: list[float] = []

    def record_timeout(request: httpx.Request) -> None:
        if request.url.path.endswith("/cancel"):
            seconds.append(request.extensions["timeout"]["read"])

    with httpx.Client(event_hooks={"request": [record_timeout]}) as client:
        # Long enough to accept the job on a busy machine.
        engine = open_engine(name, service, deadline=5, http_client=client)
        with pytest.raises(EngineTimeoutError, match="deadline"):
            call_engine(engine, make_request())
    assert len(service.cancelled) == 1
    assert seconds[0] < 5


@pytest.mark.parametrize("model", ["", "one", "a/../b", "a//b", "/a/b", "a/b?x=1", "a/b#c", 7])
@pytest.mark.parametrize("name", ["fal", "replicate"])
def test_odd_model_names_are_refused(name: str, model: object) -> None:
    """A name that would change the address of a request is refused."""
    with pytest.raises(InvalidRequestError, match="owner/name"):
        load_engine(name, api_key=KEY, model=model)


@pytest.mark.parametrize("name", ["fal", "replicate"])
def test_unknown_models_are_named(
    name: str, fal: FakeFal, replicate: FakeReplicate, open_engine: OpenEngine
) -> None:
    """A model that the service does not have is a `ModelNotFoundError`."""
    service: FakeService = {"fal": fal, "replicate": replicate}[name]
    with pytest.raises(ModelNotFoundError, match="no model 'nobody/nothing'"):
        call_engine(open_engine(name, service), make_request(model="nobody/nothing"))


@pytest.mark.parametrize("name", ["fal", "replicate"])
def test_unknown_models_doubt_a_base_url(
    name: str, fal: FakeFal, replicate: FakeReplicate, open_engine: OpenEngine
) -> None:
    """A 404 at another address than the service's own may be the fault of base_url."""
    service: FakeService = {"fal": fal, "replicate": replicate}[name]
    service.faults.append(Reply(404, b"not found", {"x-request-id": "req-404"}))
    with pytest.raises(ModelNotFoundError) as caught:
        call_engine(open_engine(name, service), make_request(model="nobody/nothing"))
    address = {"fal": "https://queue.fal.run", "replicate": "https://api.replicate.com/v1"}[name]
    assert caught.value.message.endswith(
        f"has no model 'nobody/nothing'. Or is base_url wrong? The service is at {address}."
    )
    assert caught.value.request_id == "req-404"


@pytest.mark.parametrize("name", ["fal", "replicate"])
def test_unknown_models_at_the_real_address(name: str) -> None:
    """At the service's own address, only the model can be wrong."""
    answer = httpx.MockTransport(lambda request: httpx.Response(404, text="not found"))
    with httpx.Client(transport=answer) as client:
        engine = load_engine(name, api_key=KEY, http_client=client)
        with pytest.raises(ModelNotFoundError, match=r"has no model 'nobody/nothing'\.$"):
            call_engine(engine, make_request(model="nobody/nothing"))


@pytest.mark.parametrize("name", ["fal", "replicate"])
def test_reserved_input_is_refused(name: str) -> None:
    """Parameters that the engine sets cannot be set twice."""
    with pytest.raises(InvalidRequestError, match="'seed'"):
        load_engine(name, api_key=KEY, extra_input={"seed": 1})


def test_the_key_stays_off_downloads(replicate: FakeReplicate, open_engine: OpenEngine) -> None:
    """Results are downloaded without the key."""
    call_engine(open_engine("replicate", replicate), make_request())
    [download] = [one for one in replicate.received if one.path.startswith("/files/")]
    assert "authorization" not in download.headers


def test_results_elsewhere_follow_the_policy(
    replicate: FakeReplicate, open_engine: OpenEngine
) -> None:
    """A result at an address inside the network is not fetched."""
    output = ["http://10.0.0.1/secret.png"]
    replicate.faults.append(Reply(201, {"id": "p0", "status": "succeeded", "output": output}))
    response = call_engine(open_engine("replicate", replicate), make_request())
    assert response.data[0].failure is not None


def test_the_source_is_sent_unchanged(fal: FakeFal, open_engine: OpenEngine) -> None:
    """A small opaque PNG without metadata is sent byte for byte."""
    call_engine(open_engine("fal", fal), make_request(image=SOURCE))
    sent = fal.received[0].json["image_url"].partition(",")[2]
    assert base64.b64decode(sent) == SOURCE
