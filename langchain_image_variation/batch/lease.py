"""`Lease`: one run at a time into one place of a file system, which knows no locks.

A run writes its name into a file there, and writes it anew every few seconds. One that finds such a
file waits whether it changes: if it does, another run is alive. So no two clocks are compared, and
what a killed run left holds nobody off for long. Two that begin at the same moment both think to
have it, until the first of them to renew it sees the name of the other, and ends.
"""

import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from langchain_image_variation.batch.ledger import LEDGER_DIR
from langchain_image_variation.exceptions import OutputError
from langchain_image_variation.files.outputs import Outputs

__all__ = ["EVERY", "Lease"]

EVERY = 4.0
"""Seconds after which a run renews its lease."""

_PATIENCE = 3
"""A lease that was not renewed for so many times as long is nobody's any more."""

_NAME = f"{LEDGER_DIR}/lease"


class Lease:
    """The right to write to some outputs. Use it as a context manager.

    Args:
        outputs: The place.
        waiting: Called if a lease is there, which takes a while to judge.
        every: Seconds after which it is renewed.

    Raises:
        OutputError: On entering, if another run holds it, or it cannot be written.
    """

    def __init__(
        self,
        outputs: Outputs,
        *,
        waiting: Callable[[], object] = lambda: None,
        every: float = EVERY,
    ) -> None:
        self._outputs = outputs
        self._waiting = waiting
        self._every = every
        self._name = secrets.token_hex(8)
        self._lost = False
        self._renewed = 0.0
        self._done = threading.Event()
        self._renewer = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> Self:
        if (found := self._outputs.read(_NAME)) is not None:
            self._waiting()
            self._outlast(found)
        self._write(0)
        self._renewed = time.monotonic()
        self._renewer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()
        if error is not None and not isinstance(error, Exception):
            # Whoever interrupts twice does not wait for a server that may be gone.
            return
        self._renewer.join()
        # It would only make the next run wait.
        with suppress(OutputError):
            if not self._lost and self._is_own(self._outputs.read(_NAME)):
                self._outputs.remove(_NAME)

    def is_lost(self) -> bool:
        """Say whether another run has it now, or might."""
        # The thread that renews it may itself wait for a storage that hangs.
        if time.monotonic() - self._renewed > _PATIENCE * self._every:
            self._lost = True
        return self._lost

    def check(self) -> None:
        """Do nothing, or raise.

        Raises:
            OutputError: If it is lost.
        """
        if self.is_lost():
            raise OutputError(
                "Another run began to write to the same place, or the storage was out of reach for "
                "too long; the same command goes on from here once no other run does."
            )

    def _outlast(self, found: bytes) -> None:
        deadline = time.monotonic() + _PATIENCE * self._every
        while time.monotonic() < deadline:
            time.sleep(self._every / 4)
            now = self._outputs.read(_NAME)
            if now is None:
                return
            if now != found:
                raise OutputError(
                    "Another run is writing to the same place; wait for its end, or name another."
                )

    def _write(self, count: int) -> None:
        self._outputs.put({_NAME: f"{self._name} {count}".encode()})

    def _is_own(self, found: bytes | None) -> bool:
        return found is not None and found.startswith(self._name.encode())

    def _keep(self) -> None:
        count = 0
        while not (self._done.wait(self._every) or self._lost):
            count += 1
            # What failed once may work the next time.
            with suppress(OutputError):
                # One that is gone was taken, and given up again, while this machine slept.
                if not self._is_own(self._outputs.read(_NAME)):
                    self._lost = True
                    return
                self._write(count)
                self._renewed = time.monotonic()
