"""`exclusive_access`: makes sure that only one run at a time writes to the same outputs.

In a folder, a run holds a `folder_lock`. At a URL, it holds a `Lease`.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from langchain_image_variation.batch.folder_lock import LOCK_NAME, folder_lock
from langchain_image_variation.batch.folders import BATCH_DIR
from langchain_image_variation.batch.lease import Lease
from langchain_image_variation.batch.ledger import LEDGER_NAME, Ledger
from langchain_image_variation.batch.stored_ledger import StoredLedger
from langchain_image_variation.exceptions import InvalidRequestError, OutputError
from langchain_image_variation.files.outputs import OutputFolder, Outputs
from langchain_image_variation.files.stored_outputs import StoredOutputs
from langchain_image_variation.output import make_output_dir

__all__ = ["ExclusiveAccess", "exclusive_access"]


@dataclass(frozen=True, slots=True)
class ExclusiveAccess:
    """The right to write to some outputs, and their ledger."""

    ledger: Ledger
    """The ledger of the outputs."""
    lock: int | None = None
    """The file descriptor of a folder's lock. A child process that inherits it holds the lock
    too."""
    lease: Lease | None = None
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
                (output_dir / LOCK_NAME).unlink()
                (output_dir / BATCH_DIR).rmdir()
