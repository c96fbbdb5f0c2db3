"""`Lease`: keeps other runs out of outputs at a URL, where file systems have no locks.

It is a file with the name of the run, which rewrites it every few seconds. A run that finds a lease
waits to see whether the file changes. If it does, another run is alive. No clocks are compared, and
a killed run blocks the next one only for a moment. If two runs start at the same moment, both take
the lease, until the first to renew it sees the other's name and ends.
"""

import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from langchain_image_variation.batch.folders import BATCH_DIR
from langchain_image_variation.exceptions import OutputError
from langchain_image_variation.files.outputs import Outputs

__all__ = ["RENEWAL_INTERVAL", "Lease"]

RENEWAL_INTERVAL = 4.0
"""Seconds between two renewals of a lease."""

_MISSED_RENEWALS = 3
"""A lease expires after this many intervals without a renewal."""

_LEASE_NAME = f"{BATCH_DIR}/lease"


class Lease:
    """The right to write to outputs at a URL. Use it as a context manager.

    Args:
        outputs: The outputs.
        on_wait: Called if there is a lease already, since it takes a while to see whether it has
            expired.
        interval: Seconds between two renewals.

    Raises:
        OutputError: On entering, if another run holds the lease, or the file cannot be written.
    """

    def __init__(
        self,
        outputs: Outputs,
        *,
        on_wait: Callable[[], object] = lambda: None,
        interval: float = RENEWAL_INTERVAL,
    ) -> None:
        self._outputs = outputs
        self._on_wait = on_wait
        self._interval = interval
        self._run_id = secrets.token_hex(8)
        self._is_lost = False
        self._last_renewal = 0.0
        self._end_event = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Self:
        if (content := self._outputs.read(_LEASE_NAME)) is not None:
            self._on_wait()
            self._wait_for_expiry(content)
        self._write(0)
        self._last_renewal = time.monotonic()
        self._renewer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end_event.set()
        if error is not None and not isinstance(error, Exception):
            # After an interrupt, don't wait for a server that may not respond.
            return
        self._renewer.join()
        # If the file stays, the next run only has to wait until the lease expires.
        with suppress(OutputError):
            if not self._is_lost and self._is_ours(self._outputs.read(_LEASE_NAME)):
                self._outputs.remove(_LEASE_NAME)

    def is_lost(self) -> bool:
        """Return whether another run holds the lease now, or may hold it."""
        # The renewing thread itself may be waiting for a server that does not respond.
        if time.monotonic() - self._last_renewal > _MISSED_RENEWALS * self._interval:
            self._is_lost = True
        return self._is_lost

    def check(self) -> None:
        """Check that this run still holds the lease.

        Raises:
            OutputError: If the lease is lost.
        """
        if self.is_lost():
            raise OutputError(
                "Another run started writing to the same place, or the storage was unreachable for "
                "too long. Once no other run is active, run the same command again to continue."
            )

    def _wait_for_expiry(self, content: bytes) -> None:
        deadline = time.monotonic() + _MISSED_RENEWALS * self._interval
        while time.monotonic() < deadline:
            time.sleep(self._interval / 4)
            new_content = self._outputs.read(_LEASE_NAME)
            if new_content is None:
                return
            if new_content != content:
                raise OutputError(
                    "Another run is writing to the same place. Wait until it ends, or choose "
                    "another place."
                )

    def _write(self, renewals: int) -> None:
        self._outputs.write_all({_LEASE_NAME: f"{self._run_id} {renewals}".encode()})

    def _is_ours(self, content: bytes | None) -> bool:
        return content is not None and content.startswith(self._run_id.encode())

    def _renew(self) -> None:
        renewals = 0
        while not (self._end_event.wait(self._interval) or self._is_lost):
            renewals += 1
            # The next renewal may succeed.
            with suppress(OutputError):
                # If the file is gone, another run took the lease and ended while this machine
                # was suspended.
                if not self._is_ours(self._outputs.read(_LEASE_NAME)):
                    self._is_lost = True
                    return
                self._write(renewals)
                self._last_renewal = time.monotonic()
