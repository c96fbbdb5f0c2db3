"""What the engines `fal`, `recraft` and `replicate` have in common, over real sockets."""

import asyncio
import base64
import io
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from langchain_image_variation.engines.call import call_engine, call_engine_async
from langchain_image_variation.engines.loading import load_engine, load_engine_class
from langchain_image_variation.engines.traits import close_engine
from langchain_image_variation.exceptions import (
    AuthenticationError,
    BillingLimitError,
    EngineConnectionError,
    EngineError,
    EngineResponseError,
    ImageVariationError,
    InvalidRequestError,
    PermissionDeniedError,
    RateLimitError,
)
from langchain_image_variation.hosted.services.replicate import ReplicateEngine
from langchain_image_variation.hosted.services.request import MAX_CONCURRENT_CALLS
from langchain_image_variation.images.pixels import encode_png
from langchain_image_variation.images.png import SquarePNG
from tests.hosted.services.fakes import KEY, FakeService, Reply
from tests.hosted.services.requesting import make_request

VARIABLES = {
    "fal": "FAL_KEY",
    "recraft": "RECRAFT_API_TOKEN",
    "replicate": "REPLICATE_API_TOKEN",
}


@cache
def noise(side: int) -> bytes:
    """Return a PNG of random colors, which does not compress."""
    pixels = np.random.default_rng(1).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return encode_png(Image.fromarray(pixels), compress_level=1)


def test_images_have_the_requested_size(make_engine: Callable[..., Any]) -> None:
    """A request for three images gives three different PNG files of exactly the size."""
    response = call_engine(make_engine(seed=5), make_request(3))
    files = [image.read() for image in response.data]
    assert [SquarePNG(file).side for file in files] == [256, 256, 256]
    assert len(set(files)) == 3
    assert [image.seed for image in response.data] == [5, 6, 7]


@pytest.mark.mostly_slow("fal")
def test_an_async_call_gives_the_same_images(make_engine: Callable[..., Any]) -> None:
    """`call_engine_async` gives the same images as `call_engine`."""
    engine = make_engine(seed=5)
    response = asyncio.run(call_engine_async(engine, make_request(2)))
    again = call_engine(engine, make_request(2))
    assert [image.read() for image in response.data] == [image.read() for image in again.data]


@pytest.mark.mostly_slow("fal", "recraft")
def test_an_image_depends_on_its_own_seed(make_engine: Callable[..., Any]) -> None:
    """Image 3 of seed 5 is image 1 of seed 7."""
    engine = make_engine(seed=5)
    third = call_engine(engine, make_request(3)).data[2]
    alone = call_engine(engine.with_options(seed=7), make_request()).data[0]
    assert (third.read(), third.seed) == (alone.read(), alone.seed)


@pytest.mark.mostly_slow("recraft", "replicate")
def test_a_request_without_a_seed_succeeds(make_engine: Callable[..., Any]) -> None:
    """Without a seed, a request for ten images gives ten images."""
    response = call_engine(make_engine(), make_request(10))
    assert len({image.read() for image in response.data}) == 10


@pytest.mark.parametrize("form", ["b64_json", "url"])
def test_the_form_is_the_requested_one(make_engine: Callable[..., Any], form: str) -> None:
    """`b64_json` is answered with base64, and `url` with a `data:` URL."""
    image = call_engine(make_engine(), make_request(response_format=form)).data[0]
    assert (image.b64_json is not None) == (form == "b64_json")
    assert (image.url or "").startswith("data:image/png;base64,") == (form == "url")


@pytest.mark.mostly_slow("fal")
def test_calls_run_at_once_but_bounded(
    service: FakeService, make_engine: Callable[..., Any]
) -> None:
    """`MAX_CONCURRENT_CALLS` calls run at the same time, and no more."""
    service.accepts_jobs.clear()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(call_engine, make_engine(seed=1), make_request(10))
        while service.most_at_once < MAX_CONCURRENT_CALLS and not call.done():
            time.sleep(0.01)
        service.accepts_jobs.set()
        call.result()
    assert service.most_at_once == MAX_CONCURRENT_CALLS


