"""Engines that share one loaded pipeline, in threads, processes, servers and batches."""

import asyncio
import gc
import hashlib
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from langchain_image_variation import VariationBatch
from langchain_image_variation.contract import ImagesResponse
from langchain_image_variation.engines.call import call_engine, call_engine_async
from langchain_image_variation.engines.diffusers import DiffusersEngine
from langchain_image_variation.exceptions import EngineError
from langchain_image_variation.server.app import create_app
from pytest_image_variation.samples import square_png
from tests.engines.diffusers.calls import make_engine, make_request
from tests.engines.diffusers.conftest import MakeTinyModel
from tests.extras import skip_without

skip_without("torch")

OOM_TEXT = "CUDA out of memory. Tried to allocate 20.00 MiB."


@pytest.fixture
def model(tiny_model: MakeTinyModel) -> Path:
    """Return the folder of the tiny model of the default preset."""
    return tiny_model("sd-variations")


def hashes(response: ImagesResponse) -> list[str]:
    """Return a hash of each image."""
    return [hashlib.sha256(image.read()).hexdigest() for image in response.data]


def count_pipelines() -> int:
    """Return how many pipelines of diffusers are in memory."""
    from diffusers import DiffusionPipeline

    gc.collect()
    # `isinstance` would ask some objects for their class, and torch warns about that.
    return sum(issubclass(type(thing), DiffusionPipeline) for thing in gc.get_objects())


def test_twenty_engines_leave_no_pipeline(model: Path) -> None:
    """Engines that are used and closed, or forgotten, leave no pipeline in memory."""
    before = count_pipelines()
    for index in range(20):
        engine = make_engine(model, steps=1)
        engine.create_variation(make_request())
        assert index or count_pipelines() == before + 1
        if index % 2:
            engine.close()
        del engine
    assert count_pipelines() == before


def test_a_failed_call_leaves_no_tensors(model: Path) -> None:
    """A call that is cancelled in the middle, or whose listener fails, holds nothing."""
    import torch

    engine = make_engine(model, steps=4)
    engine.create_variation(make_request())

    def count_tensors() -> int:
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    before = count_tensors()

    def fail(progress: Any) -> None:
        if progress.share > 0.4:
            raise ZeroDivisionError

    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            call_engine(engine, make_request(n=2), progress=fail)
    assert count_tensors() <= before
    engine.close()


def test_threads_share_one_pipeline(model: Path) -> None:
    """Six threads with separate engines get the bytes of single calls, from one pipeline."""
    before = count_pipelines()
    with_seed: dict[int, list[str]] = {}
    single = make_engine(model)
    for seed in range(3):
        with_seed[seed] = hashes(single.with_options(seed=seed).create_variation(make_request()))
    single.close()
    assert count_pipelines() == before
    most = [0]

    def make(seed: int) -> list[str]:
        engine = make_engine(model, seed=seed)
        try:
            return hashes(engine.create_variation(make_request()))
        finally:
            most.append(count_pipelines())
            engine.close()

    seeds = [0, 1, 2, 2, 1, 0]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(make, seeds)) == [with_seed[seed] for seed in seeds]
    assert max(most) == before + 1
    assert count_pipelines() == before


async def test_a_waiting_call_can_be_cancelled(model: Path) -> None:
    """A call that waits for another one's turn ends when it is cancelled, long before the other."""
    engine = make_engine(model)
    is_drawing, may_end = threading.Event(), threading.Event()

    def hold(progress: Any) -> None:
        is_drawing.set()
        may_end.wait(60)

    first = asyncio.create_task(call_engine_async(engine, make_request(), progress=hold))
    assert await asyncio.to_thread(is_drawing.wait, 60)
    second = asyncio.create_task(
        call_engine_async(engine, make_request(), wait_when_cancelled=True)
    )
    await asyncio.sleep(0.05)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(second, 30)
    assert not first.done()
    may_end.set()
    assert len((await first).data) == 1
    engine.close()


_CHILD = """
import hashlib, sys
from tests.engines.diffusers.calls import make_engine, make_request
engine = make_engine(sys.argv[1])
for image in engine.create_variation(make_request(n=2)).data:
    print(hashlib.sha256(image.read()).hexdigest())
"""


@pytest.mark.slow
def test_two_processes_draw_at_once(model: Path) -> None:
    """Two processes do not disturb each other, and draw the same bytes for the same seed."""
    command = [sys.executable, "-c", _CHILD, str(model)]
    children = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        outputs = [child.communicate(timeout=300) for child in children]
    finally:
        # After a timeout, they would go on, and their open pipes would fail the next test.
        for child in children:
            child.kill()
            child.communicate()
    assert [child.returncode for child in children] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert len(outputs[0][0].split()) == 2


