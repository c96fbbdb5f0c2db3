import asyncio
import io
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines import VariationEngine
from langchain_image_variation.engines.call import call_engine, call_engine_async
from langchain_image_variation.engines.context import Progress
from langchain_image_variation.engines.loading import load_engine
from langchain_image_variation.engines.local import LocalEngine, workers
from langchain_image_variation.engines.traits import request_options
from langchain_image_variation.exceptions import (
    InvalidImageError,
    InvalidRequestError,
    ModelNotFoundError,
)
from langchain_image_variation.images.png import SquarePNG
from pytest_image_variation.samples import corrupt_png, square_png

PNG = SquarePNG(square_png(128))
PARTS = ("framing", "mirror", "light", "arrange")


def _request(image: SquarePNG = PNG, **fields: Any) -> CreateImageVariationRequest:
    fields = {"size": "256x256", "response_format": "b64_json", **fields}
    return CreateImageVariationRequest(image=image, **fields)


def _files(engine: LocalEngine, request: CreateImageVariationRequest) -> list[bytes]:
    return [image.read() for image in engine.create_variation(request).data]


def _pixels(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def _png(image: Image.Image) -> SquarePNG:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return SquarePNG(buffer.getvalue())


def _disc(mode: str, side: int = 96) -> Image.Image:
    """A striped disc. With alpha, it is on transparent ground whose hidden color is red."""
    y, x = np.mgrid[:side, :side] / side - 0.5
    inside = x**2 + y**2 < 0.1
    stripes = (128 + 100 * np.sin(40 * x + 20 * y)).astype(np.uint8)
    color = np.stack([np.where(inside, 0, 255), stripes * inside, stripes * inside], axis=2)
    alpha = np.where(inside, 255, 0)[..., None]
    if mode == "LA":
        return Image.fromarray(np.dstack([stripes, alpha]).astype(np.uint8))
    return Image.fromarray(np.concatenate([color, alpha], axis=2).astype(np.uint8)).convert(mode)


@pytest.mark.mostly_slow("0.35-2-256x256")
@pytest.mark.parametrize("size", ["256x256", "512x512", "1024x1024"])
@pytest.mark.parametrize(("strength", "n"), [(0.35, 2), (0.9, 1)])
def test_returns_exactly_what_was_requested(size: str, strength: float, n: int) -> None:
    """The response has n legal PNG files of exactly the size, with their seeds."""
    response = LocalEngine(seed=7, strength=strength).create_variation(_request(n=n, size=size))
    assert [image.seed for image in response.data] == [7, 8][:n]
    for image in response.data:
        side = SquarePNG(image.read()).side
        assert f"{side}x{side}" == size


def test_local_is_the_engine_of_that_name() -> None:
    """`load_engine("local")` returns this engine, which satisfies the Protocol."""
    engine = load_engine("local", seed=1, strength=0.5)
    assert isinstance(engine, LocalEngine)
    assert isinstance(engine, VariationEngine)


def test_url_is_a_data_url() -> None:
    """Without a server, the engine answers `url` with a data URL of the image."""
    response = LocalEngine(seed=1).create_variation(_request(response_format="url"))
    assert response.data[0].url is not None
    assert response.data[0].url.startswith("data:image/png;base64,")


@pytest.mark.mostly_slow("0.35")
@pytest.mark.parametrize("strength", [0.0, 0.35, 1.0])
def test_all_variations_differ(strength: float) -> None:
    """At every strength, source and variations are all different images."""
    request = _request(n=2)
    images = [_pixels(file) for file in _files(LocalEngine(seed=3, strength=strength), request)]
    with Image.open(io.BytesIO(PNG.data)) as image:
        images.append(np.asarray(image.resize((256, 256), Image.Resampling.BICUBIC)))
    for one, other in itertools.combinations(images, 2):
        assert (one != other).any()


@cache
def _pair(strength: float) -> list[bytes]:
    """Two images of one request."""
    return _files(LocalEngine(seed=40, strength=strength, threads=4), _request(n=2))


@pytest.mark.slow
@pytest.mark.parametrize("strength", [0.35, 0.8])
@pytest.mark.parametrize("index", [0, 1])
def test_each_image_can_be_made_again_alone(index: int, strength: float) -> None:
    """Image i of a request has the bytes of a request for one image with seed + i."""
    single_file = _files(LocalEngine(seed=40 + index, strength=strength), _request())
    assert single_file == [_pair(strength)[index]]


@pytest.mark.slow
@pytest.mark.parametrize("strength", [0.35, 0.8])
def test_threads_do_not_change_the_result(strength: float) -> None:
    """The same seed gives the same bytes with one thread and with four."""
    engine = LocalEngine(seed=40, strength=strength, threads=1)
    assert _files(engine, _request(n=2)) == _pair(strength)


def test_requests_without_a_seed_draw_one() -> None:
    """The answer names the seed, which makes the same image again."""
    engine = LocalEngine()
    first, second = (engine.create_variation(_request()).data[0] for _ in range(2))
    assert first.read() != second.read()
    assert first.seed is not None
    assert first.seed < 2**32
    assert _files(LocalEngine(seed=first.seed), _request()) == [first.read()]


@pytest.mark.slow
def test_one_engine_serves_ten_threads() -> None:
    """Simultaneous requests get the answers that they would get one after the other."""
    engine = LocalEngine(seed=2, strength=0.5)
    single_files = _files(engine, _request())
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: _files(engine, _request()), range(10)))
    assert answers == [single_files] * 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "strength"),
    # Files of one bit or with a palette are decoded first, so they need only one strength.
    [
        *((mode, 0.35) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")),
        *((mode, 1.0) for mode in ("L", "LA", "RGB", "RGBA")),
    ],
)
def test_keeps_the_channels_of_the_source(mode: str, strength: float) -> None:
    """Gray stays gray, alpha stays, and a palette becomes its colors."""
    (data,) = _files(LocalEngine(seed=1, strength=strength), _request(_png(_disc(mode))))
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == {"1": "L", "P": "RGBA"}.get(mode, mode)


