"""`ConcurrentCalls`: workers for hosted engines, which make many calls at once in this process."""

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor

from langchain_image_variation.batch.rows import OutputRow, SourceRow, unexpected_error
from langchain_image_variation.batch.variation_batch import VariationBatch
from langchain_image_variation.exceptions import ImageVariationError

__all__ = ["ConcurrentCalls"]


class ConcurrentCalls:
    """Workers for engines that only wait for a server. They share one engine and one event loop.

    Args:
        batch: The settings. Its engine is created here.
        count: The number of concurrent calls.

    Raises:
        ImageVariationError: If the engine cannot be created.
    """

    def __init__(self, batch: VariationBatch, count: int) -> None:
        self.capacity = count
        self._batch = batch
        batch.load()
        self._loop = asyncio.new_event_loop()
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="calls")
        self._loop.set_default_executor(self._pool)
        self._thread = threading.Thread(target=self._loop.run_forever, name="calls", daemon=True)
        self._thread.start()

    def submit(self, source: SourceRow) -> "Future[list[OutputRow]]":
        """Start a source."""
        return asyncio.run_coroutine_threadsafe(self._make_rows(source), self._loop)

    def withdraw(self, future: "Future[list[OutputRow]]") -> bool:
        """Return False: every source starts immediately, and its call may already be billed."""
        return False

    def close(self) -> None:
        """End the event loop and the threads. All sources must be finished."""
        self._stop_loop()
        self._pool.shutdown()

    def stop(self) -> None:
        """Cancel all calls. A thread in the middle of a call cannot be ended, so don't wait."""
        asyncio.run_coroutine_threadsafe(_cancel_other_tasks(), self._loop).result()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._stop_loop()

    async def _make_rows(self, source: SourceRow) -> list[OutputRow]:
        try:
            return await self._batch.make_rows_async(source)
        except (ImageVariationError, asyncio.CancelledError):
            raise
        except BaseException as error:
            # A SystemExit, if raised here, would end the loop and all other calls.
            return [self._batch.error_row(source, unexpected_error(error))]

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._batch.close()


async def _cancel_other_tasks() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
