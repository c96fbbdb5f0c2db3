"""Every preset, on its tiny model: the tests that concern the pipelines."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops

from langchain_image_variation.engines.call import call_engine, call_engine_async
from langchain_image_variation.engines.context import (
    Progress,
    ProgressReporter,
    call_context,
    cancellation,
)
from langchain_image_variation.engines.diffusers.families import load_family
from langchain_image_variation.engines.diffusers.families.family import DrawingSettings
from langchain_image_variation.engines.diffusers.presets import PRESETS
from langchain_image_variation.exceptions import EngineError, InvalidRequestError
from tests.engines.diffusers.calls import LAKE, make_engine, make_request, open_images, png_of
from tests.engines.diffusers.conftest import MakeTinyModel

pytestmark = pytest.mark.mostly_slow("sd-variations", "unclip")

EACH = pytest.mark.parametrize("preset", PRESETS)
# The smallest transformer of FLUX takes a second for each image.
MOST = pytest.mark.parametrize("preset", [name for name in PRESETS if name != "flux-redux"])


def difference(first: Image.Image, second: Image.Image) -> int:
    """Return how many levels two images differ, at the sample that differs most."""
    return max(high for _, high in ImageChops.difference(first, second).getextrema())  # type: ignore[misc]  # pairs, as for any RGB image


@EACH
def test_varies_a_photo(preset: str, tiny_model: MakeTinyModel) -> None:
    """A photo gets as many images as requested, different, of the exact size, and not black."""
    engine = make_engine(tiny_model(preset), steps=1)
    n = 2
    response = engine.create_variation(make_request(n=n))
    images = open_images(response)
    assert [(image.mode, image.size, image.format) for image in images] == [
        ("RGB", (256, 256), "PNG")
    ] * n
    assert difference(*images) > 10
    assert all(np.asarray(image).std() > 10 for image in images)
    assert [image.seed for image in response.data] == [7, 8]
    engine.close()


@EACH
def test_an_image_depends_on_its_own_seed_alone(preset: str, tiny_model: MakeTinyModel) -> None:
    """Image i of seed s is image 1 of seed s + i - 1: the same bytes, async too."""
    engine = make_engine(tiny_model(preset), steps=1)
    first, second = engine.create_variation(make_request(n=2)).data
    again = asyncio.run(call_engine_async(engine.with_options(seed=8), make_request()))
    assert again.data[0].read() == second.read()
    assert first.read() != second.read()
    engine.close()


@MOST
def test_a_batch_draws_what_single_calls_draw(preset: str, tiny_model: MakeTinyModel) -> None:
    """Images that are drawn at once differ by at most one level from those drawn alone."""
    single, batched = (make_engine(tiny_model(preset), batch=batch) for batch in (1, 4))
    request = make_request(n=4)
    pairs = zip(
        open_images(single.create_variation(request)),
        open_images(batched.create_variation(request)),
        strict=True,
    )
    # Enlarging may add one more level to the difference.
    assert max(difference(*pair) for pair in pairs) <= 2
    for engine in (single, batched):
        engine.close()


@MOST
def test_strength_and_guidance_change_the_images(preset: str, tiny_model: MakeTinyModel) -> None:
    """Every option changes the images: strength, guidance and steps."""
    results = set()
    options: Sequence[dict[str, Any]] = (
        *({"strength": strength} for strength in (0, 0.5, 1)),
        *({"guidance_scale": 2.5}, {"guidance_scale": 0}, {"steps": 3}),
    )
    # All engines share the model as long as one of them is open.
    engines = [make_engine(tiny_model(preset), **chosen) for chosen in options]
    for engine in engines:
        (image,) = engine.create_variation(make_request()).data
        results.add(image.read())
    for engine in engines:
        engine.close()
    assert len(results) == len(options)


@EACH
def test_progress_follows_the_steps(preset: str, tiny_model: MakeTinyModel) -> None:
    """Each step is reported, and each image when it is drawn."""
    engine = make_engine(tiny_model(preset), steps=2, batch=1)
    reports: list[Progress] = []
    call_engine(engine, make_request(n=2), progress=reports.append)
    steps = [report for report in reports if report.activity is None]
    assert [report.share for report in steps] == [0, 0.25, 0.5, 0.75, 1]
    assert [report.finished for report in steps] == [0, 0, 1, 1, 2]
    engine.close()


COMPONENTS = {
    "sd-variations": {"image_encoder", "unet", "vae"},
    "unclip": {"image_encoder", "image_normalizer", "text_encoder", "unet", "vae"},
    "ip-adapter": {"image_encoder", "text_encoder", "unet", "vae"},
    "ip-adapter-xl": {"image_encoder", "text_encoder", "text_encoder_2", "unet", "vae"},
    "kandinsky": {"image_encoder", "movq", "unet"},
    "flux-redux": {"image_embedder", "image_encoder", "transformer", "vae"},
}


@EACH
def test_the_scheduler_can_be_chosen(preset: str, tiny_model: MakeTinyModel) -> None:
    """Each scheduler draws its own images. A model that DPM-Solver++ cannot draw refuses it."""
    engines = {
        scheduler: make_engine(tiny_model(preset), steps=3, scheduler=scheduler)
        for scheduler in ("auto", "model", "dpm-solver++")
    }
    if preset == "flux-redux":
        with pytest.raises(InvalidRequestError, match="cannot draw with the scheduler") as caught:
            engines["dpm-solver++"].create_variation(make_request())
        assert caught.value.param == "scheduler"
        return
    images = {
        scheduler: engine.create_variation(make_request()).data[0].read()
        for scheduler, engine in engines.items()
    }
    assert images["model"] != images["dpm-solver++"]
    is_replaced = preset in ("sd-variations", "ip-adapter")
    assert images["auto"] == images["dpm-solver++" if is_replaced else "model"]
    for engine in engines.values():
        engine.close()


@EACH
def test_loading_is_reported(preset: str, tiny_model: MakeTinyModel) -> None:
    """The first call reports each component before it loads it, and the next call none."""
    engine = make_engine(tiny_model(preset), steps=1)
    for expected in (COMPONENTS[preset], set()):
        reports: list[Progress] = []
        call_engine(engine, make_request(), progress=reports.append)
        activities = [report.activity for report in reports if report.activity]
        assert set(activities) == {f"loading {name}" for name in expected}
        assert len(activities) == len(expected)
        assert [report.activity for report in reports[len(activities) :]] == [None, None]
        assert {report[:3] for report in reports[: len(activities)]} <= {(0, 1, 0)}
    engine.close()


@EACH
def test_loading_stops_at_the_next_component(preset: str, tiny_model: MakeTinyModel) -> None:
    """If a call is cancelled while it loads, the next component is not loaded. Later calls load."""
    engine = make_engine(tiny_model(preset), steps=1)
    reports: list[Progress] = []
    cancelled = threading.Event()

    def cancel(report: Progress) -> None:
        reports.append(report)
        cancelled.set()

    with (
        pytest.raises(EngineError, match="cancelled"),
        call_context(ProgressReporter(1, cancel), cancelled),
    ):
        engine.create_variation(make_request())
    assert len(reports) == 1
    assert engine.create_variation(make_request()).data
    engine.close()


@EACH
def test_a_cancelled_call_stops_at_the_next_step(preset: str, tiny_model: MakeTinyModel) -> None:
    """No step begins after the call was cancelled, and the engine stays usable."""
    engine = make_engine(tiny_model(preset), steps=4)
    expected = engine.with_options(seed=7)
    steps = 0

    async def cancel() -> None:
        began = threading.Event()
        may_go_on = threading.Event()
        checks: list[bool] = []

        def count(report: Progress) -> None:
            nonlocal steps
            steps += report.activity is None
            if steps == 2:
                is_cancelled = cancellation()
                began.set()
                may_go_on.wait(60)
                checks.append(is_cancelled())

        call = asyncio.create_task(
            call_engine_async(engine, make_request(), progress=count, wait_when_cancelled=True)
        )
        assert await asyncio.to_thread(began.wait, 60)
        call.cancel()
        await asyncio.sleep(0)
        may_go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert checks == [True]

    asyncio.run(cancel())
    assert steps == 2
    if preset != "flux-redux":
        first = engine.create_variation(make_request()).data[0].read()
        assert first == expected.create_variation(make_request()).data[0].read()
    engine.close()


@EACH
def test_an_error_of_the_listener_ends_the_call(preset: str, tiny_model: MakeTinyModel) -> None:
    """A progress listener that fails ends the call with its own error, at that step."""
    engine = make_engine(tiny_model(preset), steps=4)
    shares: list[float] = []

    def fail(report: Progress) -> None:
        shares.append(report.share)
        raise LookupError

    # The first call fails while the model is loaded, and the second one at the first step.
    for _ in range(2):
        with pytest.raises(LookupError):
            call_engine(engine, make_request(), progress=fail)
        engine.create_variation(make_request())
    assert shares == [0, 0]
    engine.close()


@EACH
def test_takes_every_kind_of_pixels(preset: str, tiny_model: MakeTinyModel) -> None:
    """Gray, palette and transparent sources get RGB images."""
    with Image.open(LAKE) as photo:
        source = photo.convert("RGB").resize((64, 64))
    engine = make_engine(tiny_model(preset), steps=1)
    for mode in ("L", "RGBA") if preset == "flux-redux" else ("L", "LA", "RGBA", "P", "1"):
        request = make_request(png_of(source.convert(mode)))
        (image,) = open_images(engine.create_variation(request))
        assert (image.mode, image.size) == ("RGB", (256, 256))
    engine.close()


@pytest.mark.parametrize("preset", ["sd-variations"])
def test_sources_are_resized_without_antialiasing(preset: str, tiny_model: MakeTinyModel) -> None:
    """The default model sees stripes of one pixel as stripes, and not as an even gray.

    It was trained on images that were resized without antialiasing.
    """
    stripes = np.zeros((330, 330, 3), np.uint8)
    stripes[:, ::2] = 255
    family = load_family(PRESETS[preset].family)
    loaded = family.load({"pipeline": tiny_model(preset)}, torch.float32, safety=True)
    pixels = family.encode(loaded, Image.fromarray(stripes))
    assert pixels.shape == (1, 3, 32, 32)
    assert pixels.std() > 1
    resized = loaded.pipeline.feature_extractor(Image.fromarray(stripes), return_tensors="pt")
    assert resized.pixel_values.std() < 0.5


@pytest.mark.parametrize("preset", ["ip-adapter-xl"])
def test_a_decoder_without_memory_can_be_used_again(preset: str, tiny_model: MakeTinyModel) -> None:
    """If a decoder runs out of memory in single precision, the next call draws what it should.

    The pipeline of SDXL moves its decoder from half precision to single precision for each call.
    """
    family = load_family(PRESETS[preset].family)
    folder = tiny_model(preset)
    folders = {"pipeline": folder, "adapter": folder / "adapter"}
    loaded = family.load(folders, torch.float16, safety=True)
    encoded = family.encode(loaded, Image.new("RGB", (64, 64), "navy"))

    def draw() -> Image.Image | None:
        settings = DrawingSettings(steps=1, guidance_scale=5.0, strength=0.5)
        (image,) = family.draw(loaded, encoded, [7], settings, lambda share: None)
        return image

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    expected = draw()
    hook = loaded.pipeline.vae.decoder.register_forward_pre_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        draw()
    hook.remove()
    assert draw() == expected