@pytest.mark.mostly_slow("0.35")
@pytest.mark.parametrize("strength", [0.35, 1.0])
def test_gray_in_color_channels_stays_gray(strength: float) -> None:
    """A gray image stored as RGB has no color in its variations."""
    gray = _disc("L").convert("RGB")
    (data,) = _files(LocalEngine(seed=1, strength=strength), _request(_png(gray)))
    pixels = _pixels(data)
    assert (pixels == pixels[..., :1]).all()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("strength", [0.35, 1.0])
def test_alpha_moves_with_the_image(mode: str, strength: float) -> None:
    """Alpha moves with the image, and the hidden color of transparent pixels never shows."""
    source = _disc(mode, 256)
    (data,) = _files(LocalEngine(seed=1, strength=strength), _request(_png(source)))
    pixels, alpha = _pixels(data), np.asarray(source)[..., -1]
    assert (pixels[..., -1] != alpha).any()
    assert abs(pixels[..., -1].mean() / alpha.mean() - 1) < 0.4
    if mode == "RGBA":
        opaque = pixels[pixels[..., -1] > 128]
        # The strongest light tints by 33. The hidden color would add far more.
        assert opaque[:, 0].mean() < 36


def test_opaque_alpha_stays_opaque() -> None:
    """An alpha channel that hides nothing comes back as it was."""
    source = Image.open(io.BytesIO(PNG.data)).convert("RGBA")
    (data,) = _files(LocalEngine(seed=1), _request(_png(source)))
    assert (_pixels(data)[..., 3] == 255).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("side", "strength"),
    # The source is scaled to the requested size before the strength matters.
    [*((16, strength) for strength in (0.0, 0.35, 0.7, 1.0)), (1, 0.35), (1, 1.0), (4000, 0.35)],
)
def test_one_color_stays_that_color(side: int, strength: float) -> None:
    """A variation of a flat image of any size is the image itself."""
    engine = LocalEngine(seed=1, strength=strength, light=False)
    (data,) = _files(engine, _request(_png(Image.new("RGB", (side, side), (10, 20, 30)))))
    assert (_pixels(data) == (10, 20, 30)).all()