@pytest.mark.mostly_slow("recraft")
def test_progress_counts_every_image(make_engine: Callable[..., Any]) -> None:
    """The listener sees each number of finished images once."""
    finished: list[int] = []
    engine = make_engine(seed=1)
    call_engine(engine, make_request(5), progress=lambda one: finished.append(one.finished))
    assert sorted(set(finished) - {0}) == [1, 2, 3, 4, 5]


@pytest.mark.mostly_slow("fal", "recraft")
def test_busy_servers_are_asked_again(
    service: FakeService, make_engine: Callable[..., Any]
) -> None:
    """429 and 503 are retried, and the call succeeds."""
    service.faults.extend(
        [
            Reply(429, {"detail": "Too many requests."}, {"retry-after": "0.01"}),
            Reply(503, b"busy", {"retry-after": "0.01"}),
        ]
    )
    response = call_engine(make_engine(), make_request())
    assert SquarePNG(response.data[0].read()).side == 256


@pytest.mark.parametrize(
    ("reply", "error_class"),
    [
        (Reply(402, {"detail": "You have insufficient credit."}), BillingLimitError),
        (
            Reply(403, {"detail": "User is locked. Reason: Exhausted balance."}),
            PermissionDeniedError,
        ),
        (Reply(400, {"detail": "Wrong parameter."}), InvalidRequestError),
        (Reply(422, {"detail": [{"loc": ["body", "seed"], "msg": "bad"}]}), InvalidRequestError),
        (Reply(200, b"<html>hello</html>"), EngineResponseError),
        (Reply(200, {"nothing": 1}), EngineResponseError),
        (Reply(200, [1]), EngineResponseError),
        (Reply(302, b"", {"location": "https://elsewhere.example/"}), ImageVariationError),
    ],
)
def test_other_answers_are_not_retried(
    service: FakeService,
    make_engine: Callable[..., Any],
    reply: Reply,
    error_class: type[ImageVariationError],
) -> None:
    """An exhausted balance, a mistake or garbage is raised after one request."""
    service.faults.append(reply)
    with pytest.raises(error_class):
        call_engine(make_engine(), make_request())
    assert len(service.received) == 1


def test_rate_limits_are_raised_in_the_end(
    service: FakeService, make_engine: Callable[..., Any]
) -> None:
    """If all attempts meet a rate limit, that is the error."""
    service.faults.extend([Reply(429, {"detail": "Slow down."}, {"retry-after": "0.01"})] * 3)
    with pytest.raises(RateLimitError):
        call_engine(make_engine(), make_request())
    assert len(service.received) == 3


def test_a_wrong_key_is_not_shown(make_engine: Callable[..., Any]) -> None:
    """A refused key is an error that never shows the key."""
    with pytest.raises(AuthenticationError) as caught:
        call_engine(make_engine(api_key="other-key-9876"), make_request())
    assert "other-key" not in caught.value.message


