"""`Tasks`: workers that are calls at once from one process, for engines that ask a server."""

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor

from langchain_image_variation.batch.rows import Row
from langchain_image_variation.batch.variation_batch import VariationBatch
from langchain_image_variation.batch.workers.protocol import Source, unexpected
from langchain_image_variation.exceptions import ImageVariationError

__all__ = ["Tasks"]


class Tasks:
    """Many calls at once from this process, for engines that only wait for a server.

    Args:
        batch: The settings. Its engine is made here.
        count: How many calls at once.

    Raises:
        ImageVariationError: If the engine cannot be made.
    """

    def __init__(self, batch: VariationBatch, count: int) -> None:
        self.capacity = count
        self._batch = batch
        batch.load()
        self._loop = asyncio.new_event_loop()
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="hosted")
        self._loop.set_default_executor(self._pool)
        self._thread = threading.Thread(target=self._loop.run_forever, name="hosted", daemon=True)
        self._thread.start()

    def submit(self, source: Source) -> "Future[list[Row]]":
        """Begin with a source."""
        return asyncio.run_coroutine_threadsafe(self._rows(source), self._loop)

    def withdraw(self, future: "Future[list[Row]]") -> bool:
        """Leave a source: all are begun as they come, and a call may have been billed."""
        return False

    def close(self) -> None:
        """End them, once nothing is in hand."""
        self._end()
        self._pool.shutdown()

    def stop(self) -> None:
        """Cancel the calls, without waiting for threads amid one, which nothing can end."""
        asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop).result()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._end()

    async def _rows(self, source: Source) -> list[Row]:
        try:
            return await self._batch.rows_async(source)
        except (ImageVariationError, asyncio.CancelledError):
            raise
        except BaseException as error:
            # Raised here, one that asks to exit would end the loop, and with it every other call.
            return [self._batch.error_row(source, unexpected(error))]

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._batch.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