@pytest.mark.mostly_slow("0.35")
@pytest.mark.parametrize("strength", [0.0, 0.35, 1.0])
def test_transparent_stays_transparent(strength: float) -> None:
    """An image without a visible pixel stays invisible."""
    source = _png(Image.new("RGBA", (64, 64), (200, 100, 50, 0)))
    (data,) = _files(LocalEngine(seed=1, strength=strength), _request(source))
    assert (_pixels(data)[..., 3] == 0).all()


@pytest.mark.mostly_slow("2-0.35")
@pytest.mark.parametrize(("side", "strength"), [(2, 0.35), (3, 0.35), (16, 0.35), (2, 1.0)])
def test_tiny_sources_are_enlarged(side: int, strength: float) -> None:
    """An image of a few pixels is enlarged and works like any other."""
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3)).astype(np.uint8)
    request = _request(_png(Image.fromarray(noise)))
    (data,) = _files(LocalEngine(seed=1, strength=strength), request)
    assert _pixels(data).std() > 10


@pytest.mark.mostly_slow("0.35")
@pytest.mark.parametrize("strength", [0.35, 1.0])
def test_sixteen_bit_sources_are_scaled(strength: float) -> None:
    """16-bit gray keeps its range instead of being cut off at 255."""
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16)
    source = Image.fromarray(np.broadcast_to(ramp, (64, 64)).copy())
    engine = LocalEngine(seed=1, strength=strength, light=False)
    (data,) = _files(engine, _request(_png(source)))
    pixels = _pixels(data)
    assert pixels.min() < 40
    assert pixels.max() > 215
    assert 100 < pixels.mean() < 155


@pytest.mark.slow
@pytest.mark.parametrize("strength", [0.35, 1.0])
@pytest.mark.parametrize("kind", ["one dot", "half", "noise", "ramp"])
def test_extreme_images_work(kind: str, strength: float) -> None:
    """Images with almost no content, or nothing but content, keep their brightness and contrast."""
    image = np.zeros((256, 256), dtype=np.uint8)
    if kind == "one dot":
        image[100, 100] = 255
    elif kind == "half":
        image[:, 128:] = 255
    elif kind == "noise":
        image = np.random.default_rng(0).integers(0, 256, (256, 256)).astype(np.uint8)
    else:
        image[:] = np.arange(256)
    request = _request(_png(Image.fromarray(image)))
    (data,) = _files(LocalEngine(seed=1, strength=strength, light=False), request)
    pixels = _pixels(data)
    assert pixels.shape == (256, 256)
    assert (pixels != image).any()
    assert pixels.max() > image.max() / 2
    # From near, a dot is larger: the closest view shows 0.64 of each side, at a tilt.
    most, most_contrast = (3, 1) if kind == "one dot" else (0.4, 0.3)
    assert abs(pixels.mean() - image.mean()) < most * image.mean()
    assert abs(pixels.std() - image.std()) < most_contrast * image.std()