def test_a_missing_key_names_the_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key the constructor names the variable, and with it, it works."""
    with pytest.raises(AuthenticationError, match=VARIABLES[name]):
        load_engine(name)
    monkeypatch.setenv(VARIABLES[name], KEY)
    close_engine(load_engine(name))


def test_a_repeated_key_is_masked(service: FakeService, make_engine: Callable[..., Any]) -> None:
    """A key that the server repeats does not appear in the error."""
    service.faults.append(Reply(400, {"detail": f"Key {KEY} is odd."}))
    with pytest.raises(InvalidRequestError) as caught:
        call_engine(make_engine(), make_request())
    assert KEY not in str(caught.value)


def test_an_unreachable_server_is_an_error(make_engine: Callable[..., Any]) -> None:
    """A port without a server is an `EngineConnectionError`."""
    engine = make_engine(base_url="http://127.0.0.1:1", max_retries=0)
    with pytest.raises(EngineConnectionError):
        call_engine(engine, make_request())


def test_large_seeds_are_hashed(service: FakeService, make_engine: Callable[..., Any]) -> None:
    """A seed of any size makes an image, which keeps it, and the next seed another one."""
    response = call_engine(make_engine(seed=2**80), make_request(2))
    assert [image.seed for image in response.data] == [2**80, 2**80 + 1]
    assert len({image.read() for image in response.data}) == 2


def test_billed_calls_are_bounded(service: FakeService, make_engine: Callable[..., Any]) -> None:
    """An engine refuses a request above `max_billed_calls` before it sends anything."""
    engine = make_engine(seed=1, max_billed_calls=3)
    call_engine(engine, make_request(2))
    sent = len(service.received)
    with pytest.raises(BillingLimitError, match="2 of the 3"):
        call_engine(engine.with_options(seed=9), make_request(2))
    assert len(service.received) == sent
    call_engine(engine, make_request())


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("seed", -1),
        ("seed", "7"),
        ("seed", True),
        ("max_billed_calls", 0),
        ("max_retries", -1),
        ("timeout", 0),
        ("deadline", float("nan")),
        ("base_url", "ftp://files.example"),
        ("result_urls", "all"),
        ("http_client", object()),
    ],
)
def test_wrong_options_are_refused(name: str, option: str, value: object) -> None:
    """An option out of range is an error that names it."""
    with pytest.raises(InvalidRequestError) as caught:
        load_engine(name, **{"api_key": KEY, option: value})
    assert caught.value.param == option


@pytest.mark.mostly_slow("recraft", "replicate")
def test_large_images_are_sent_small(
    name: str, service: FakeService, make_engine: Callable[..., Any]
) -> None:
    """A photo that does not compress is sent in at most 1 MB to services that want a URL."""
    call_engine(make_engine(), make_request(image=noise(1100)))
    sent = len(service.received[0].body)
    assert sent < (4_000_000 if name == "recraft" else 1_100_000)


def test_alpha_is_sent_on_white(
    name: str, service: FakeService, make_engine: Callable[..., Any]
) -> None:
    """What the service sees of a transparent image is a white page."""
    image = encode_png(Image.new("RGBA", (300, 300), (255, 0, 0, 0)))
    call_engine(make_engine(), make_request(image=image))
    assert sent_image(name, service).convert("RGB").getpixel((5, 5)) == (255, 255, 255)


def sent_image(name: str, service: FakeService) -> Image.Image:
    """Return the image that a service received."""
    request = service.received[0]
    if name == "recraft":
        return Image.open(io.BytesIO(request.form["image"]))
    fields = request.json if name == "fal" else request.json["input"]
    url = fields["image_url" if name == "fal" else "redux_image"]
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def test_the_fingerprint_has_no_key(make_engine: Callable[..., Any]) -> None:
    """Engines with another key have the same fingerprint, and with another seed another one."""
    prints = [
        make_engine(**options).fingerprint
        for options in ({}, {"api_key": "another-key"}, {"seed": 1})
    ]
    assert prints[0] == prints[1] != prints[2]


def test_engines_say_that_they_are_hosted(name: str) -> None:
    """A batch and the tool recognize the class as hosted before they construct it."""
    assert hasattr(load_engine_class(name), "base_url")


def test_an_unreachable_service_is_a_problem_of_the_network(name: str) -> None:
    """If the service cannot be reached, the error says to check the network, not `base_url`."""

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("", request=request)

    with httpx.Client(transport=httpx.MockTransport(refuse)) as http_client:
        options = {"api_key": KEY, "http_client": http_client, "max_retries": 0}
        with pytest.raises(EngineConnectionError, match=r"reached. Check the network"):
            call_engine(load_engine(name, **options), make_request())
        options["base_url"] = "https://proxy.example"
        with pytest.raises(EngineConnectionError, match=r"is base_url right\?"):
            call_engine(load_engine(name, **options), make_request())


def test_the_address_of_another_service_is_known_too() -> None:
    """An engine for a service that only it knows gives the same advice."""

    class OtherEngine(ReplicateEngine):
        _default_url = "https://other.invalid"

    engine = OtherEngine(api_key=KEY, max_retries=0)
    with pytest.raises(EngineConnectionError, match=r"^other\.invalid cannot .* the network"):
        call_engine(engine, make_request())
    engine.close()


def test_a_closed_engine_refuses_calls(make_engine: Callable[..., Any]) -> None:
    """A call after `close` is an error from the tree."""
    engine = make_engine()
    engine.close()
    with pytest.raises(EngineError):
        call_engine(engine, make_request())
