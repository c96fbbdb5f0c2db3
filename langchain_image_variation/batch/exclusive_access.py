"""`exclusive_access`: makes sure that only one run at a time writes to the same outputs.

In a folder a run holds a file lock. A file system at a URL has no locks, so there the run holds a
lease: a file with its name, which it rewrites every few seconds. A run that finds a lease waits to
see whether the file changes. If it does, another run is alive. No clocks are compared, and a killed
run blocks the next one only for a moment. If two runs start at the same moment, both take the
lease, until the first to renew it sees the other's name and ends.
"""

import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from langchain_image_variation.batch.folders import BATCH_DIR
from langchain_image_variation.batch.ledger import LEDGER_NAME, Ledger
from langchain_image_variation.batch.stored_ledger import StoredLedger
from langchain_image_variation.exceptions import InvalidRequestError, OutputError
from langchain_image_variation.files.lock import try_lock
from langchain_image_variation.files.outputs import OutputFolder, Outputs
from langchain_image_variation.files.stored_outputs import StoredOutputs
from langchain_image_variation.output import make_output_dir

__all__ = [
    "LOCK_TIMEOUT",
    "RENEWAL_INTERVAL",
    "ExclusiveAccess",
    "Lease",
    "exclusive_access",
    "folder_lock",
]

LOCK_TIMEOUT = 1.0
"""Seconds to wait for a folder's lock. Workers hold it for a moment after their run has ended."""

_LOCK_NAME = "lock"

RENEWAL_INTERVAL = 4.0
"""Seconds between two renewals of a lease."""

_MISSED_RENEWALS = 3
"""A lease expires after this many intervals without a renewal."""

_LEASE_NAME = f"{BATCH_DIR}/lease"


@dataclass(frozen=True, slots=True)
class ExclusiveAccess:
    """The right to write to some outputs, and their ledger."""

    ledger: Ledger
    """The ledger of the outputs."""
    lock: int | None = None
    """The file descriptor of a folder's lock. A child process that inherits it holds the lock
    too."""
    lease: "Lease | None" = None
    """The lease of outputs at a URL."""

    def is_lost(self) -> bool:
        """Return whether another run may be writing to the outputs by now."""
        return self.lease is not None and self.lease.is_lost()

    def check(self) -> None:
        """Check that this run may still write to the outputs.

        Raises:
            OutputError: If the lease is lost.
        """
        if self.lease is not None:
            self.lease.check()


@contextmanager
def exclusive_access(outputs: Outputs) -> Iterator[ExclusiveAccess]:
    """Hold the right to write to some outputs for the block. Creates them if necessary.

    Raises:
        OutputError: If another run is writing to the outputs, they are not writable, or their
            ledger is corrupt.
        InvalidRequestError: If the outputs are in memory, and would be lost with this process.
    """
    if isinstance(outputs, OutputFolder):
        folder = make_output_dir(outputs.path)
        with folder_lock(folder) as lock, _open_ledger(folder) as ledger:
            yield ExclusiveAccess(ledger, lock=lock)
        return
    assert isinstance(outputs, StoredOutputs)
    if outputs.kind == "memory":
        raise InvalidRequestError(
            "Outputs at 'memory://' are lost when the process ends. Choose another place.",
            param="output_dir",
        )
    outputs.create()
    with (
        Lease(outputs, on_wait=_print_waiting) as lease,
        StoredLedger(outputs, is_lost=lease.is_lost) as stored_ledger,
    ):
        yield ExclusiveAccess(stored_ledger, lease=lease)


def _print_waiting() -> None:
    print("Checking whether another run is still writing there.", file=sys.stderr, flush=True)


@contextmanager
def _open_ledger(output_dir: Path) -> Iterator[Ledger]:
    """Open the ledger for the block. If nothing was recorded, remove its files at the end.

    Raises:
        OutputError: See `Ledger`.
    """
    is_empty = False
    try:
        with Ledger(output_dir) as ledger:
            try:
                yield ledger
            finally:
                with suppress(OutputError):
                    is_empty = ledger.is_empty()
    finally:
        if is_empty:
            with suppress(OSError):
                (output_dir / LEDGER_NAME).unlink()
                (output_dir / BATCH_DIR / _LOCK_NAME).unlink()
                (output_dir / BATCH_DIR).rmdir()


@contextmanager
def folder_lock(output_dir: Path) -> Iterator[int]:
    """Lock an output folder for the block.

    Yields:
        The file descriptor of the lock. A child that inherits it holds the lock while it lives.

    Raises:
        OutputError: If another run holds the lock, or the lock file cannot be created.
    """
    path = output_dir / BATCH_DIR / _LOCK_NAME
    deadline = time.monotonic() + LOCK_TIMEOUT
    try:
        while (descriptor := _try_lock(path)) is None:
            if time.monotonic() > deadline:
                raise OutputError(
                    f"Another run is writing to the folder {output_dir.name!r}. Wait until it "
                    "ends, or choose another folder."
                )
            time.sleep(0.05)
    except OSError as error:
        raise OutputError(
            f"The folder {output_dir.name!r} cannot be locked: {error.strerror}. "
            "Check its permissions, or choose another folder."
        ) from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(path: Path) -> int | None:
    """Take the lock if it is free. The system frees it once all its holders have ended.

    Returns:
        The file descriptor that holds the lock, or None if it is not free.

    Raises:
        OSError: If the file cannot be opened or locked.
    """
    path.parent.mkdir(exist_ok=True)
    # Another run that recorded nothing may remove the file and its folder at any time.
    try:
        descriptor = _open_lock(path)
    except FileNotFoundError:
        return None
    is_locked = False
    try:
        with suppress(FileNotFoundError):
            is_locked = try_lock(descriptor) and os.path.samestat(
                os.fstat(descriptor), os.stat(path)
            )
    finally:
        if not is_locked:
            os.close(descriptor)
    return descriptor if is_locked else None


def _open_lock(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        # The file belongs to another user. A read-only descriptor can still see their lock.
        return os.open(path, os.O_RDONLY)


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