_FORK = """
import os, signal, sys
import torch
torch.set_num_threads(2)
from tests.engines.diffusers.calls import make_engine, make_request
engine = make_engine(sys.argv[1])
expected = [image.read() for image in engine.create_variation(make_request()).data]
child = os.fork()
if not child:
    signal.alarm(120)
    assert [image.read() for image in engine.create_variation(make_request()).data] == expected
    engine.close()
    os._exit(0)
print(os.waitpid(child, 0)[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_draws_the_same(model: Path) -> None:
    """A child forked from a process that has drawn loads the model again, and draws the same."""
    command = [sys.executable, "-W", "ignore", "-c", _FORK, str(model)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


@contextmanager
def out_of_memory_above(engine: DiffusersEngine, limit: int) -> Iterator[list[int]]:
    """Let the engine's model run out of memory if it draws more images at once than a limit.

    Yields:
        How many images each pass of the denoiser draws.
    """
    import torch

    sizes: list[int] = []

    def check(_: object, arguments: Any) -> None:
        # With guidance, each image is two samples.
        sizes.append(arguments[0].shape[0] // 2)
        if sizes[-1] > limit:
            raise torch.OutOfMemoryError(OOM_TEXT)

    with engine._pipeline.lease() as placed:
        unet = placed.run(lambda model: model.loaded.pipeline.unet)
    handle = unet.register_forward_pre_hook(check)
    del unet, placed
    try:
        yield sizes
    finally:
        handle.remove()


def test_smaller_batches_draw_the_same(model: Path) -> None:
    """If a batch does not fit, smaller ones draw the same images, and later calls start there."""
    engine, single = make_engine(model, batch=8), make_engine(model, batch=1)
    expected = hashes(single.create_variation(make_request(n=5)))
    with out_of_memory_above(engine, 2) as sizes:
        assert hashes(engine.create_variation(make_request(n=5))) == expected
        assert sizes[0] == 5
        assert max(sizes[1:]) == 2
        sizes.clear()
        assert hashes(engine.create_variation(make_request(n=5))) == expected
        assert max(sizes) == 2
    engine.close()
    single.close()


def test_no_memory_for_one_image_is_an_error(model: Path) -> None:
    """The error names the device and the ways out, and the engine works once there is memory."""
    engine = make_engine(model)
    with out_of_memory_above(engine, 0), pytest.raises(EngineError, match="Out of memory: cpu"):
        engine.create_variation(make_request(n=2))
    assert len(engine.create_variation(make_request(n=2)).data) == 2
    engine.close()


@pytest.mark.mostly_slow("sd-variations")
@pytest.mark.parametrize("preset", ["sd-variations", "unclip", "ip-adapter", "kandinsky"])
def test_offloaded_models_draw_the_same(tiny_model: MakeTinyModel, preset: str) -> None:
    """A model whose components are offloaded draws the same images, and can be freed.

    Here, they are offloaded from the CPU to the CPU. accelerate cannot do that with single layers.
    Where the weights lie in memory changes how sums are rounded, and so a pixel by one level.
    """
    import torch
    from PIL import Image

    from langchain_image_variation.engines.diffusers.devices import choose_device
    from langchain_image_variation.engines.diffusers.families import load_family
    from langchain_image_variation.engines.diffusers.families.family import (
        DrawingSettings,
        Pipelines,
    )
    from langchain_image_variation.engines.diffusers.models import read_model
    from langchain_image_variation.engines.diffusers.placed_model import PlacedModel
    from langchain_image_variation.engines.diffusers.placement import Offload, Placement

    def fail(_: object) -> Any:
        raise AssertionError

    description = read_model(tiny_model(preset), None, fail)
    family = load_family(description.preset.family)
    source = Image.effect_mandelbrot((64, 64), (-2, -1, 1, 1), 50).convert("RGB")
    settings = DrawingSettings(steps=2, guidance_scale=3.0, strength=0.5)

    def draw_batch(encoded: Any, loaded: Pipelines, seeds: Sequence[int]) -> list[Any]:
        return family.draw(loaded, encoded, seeds, settings, lambda share: None)

    drawings = []
    offloads: tuple[Offload, ...] = ("none", "model")
    for offload in offloads:
        loaded = family.load(description.folders, torch.float32, safety=False)
        placement = Placement(choose_device("cpu"), offload, 1)
        placed = PlacedModel(loaded, loaded.pipelines, placement, may_offload=False)
        encoded = placed.run(lambda loaded: family.encode(loaded, source))
        draw = partial(draw_batch, encoded)
        images = [placed.draw([5, 6], draw) for _ in range(2)]
        assert images[0] == images[1]
        drawings.append([image.tobytes() for image in images[0] if image is not None])
        reference = weakref.ref(loaded.pipeline)
        del loaded, encoded, images, draw
        placed.free()
        gc.collect()
        assert reference() is None
    assert len(drawings[0]) == 2
    for kept, offloaded in zip(*drawings, strict=True):
        assert max(abs(one - other) for one, other in zip(kept, offloaded, strict=True)) <= 1


async def test_a_server_draws_for_all_requests(model: Path, tmp_path: Path) -> None:
    """Requests that arrive at once get their images, with the seed that each of them sends."""
    before = count_pipelines()
    engine = make_engine(model)
    app = create_app(engine, store_dir=tmp_path, workers=3)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://localhost", timeout=300
    ) as client:

        async def post(seed: int) -> str:
            form = {"size": "256x256", "response_format": "b64_json", "seed": str(seed)}
            files = {"image": ("a.png", square_png(64))}
            answer = await client.post("/v1/images/variations", data=form, files=files)
            assert answer.status_code == 200, answer.text
            return str(answer.json()["data"][0]["b64_json"])

        images = await asyncio.gather(*map(post, [1, 2, 1, 2, 3]))
    assert images[0] == images[2] != images[1] == images[3] != images[4]
    assert count_pipelines() == before + 1
    engine.close()
    assert count_pipelines() == before


def test_a_batch_loads_the_model_once(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although a batch creates an engine for each source, the model is loaded once."""
    photos = [tmp_path / f"{index}.png" for index in range(3)]
    for index, photo in enumerate(photos):
        photo.write_bytes(square_png(32 + index))
    options = {"model": str(model), "device": "cpu", "steps": 1}
    batch = VariationBatch(
        tmp_path / "out", engine="diffusers", options=options, size="256x256", n=2
    )
    before, identities = count_pipelines(), set[int]()
    for photo in photos:
        rows = batch({"path": [str(photo)]})
        assert rows["error"] == [None, None]
        engine: Any = batch.load()
        with engine._pipeline.lease() as placed:
            identities.add(id(placed))
    assert len(identities) == 1
    batch.close()
    assert count_pipelines() == before
