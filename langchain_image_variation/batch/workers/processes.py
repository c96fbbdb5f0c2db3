"""`Processes`: workers that are processes, for engines that compute."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from typing import Any

from langchain_image_variation.batch.rows import Row
from langchain_image_variation.batch.variation_batch import VariationBatch
from langchain_image_variation.batch.workers.pipe import receive, send
from langchain_image_variation.batch.workers.protocol import Source
from langchain_image_variation.exceptions import EngineError

__all__ = ["ATTEMPTS", "Processes"]

ATTEMPTS = 3
"""How often a source is tried whose worker dies, and a worker started that does not come up."""

_LEAVE = 10.0
"""Seconds that an engine has to close, once nothing is in hand."""

_ONE_THREAD = {name: "1" for name in ("MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


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
            _kill(process)
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
            _dismiss(process)
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
        kept = [] if os.name == "nt" or self._lock is None else [str(self._lock)]
        try:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "langchain_image_variation.batch.workers.process_main",
                    *kept,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, **_ONE_THREAD, "PYTHONPATH": path},
                # A terminal sends an interrupt to all processes of a group.
                start_new_session=True,
                pass_fds=[int(descriptor) for descriptor in kept],
            )
        except OSError as error:
            raise EngineError(f"A worker cannot be started: {error.strerror}.") from None
        self._living.add(process)
        if self._stopped:
            # It came too late to be among those that were killed.
            _kill(process)
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
        # What its engine started and left, which may hold memory, or a GPU.
        _kill(process)
        return f"by signal {-code}" if code < 0 else f"with exit code {code}"


def _dismiss(process: "subprocess.Popen[bytes]") -> None:
    """Let a process that has nothing in hand close its engine, and end."""
    assert process.stdin is not None
    try:
        send(process.stdin, None)
        process.wait(_LEAVE)
    except (OSError, subprocess.TimeoutExpired):
        _kill(process)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process, and what its engine started."""
    if os.name == "nt":
        process.kill()
        return
    # Its group bears its number.
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)


def _answer(process: "subprocess.Popen[bytes]", message: object) -> Any:
    """Send a message, and return what the process says to it.

    Raises:
        EOFError: If it has ended.
        OSError: If it has.
    """
    assert process.stdin is not None and process.stdout is not None
    send(process.stdin, message)
    return receive(process.stdout)
