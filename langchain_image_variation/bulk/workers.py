"""Who does the work of a bulk run: processes, or for engines that only ask a server, tasks."""

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeAlias

from langchain_image_variation.batch import Row, VariationBatch
from langchain_image_variation.bulk.pipe import receive, send
from langchain_image_variation.exceptions import EngineError

__all__ = ["ATTEMPTS", "Processes", "Tasks", "Workers"]

ATTEMPTS = 3
"""How often a source is tried whose worker dies."""

Source: TypeAlias = Mapping[str, object]

_ONE_THREAD = {name: "1" for name in ("MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


class Workers(Protocol):
    """Who does the work of a run."""

    capacity: int
    """How many sources to have in hand, so that none of them waits for work."""

    def submit(self, source: Source) -> "Future[list[Row]]":
        """Begin with a source; what comes of it are its rows, or the error that ends the run."""
        ...

    def withdraw(self, future: "Future[list[Row]]") -> bool:
        """Take a source back, and say whether that could be: whether it was not begun."""
        ...

    def close(self) -> None:
        """End them, once nothing is in hand."""
        ...

    def stop(self) -> None:
        """End them at once, whatever is in hand."""
        ...


class Processes:
    """A process for each processor, each with one thread for arithmetic.

    One that dies is started again, and its source is tried again; when it has died `ATTEMPTS` times
    on the same source, that is the source's error.

    Args:
        batch: The settings.
        count: How many.
        lock: The descriptor of the lock of the output folder, which they keep as long as they live,
            or None.
    """

    def __init__(self, batch: VariationBatch, count: int, lock: int | None = None) -> None:
        self.capacity = 2 * count
        self._batch = batch
        self._lock = lock
        self._sources: queue.SimpleQueue[tuple[Source, Future[list[Row]]] | None]
        self._sources = queue.SimpleQueue()
        self._living: set[subprocess.Popen[bytes]] = set()
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._serve, name=f"worker-{index}", daemon=True)
            for index in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, source: Source) -> "Future[list[Row]]":
        """Begin with a source."""
        future: Future[list[Row]] = Future()
        self._sources.put((source, future))
        return future

    def withdraw(self, future: "Future[list[Row]]") -> bool:
        """Take a source back if no process has it."""
        return future.cancel()

    def close(self) -> None:
        """End them, once nothing is in hand."""
        for _ in self._threads:
            self._sources.put(None)
        for thread in self._threads:
            thread.join()

    def stop(self) -> None:
        """Kill them."""
        self._stopped = True
        for process in list(self._living):
            process.kill()
        self.close()

    def _serve(self) -> None:
        """Give sources to a process of this thread's own, one at a time."""
        process: subprocess.Popen[bytes] | None = None
        while (item := self._sources.get()) is not None:
            source, future = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                process, outcome = self._outcome(process, source)
            except Exception as error:
                process, outcome = None, error
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
        if process is not None:
            self._end(process)

    def _outcome(
        self, process: "subprocess.Popen[bytes] | None", source: Source
    ) -> tuple["subprocess.Popen[bytes] | None", Any]:
        """Return what came of a source, and the process that still lives, if one does."""
        how = ""
        for _ in range(ATTEMPTS):
            process = process or self._started()
            try:
                return process, _answer(process, source)
            except (EOFError, OSError):
                how = self._end(process)
                process = None
        died = EngineError(f"The worker's process ended {how}, {ATTEMPTS} times in a row.")
        return None, [self._batch.error_row(source, died)]

    def _started(self) -> "subprocess.Popen[bytes]":
        """Return a process that is ready for sources.

        Raises:
            EngineError: If none can be started, or the run was stopped.
        """
        how = "and was stopped"
        for _ in range(ATTEMPTS):
            if self._stopped:
                break
            process = self._spawned()
            try:
                _answer(process, self._batch)
                return process
            except (EOFError, OSError):
                how = self._end(process)
        raise EngineError(f"The workers' processes cannot be started: the last one ended {how}.")

    def _spawned(self) -> "subprocess.Popen[bytes]":
        # The child finds what this process does; its own folder is nothing to import from.
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "langchain_image_variation.bulk.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, **_ONE_THREAD, "PYTHONPATH": path},
                # A terminal sends an interrupt to all processes of a group.
                start_new_session=True,
                pass_fds=() if os.name == "nt" or self._lock is None else (self._lock,),
            )
        except OSError as error:
            raise EngineError(f"A worker cannot be started: {error.strerror}.") from None
        self._living.add(process)
        if self._stopped:
            # It came too late to be among those that were killed.
            process.kill()
        return process

    def _end(self, process: "subprocess.Popen[bytes]") -> str:
        """Let a process end, and say how it did."""
        self._living.discard(process)
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            # What could not be sent any more is sent once more here, and cannot.
            with contextlib.suppress(OSError):
                pipe.close()
        code = process.wait()
        return f"by signal {-code}" if code < 0 else f"with exit code {code}"


def _answer(process: "subprocess.Popen[bytes]", message: object) -> Any:
    """Send a message, and return what the process says to it.

    Raises:
        EOFError: If it has ended.
        OSError: If it has.
    """
    assert process.stdin is not None and process.stdout is not None
    send(process.stdin, message)
    return receive(process.stdout)


class Tasks:
    """Many calls at once from this process, for engines that only wait for a server.

    Args:
        batch: The settings. Its engine is made here.
        count: How many calls at once.

    Raises:
        ImageVariationError: If the engine cannot be made.
    """

    def __init__(self, batch: VariationBatch, count: int) -> None:
        # Only here: where there are processes, nothing needs it.
        import asyncio

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
        import asyncio

        return asyncio.run_coroutine_threadsafe(self._batch.rows_async(source), self._loop)

    def withdraw(self, future: "Future[list[Row]]") -> bool:
        """Leave a source: all are begun as they come, and a call may have been billed."""
        return False

    def close(self) -> None:
        """End them, once nothing is in hand."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._pool.shutdown()
        self._loop.close()
        self._batch.close()

    def stop(self) -> None:
        """Cancel the calls; what cannot be cancelled of them is waited for."""
        import asyncio

        asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop).result()
        self.close()


async def _cancel_others() -> None:
    import asyncio

    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
