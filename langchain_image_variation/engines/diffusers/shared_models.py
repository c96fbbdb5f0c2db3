"""One loaded model per process, shared by all engines that have the same options.

Engines come and go: a batch creates one for each source, and a server one for each request with a
seed. A model takes gigabytes and many seconds to load. So an engine holds a `SharedModel`. The
model is loaded when the first of them is used, and freed when the last one is closed or
forgotten.

A device makes the images of one call at a time. The other calls wait, in order.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar, cast
from weakref import finalize

from langchain_image_variation.cancellation import cancelled_error
from langchain_image_variation.exceptions import EngineError

__all__ = [
    "POLL_SECONDS",
    "Loadable",
    "SharedModel",
    "SharedModelLoader",
    "is_forked_child",
]

POLL_SECONDS = 0.1
"""How often a call that waits for its turn checks whether it was cancelled."""


class Loadable(Protocol):
    """A model in memory."""

    def free(self) -> None:
        """Release the memory. The model is not used again."""
        ...


T = TypeVar("T", bound=Loadable)
T_co = TypeVar("T_co", bound=Loadable, covariant=True)


class SharedModelLoader(Protocol[T_co]):
    """Loads a model. Its methods are called in this order, and not before the first use."""

    def device_name(self) -> str:
        """Return the device that the model uses, such as "cuda:0"."""
        ...

    def fetch(self) -> None:
        """Download what is missing. Meanwhile, other models may use the device."""
        ...

    def load(self) -> T_co:
        """Return the model, loaded from what `fetch` has downloaded."""
        ...


class SharedModel(Generic[T]):
    """An engine's share of a model that is loaded at most once per process.

    Threads may use it at once. In a forked child, which cannot use its parent's devices, the
    model is loaded again.

    Args:
        key: Models with equal keys are the same. It holds every option that the loader uses.
        loader: Loads the model if no other engine has loaded it.
    """

    def __init__(self, key: Hashable, loader: SharedModelLoader[T]) -> None:
        self._key = key
        self._loader = loader
        self._is_closed = False
        self._join()

    @contextmanager
    def lease(self, is_cancelled: Callable[[], bool] = lambda: False) -> Iterator[T]:
        """Wait for this call's turn, and use the model until the block ends.

        The first lease loads the model. If loading fails, the next lease tries again. A lease
        that begins after `close` keeps the model only until it ends.

        Args:
            is_cancelled: Returns whether to stop waiting.

        Raises:
            EngineError: If the call is cancelled while it waits, or if this thread already uses the
                model or its device.
            ImageVariationError: If the loader fails.
        """
        if self._process is not _process:
            # This is a forked child.
            self._join()
        process = self._process
        slot = process.add_user(self._key)
        try:
            with slot.turn.take(is_cancelled):
                device_turn = process.device_turn(self._loader.device_name())
                if slot.model is None:
                    self._loader.fetch()
                with device_turn.take(is_cancelled):
                    if slot.model is None:
                        slot.model = self._loader.load()
                    # Equal keys have loaders of the same kind of model.
                    yield cast(T, slot.model)
        finally:
            process.remove_user(slot)

    def share(self) -> "SharedModel[T]":
        """Return another share of the same model, for a copy of the engine."""
        return SharedModel(self._key, self._loader)

    def close(self) -> None:
        """Give up this share. The model is freed if it was the last one."""
        self._is_closed = True
        self._leave()

    def _join(self) -> None:
        """Count as a user of the model from now on, and forget any earlier process."""
        self._process = _process
        if not self._is_closed:
            slot = _process.add_user(self._key)
            self._leave = finalize(self, _process.remove_user, slot)
            # The operating system frees all memory when the process ends.
            self._leave.atexit = False


class _Turn:
    """Lets one thread at a time into a block. The others wait in order, and may be cancelled."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: deque[threading.Event] = deque()
        """One event per thread, set once it is that thread's turn. The first has the turn."""
        self._thread: int | None = None

    @contextmanager
    def take(self, is_cancelled: Callable[[], bool]) -> Iterator[None]:
        if self._thread == threading.get_ident():
            # Waiting would never end.
            raise EngineError(
                "A progress listener cannot call the engine that reports to it. Make the call "
                "after this one, or in another thread that the listener does not wait for."
            )
        is_next = threading.Event()
        try:
            with self._lock:
                self._queue.append(is_next)
                self._queue[0].set()
            while not is_next.wait(POLL_SECONDS):
                if is_cancelled():
                    raise cancelled_error()
            self._thread = threading.get_ident()
            yield
        finally:
            with self._lock:
                if self._thread == threading.get_ident():
                    self._thread = None
                # An interrupt may have come first.
                if is_next in self._queue:
                    self._queue.remove(is_next)
                if self._queue:
                    self._queue[0].set()


class _Slot:
    """The place of one model in a process."""

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.users = 0
        """The number of shares and leases."""
        self.turn = _Turn()
        self.model: Loadable | None = None


class _Process:
    """The models of one process, and the turns of its devices."""

    def __init__(self) -> None:
        self._id = os.getpid()
        self._lock = threading.Lock()
        self._slots: dict[Hashable, _Slot] = {}
        self._device_turns: dict[str, _Turn] = {}
        self._departures: deque[_Slot] = deque()
        """One item per user that has left and is still counted."""

    def device_turn(self, device: str) -> _Turn:
        """Return the turn of a device."""
        with self._lock:
            return self._device_turns.setdefault(device, _Turn())

    def add_user(self, key: Hashable) -> _Slot:
        """Count one more user of a model, and return its slot."""
        with self._lock:
            slot = self._slots.setdefault(key, _Slot(key))
            slot.users += 1
        self._count_departures()
        return slot

    def remove_user(self, slot: _Slot) -> None:
        """Count one user less. The last one frees the model.

        The garbage collector may call this at any moment, even in a thread that holds the lock.
        """
        if os.getpid() == self._id:
            self._departures.append(slot)
            self._count_departures()

    def _count_departures(self) -> None:
        # If the lock is taken, the thread that holds it comes here next.
        while self._departures and self._lock.acquire(blocking=False):
            try:
                unused = self._remove_unused_slots()
            finally:
                self._lock.release()
            for slot in unused:
                model, slot.model = slot.model, None
                if model is not None:
                    model.free()

    def _remove_unused_slots(self) -> list[_Slot]:
        unused = []
        while self._departures:
            slot = self._departures.popleft()
            slot.users -= 1
            if not slot.users:
                del self._slots[slot.key]
                unused.append(slot)
        return unused


_process = _Process()
_parents: list[_Process] = []
"""In a forked child, what it inherited. Freeing a parent's model would fail, so it is kept."""


def is_forked_child() -> bool:
    """Return whether this process was forked from one that had imported this module."""
    return bool(_parents)


def _start_over() -> None:
    """Forget models and turns in a forked child, which has neither the devices nor threads."""
    global _process
    _parents.append(_process)
    _process = _Process()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_over)