@pytest.mark.slow
@pytest.mark.parametrize("strength", [0.35, 0.8])
@pytest.mark.parametrize("n", [1, 2])
def test_progress_rises_to_one(n: int, strength: float) -> None:
    """Progress starts at 0, rises, ends at 1, and never comes from two threads at once."""
    reports: list[Progress] = []
    busy = threading.Lock()

    def listen(progress: Progress) -> None:
        assert busy.acquire(blocking=False)
        reports.append(progress)
        busy.release()

    call_engine(LocalEngine(seed=1, strength=strength), _request(n=n), progress=listen)
    assert reports[0] == (0, n, 0.0, None)
    assert reports == sorted(set(reports))
    assert reports[-1] == (n, n, 1.0, None)
    assert len(reports) > 2 * n


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_error_of_the_listener_stops_the_request(
    threads: int, error: type[BaseException]
) -> None:
    """An error of the listener is raised unchanged, and no thread continues afterward."""
    shares: list[float] = []

    def listen(progress: Progress) -> None:
        shares.append(progress.share)
        if progress.share > 0.2:
            raise error("enough")

    engine = LocalEngine(seed=1, strength=0.8, threads=threads)
    with pytest.raises(error, match="enough"):
        call_engine(engine, _request(n=3), progress=listen)
    time.sleep(0.1)
    assert sum(share > 0.2 for share in shares) == 1


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("seed", -1),
        ("seed", 1.5),
        ("seed", True),
        ("seed", "7"),
        ("strength", -0.01),
        ("strength", 1.01),
        ("strength", float("nan")),
        ("strength", float("inf")),
        ("strength", True),
        ("strength", "0.5"),
        ("strength", None),
        ("threads", 0),
        ("threads", -2),
        ("threads", 2.0),
        ("threads", True),
    ],
)
def test_refuses_options_out_of_range(option: str, value: Any) -> None:
    """The error for an option out of range names it, its value, the limit and the next step."""
    with pytest.raises(InvalidRequestError, match=f"{option} must be .* got .*;") as raised:
        LocalEngine(**{option: value})
    assert raised.value.param == option
    assert repr(value) in raised.value.message


def test_with_options_changes_a_copy() -> None:
    """A copy has the new options and its engine's other options. The engine does not change."""
    engine = LocalEngine(seed=3, strength=0.2, light=False, arrange=False, threads=1)
    copy = engine.with_options(seed=0, strength=0)
    assert (copy.seed, copy.strength, copy.light, copy.threads) == (0, 0.0, False, 1)
    assert (copy.framing, copy.mirror, copy.arrange) == (True, True, False)
    assert (engine.seed, engine.strength) == (3, 0.2)
    assert engine.with_options().fingerprint == engine.fingerprint != copy.fingerprint
    assert request_options(engine) == ("seed", "strength")


@pytest.mark.parametrize(("option", "value"), [("seed", -1), ("seed", 1.5), ("strength", 1.1)])
def test_with_options_checks_them(option: str, value: Any) -> None:
    """A copy with an option out of range is refused, and the error names the option."""
    with pytest.raises(InvalidRequestError, match=f"{option} must be") as failure:
        LocalEngine().with_options(**{option: value})
    assert failure.value.param == option


def test_takes_numpy_numbers() -> None:
    """A seed or strength from an array is a number like any other."""
    engine = LocalEngine(seed=np.int64(3), strength=np.float32(0.5), threads=np.int32(2))  # type: ignore[arg-type]  # numpy's numbers
    assert (engine.seed, engine.strength, engine.threads) == (3, 0.5, 2)
    with pytest.raises(InvalidRequestError, match="strength"):
        LocalEngine(strength=10**400)


@pytest.mark.parametrize("part", PARTS)
def test_parts_are_switches(part: str) -> None:
    """Each part is True or False, and is part of the fingerprint."""
    with pytest.raises(InvalidRequestError, match=f"{part} must be True or False, got 'no'"):
        LocalEngine(**{part: "no"})  # type: ignore[arg-type]  # wrong on purpose
    off = LocalEngine(seed=1, **{part: False})
    assert off.fingerprint != LocalEngine(seed=1).fingerprint


