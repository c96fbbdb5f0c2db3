"""`WorkerProcesses`: worker processes for engines that compute. Handles the death of a worker."""

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from itertools import cycle
from typing import Any, TypeAlias

from langchain_image_variation.batch.rows import OutputRow, SourceRow
from langchain_image_variation.batch.variation_batch import VariationBatch
from langchain_image_variation.batch.workers.process_pipe import receive, send
from langchain_image_variation.engines.processors import processor_count
from langchain_image_variation.exceptions import EngineError

__all__ = ["MAX_ATTEMPTS", "WorkerProcesses"]

MAX_ATTEMPTS = 3
"""How many times a source is tried if its worker dies, and how many times a worker is started."""

_CLOSE_TIMEOUT = 10.0
"""Seconds that an engine has to close at the end of a run."""

_THREAD_VARIABLES = ("MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Environment variables that tell numeric libraries how many threads to use."""

_SINGLE_THREAD = dict.fromkeys(_THREAD_VARIABLES, "1")

_Process: TypeAlias = subprocess.Popen[bytes]


class WorkerProcesses:
    """Workers that are processes.

    Usually there is one per processor, each with one thread for arithmetic. If the engine computes
    on devices, there is one per device, and the processes share the processors.

    If a process dies, it is restarted and its source is tried again. If a source kills
    `MAX_ATTEMPTS` processes in a row, it fails.

    Args:
        batch: The settings.
        count: The number of processes.
        lock: The file descriptor of the output folder's lock, which the processes hold while they
            live.
        devices: The devices to assign to the processes in turn, for an engine that computes on one.
            If there are more processes, some share a device. None lets the engine choose.
    """

    def __init__(
        self,
        batch: VariationBatch,
        count: int,
        lock: int | None = None,
        devices: Sequence[str | None] = (),
    ) -> None:
        self.capacity = 2 * count
        self._batch = batch
        self._lock = lock
        self._environment = _thread_settings(count) if devices else _SINGLE_THREAD
        self._sources: queue.SimpleQueue[tuple[SourceRow, Future[list[OutputRow]]] | None]
        self._sources = queue.SimpleQueue()
        self._processes: set[_Process] = set()
        self._is_stopped = False
        self._threads = [
            threading.Thread(target=self._serve, args=(batch,), name=f"worker-{index}", daemon=True)
            for index, batch in enumerate(self._batches(count, devices))
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, source: SourceRow) -> "Future[list[OutputRow]]":
        """Start a source as soon as a process is free."""
        future: Future[list[OutputRow]] = Future()
        self._sources.put((source, future))
        return future

    def withdraw(self, future: "Future[list[OutputRow]]") -> bool:
        """Take a source back if no process has it, and return whether this succeeded."""
        return future.cancel()

    def close(self) -> None:
        """End the processes. All sources must be finished."""
        for _ in self._threads:
            self._sources.put(None)
        for thread in self._threads:
            thread.join()

    def stop(self) -> None:
        """Kill the processes."""
        self._is_stopped = True
        for process in list(self._processes):
            _kill(process)
        self.close()

    def _batches(self, count: int, devices: Sequence[str | None]) -> Iterator[VariationBatch]:
        """Yield the settings for each process."""
        for _, device in zip(range(count), cycle(devices or [None]), strict=False):
            yield self._batch if device is None else self._batch.on_device(device)

    def _serve(self, batch: VariationBatch) -> None:
        """Send sources, one at a time, to a process that belongs to this thread.

        Args:
            batch: The settings for the process.
        """
        process: _Process | None = None
        while (item := self._sources.get()) is not None:
            source, future = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                process, result = self._process(process, batch, source)
            except Exception as error:
                process, result = None, error
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
        if process is not None:
            _ask_to_exit(process)
            self._reap(process)

    def _process(
        self, process: _Process | None, batch: VariationBatch, source: SourceRow
    ) -> tuple[_Process | None, Any]:
        """Return the process for the next source, if it is alive, and the result of this one."""
        exit_status = ""
        for _ in range(MAX_ATTEMPTS):
            process = process or self._start(batch)
            try:
                return process, _exchange(process, source)
            except (EOFError, OSError):
                exit_status = self._reap(process)
                process = None
        error = EngineError(
            f"The worker process died {MAX_ATTEMPTS} times in a row ({exit_status})."
        )
        return None, [self._batch.error_row(source, error)]

    def _start(self, batch: VariationBatch) -> _Process:
        """Return a process that is ready for sources.

        Raises:
            EngineError: If no process can be started, or the run was stopped.
        """
        exit_status = "stopped"
        for _ in range(MAX_ATTEMPTS):
            if self._is_stopped:
                break
            process = self._spawn()
            try:
                _exchange(process, batch)
                return process
            except (EOFError, OSError):
                exit_status = self._reap(process)
        raise EngineError(
            f"The worker processes cannot be started. The last one ended early ({exit_status}). "
            "Use fewer workers, or check that this Python can import the package."
        )

    def _spawn(self) -> _Process:
        # The child imports what this process can import. -P keeps the working directory out.
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        locks = [] if os.name == "nt" or self._lock is None else [self._lock]
        module = "langchain_image_variation.batch.workers.process_main"
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, *map(str, locks)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, **self._environment, "PYTHONPATH": path},
                # A terminal sends an interrupt to all processes of its group. Only the run gets it.
                start_new_session=True,
                pass_fds=locks,
            )
        except OSError as error:
            raise EngineError(
                f"A worker process cannot be started: {error.strerror}. Use fewer workers."
            ) from None
        self._processes.add(process)
        if self._is_stopped:
            # `stop` did not see this process.
            _kill(process)
        return process

    def _reap(self, process: _Process) -> str:
        """Wait for a process to end, and return its exit status."""
        self._processes.discard(process)
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            # Closing flushes the pipe. If sending failed, this fails again.
            with suppress(OSError):
                pipe.close()
        code = process.wait()
        # Processes that its engine left behind may hold memory or a GPU.
        _kill(process)
        return f"signal {-code}" if code < 0 else f"exit code {code}"


def _thread_settings(count: int) -> dict[str, str]:
    """Return the environment variables that divide the processors among the processes.

    A single process uses as many threads as its libraries think best.
    """
    threads = str(max(1, processor_count() // count))
    names = [name for name in _THREAD_VARIABLES if name not in os.environ]
    return dict.fromkeys(names, threads) if count > 1 else {}


def _ask_to_exit(process: _Process) -> None:
    """Let an idle process close its engine and exit. Kill it if it does not."""
    assert process.stdin is not None
    try:
        send(process.stdin, None)
        process.wait(_CLOSE_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired):
        _kill(process)


def _kill(process: _Process) -> None:
    """Kill a process and everything that its engine started."""
    if os.name == "nt":
        process.kill()
        return
    # The process leads its own group, which has its number.
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)


def _exchange(process: _Process, message: object) -> Any:
    """Send a message, and return the answer.

    Raises:
        EOFError: If the process has ended.
        OSError: If the process has ended.
    """
    assert process.stdin is not None and process.stdout is not None
    send(process.stdin, message)
    return receive(process.stdout)
