"""`EngineThreads`: the threads in which engines run, apart from those for files."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic
from typing import ParamSpec, TypeVar

from langchain_image_variation.exceptions import RateLimitError

__all__ = ["MAX_ENGINE_CALLS", "EngineThreads"]

MAX_ENGINE_CALLS = 16
"""The maximum number of calls at once. The hosts of one user make only a few. A cancelled call
counts until its engine stops."""

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


class EngineThreads(ThreadPoolExecutor):
    """Runs up to `MAX_ENGINE_CALLS` calls at once, and refuses others instead of letting them wait.

    An engine that never stops keeps its thread. In threads shared with other work, such as those of
    `asyncio.to_thread`, a few of these engines would keep the server from answering anything.
    """

    def __init__(self) -> None:
        super().__init__(MAX_ENGINE_CALLS, thread_name_prefix="engine")
        self._free = threading.Semaphore(MAX_ENGINE_CALLS)

    def submit(
        self,
        function: Callable[_Parameters, _Result],
        /,
        *args: _Parameters.args,
        **kwargs: _Parameters.kwargs,
    ) -> Future[_Result]:
        """Run a call in a thread.

        Raises:
            RateLimitError: If all threads are busy.
        """
        if not self._free.acquire(blocking=False):
            raise RateLimitError(
                f"{MAX_ENGINE_CALLS} engine calls are in progress. Try again later."
            )
        try:
            future = super().submit(function, *args, **kwargs)
        except BaseException:
            self._free.release()
            raise
        future.add_done_callback(lambda _: self._free.release())
        return future

    def wait_until_idle(self, seconds: float) -> None:
        """Wait until no call is in progress, but not for longer. No call may start any more."""
        end = monotonic() + seconds
        for _ in range(MAX_ENGINE_CALLS):
            if not self._free.acquire(timeout=max(0.0, end - monotonic())):
                return