def test_without_its_parts_the_source_comes_back() -> None:
    """With every part switched off, a drawing is not changed at all."""
    engine = LocalEngine(seed=7, **dict.fromkeys(PARTS, False))
    source = np.asarray(_disc("RGB", 256))
    (file,) = _files(engine, _request(_png(_disc("RGB", 256))))
    assert (_pixels(file) == source).all()


@pytest.mark.parametrize("part", PARTS[:3])
def test_each_part_changes_the_image(part: str) -> None:
    """Without framing, mirror or light, an image differs from the one with all parts."""
    request = _request()
    assert _files(LocalEngine(seed=7, **{part: False}), request) != _files(
        LocalEngine(seed=7), request
    )


def test_transparent_pixels_are_black() -> None:
    """A viewer that ignores alpha shows no noise there."""
    (file,) = _files(LocalEngine(seed=1), _request(_png(_disc("RGBA"))))
    pixels = _pixels(file)
    assert (pixels[..., 3] == 0).any()
    assert pixels[pixels[..., 3] == 0].max() == 0


def test_offers_two_models() -> None:
    """The old endpoint's model name and the engine's own are accepted, others refused."""
    for model in ("dall-e-2", "local"):
        assert LocalEngine(seed=1).create_variation(_request(model=model)).data
    with pytest.raises(ModelNotFoundError, match="'gpt-image-1' does not exist here"):
        LocalEngine().create_variation(_request(model="gpt-image-1"))


def test_corrupt_pixels_are_refused() -> None:
    """A file that has the structure of a PNG is refused once its pixels are needed."""
    with pytest.raises(InvalidImageError):
        LocalEngine().create_variation(_request(SquarePNG(corrupt_png())))


async def test_a_cancelled_call_stops_the_work() -> None:
    """After an async call is cancelled, its work stops long before the request is finished."""
    shares: list[float] = []
    start_event = asyncio.Event()
    loop = asyncio.get_running_loop()

    def listen(progress: Progress) -> None:
        shares.append(progress.share)
        loop.call_soon_threadsafe(start_event.set)

    engine = LocalEngine(seed=1, strength=0.9)
    request = _request(n=10, size="1024x1024")
    call = asyncio.create_task(call_engine_async(engine, request, progress=listen))
    await start_event.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.sleep(0.5)
    report_count = len(shares)
    await asyncio.sleep(0.25)
    assert len(shares) == report_count
    assert shares[-1] < 0.5


async def test_waiting_calls_that_are_cancelled_never_begin() -> None:
    """Of ten calls cancelled at once, those that wait do no work when their turn comes."""
    reports: list[Progress] = []
    engine = LocalEngine(seed=1, strength=0.9)
    request = _request(size="1024x1024")
    calls = [
        asyncio.create_task(call_engine_async(engine, request, progress=reports.append))
        for _ in range(10)
    ]
    while not reports:
        await asyncio.sleep(0.01)
    for call in calls:
        call.cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    report_count = len(reports)
    await asyncio.sleep(0.3)
    assert len(reports) <= report_count + 3


async def test_a_cancelled_call_does_not_wait_for_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that is cancelled while it waits for others soon frees its thread."""
    turns = threading.BoundedSemaphore()
    turns.acquire()
    monkeypatch.setattr(workers._shared, "turns", turns)
    start_event, end_event = threading.Event(), threading.Event()

    class Watched(LocalEngine):
        def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
            start_event.set()
            try:
                return super().create_variation(request)
            finally:
                end_event.set()

    call = asyncio.create_task(call_engine_async(Watched(), _request()))
    await asyncio.to_thread(start_event.wait)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    in_time = await asyncio.to_thread(end_event.wait, 0.5)
    # A thread that still waits must not keep the tests from ending.
    turns.release()
    assert in_time


async def test_an_async_call_returns_the_same_images() -> None:
    """The async call gives the same images as the sync one."""
    engine = LocalEngine(seed=1)
    response = await call_engine_async(engine, _request(n=2))
    assert [image.read() for image in response.data] == _files(engine, _request(n=2))
