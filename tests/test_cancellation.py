import asyncio
import io
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from langchain_image_variation.agents.tool import ImageVariationTool
from langchain_image_variation.batch.variation_batch import VariationBatch
from langchain_image_variation.cancellation import cancel_after, cancellation, delay_cancellation
from langchain_image_variation.exceptions import EngineError
from langchain_image_variation.hosted.client import AsyncImageVariationClient
from langchain_image_variation.images.deep_samples import reduce_to_8_bits
from langchain_image_variation.images.padding import add_blurred_bars
from langchain_image_variation.images.pixels import decode_png, decode_result, encode_png
from langchain_image_variation.images.png import SquarePNG
from langchain_image_variation.source import load_source
from pytest_image_variation.samples import square_png

NOISE = Image.effect_noise((300, 300), 90)


def _saved(format: str) -> bytes:
    buffer = io.BytesIO()
    NOISE.save(buffer, format)
    return buffer.getvalue()


@pytest.fixture
def cancelled() -> Iterator[None]:
    """A call that was cancelled."""
    event = threading.Event()
    event.set()
    with cancel_after(event):
        yield


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.usefixtures("cancelled")
def test_no_source_is_decoded_for_nobody(format: str) -> None:
    """Loading a file of any format stops once the call is cancelled."""
    with pytest.raises(EngineError, match="The call was cancelled"):
        load_source(_saved(format))


@pytest.mark.parametrize(
    "work",
    [
        lambda: load_source(NOISE),
        lambda: decode_png(SquarePNG(_saved("PNG"))),
        lambda: decode_result(_saved("WEBP")),
        lambda: encode_png(NOISE),
        lambda: reduce_to_8_bits(Image.new("I;16", (8, 8)), (0, 0, 8, 8), None),
        lambda: add_blurred_bars(Image.new("RGB", (64, 32)), 16),
    ],
    ids=["PIL image", "decode_png", "decode_result", "encode_png", "16 bits", "bars"],
)
@pytest.mark.usefixtures("cancelled")
def test_no_pixels_are_converted_for_nobody(work: Callable[[], object]) -> None:
    """Converting and encoding stop once the call is cancelled."""
    with pytest.raises(EngineError, match="The call was cancelled"):
        work()


def test_a_decoder_stops_between_two_reads() -> None:
    """If a call is cancelled while Pillow decodes, Pillow stops at its next read."""
    event = threading.Event()

    class Cancelling(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            event.set()
            return super().read(size)

    with cancel_after(event), pytest.raises(EngineError, match="The call was cancelled"):
        load_source(Cancelling(_saved("BMP")))


def test_a_call_in_a_cancelled_call_is_cancelled() -> None:
    """Cancelling a call also cancels the calls that it makes."""
    outer = threading.Event()
    with cancel_after(outer):
        with cancel_after():
            is_cancelled = cancellation()
            assert not is_cancelled()
            outer.set()
            assert is_cancelled()
    assert not cancellation()()


def test_paid_work_continues_for_a_while() -> None:
    """A cancellation is not seen at once where it is delayed, and is seen again afterwards."""
    event = threading.Event()
    with cancel_after(event):
        with delay_cancellation():
            is_cancelled = cancellation()
            event.set()
            assert not is_cancelled()
        assert cancellation()()


# Every async call whose thread decodes images.


class Waiting(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A file system whose operations last until the test lets them end."""

    protocol = "waiting"
    started: ClassVar = threading.Event()
    finish: ClassVar = threading.Event()
    outcomes: ClassVar[list[bool]] = []
    seen: ClassVar = threading.Event()

    @classmethod
    def wait(cls) -> None:
        """Wait in the thread of the call, and note whether it was cancelled meanwhile."""
        is_cancelled = cancellation()
        cls.started.set()
        cls.finish.wait(60)
        cls.outcomes.append(is_cancelled())
        cls.seen.set()

    def open(self, *arguments: Any, **options: Any) -> Any:
        """Wait, and open a file."""
        self.wait()
        return super().open(*arguments, **options)

    def info(self, *arguments: Any, **options: Any) -> Any:
        """Wait, and describe a file."""
        self.wait()
        return super().info(*arguments, **options)

    def cat_file(self, *arguments: Any, **options: Any) -> Any:
        """Wait, and read a file."""
        self.wait()
        return super().cat_file(*arguments, **options)

    def pipe_file(self, *arguments: Any, **options: Any) -> Any:
        """Wait, and write a file."""
        self.wait()
        return super().pipe_file(*arguments, **options)


class WaitingFile(io.BytesIO):
    """An open file that waits when it is read."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Wait, and read."""
        Waiting.wait()
        return super().read(size)


async def _call_tool(folder: Path) -> object:
    (folder / "photo.png").write_bytes(square_png(8))
    tool = ImageVariationTool(engine="instant", root_dir=folder, output_dir="waiting://results")
    return await tool.ainvoke({"image": "photo.png"})


async def _call_batch(folder: Path) -> object:
    batch = VariationBatch(output_dir=folder, engine="instant", n=1, allow_storage=["waiting"])
    return await batch.make_rows_async({"path": "waiting://photo.png"})


async def _call_client(folder: Path) -> object:
    async with AsyncImageVariationClient(base_url="http://127.0.0.1:9") as client:
        return await client.images.create_variation(image=WaitingFile(square_png(8)))


@pytest.mark.parametrize("call", [_call_tool, _call_batch, _call_client])
async def test_threads_of_cancelled_calls_can_stop(
    call: Callable[[Path], Awaitable[object]], tmp_path: Path
) -> None:
    """A cancelled call ends at once, and the work in its thread sees that it was cancelled."""
    fsspec.register_implementation("waiting", Waiting, clobber=True)
    for event in (Waiting.started, Waiting.finish, Waiting.seen):
        event.clear()
    Waiting.outcomes.clear()
    task = asyncio.ensure_future(call(tmp_path))
    try:
        assert await asyncio.to_thread(Waiting.started.wait, 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    finally:
        Waiting.finish.set()
    assert await asyncio.to_thread(Waiting.seen.wait, 60)
    assert Waiting.outcomes[0]
