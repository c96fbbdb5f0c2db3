"""`Hold`: the sole right to write to some outputs for a while, and the ledger that goes with it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from langchain_image_variation.batch.lease import Lease
from langchain_image_variation.batch.ledger import Ledger
from langchain_image_variation.batch.lock import folder_lock
from langchain_image_variation.batch.stored_ledger import StoredLedger
from langchain_image_variation.exceptions import InvalidRequestError
from langchain_image_variation.files.outputs import OutputFolder, Outputs
from langchain_image_variation.files.stored_outputs import OutputStorage
from langchain_image_variation.output import make_output_dir

__all__ = ["Hold", "hold"]


@dataclass(frozen=True, slots=True)
class Hold:
    """What a run holds."""

    ledger: Ledger
    """What was done there, and is being done."""
    lock: int | None = None
    """The descriptor of a folder's lock: a child that inherits it holds the folder too."""
    lease: Lease | None = None
    """Of a place in a file system, which knows no locks."""

    def is_lost(self) -> bool:
        """Say whether another run may write there by now."""
        return self.lease is not None and self.lease.is_lost()

    def check(self) -> None:
        """Do nothing, or raise.

        Raises:
            OutputError: If it is lost.
        """
        if self.lease is not None:
            self.lease.check()


@contextmanager
def hold(outputs: Outputs) -> Iterator[Hold]:
    """Hold some outputs for the block; they are made if they are not there.

    Raises:
        OutputError: If another run holds them, they cannot be written to, or the ledger there is
            damaged.
        InvalidRequestError: If they are in the memory, and would end with this process.
    """
    if isinstance(outputs, OutputFolder):
        folder = make_output_dir(outputs.path)
        with folder_lock(folder) as lock, Ledger(folder) as ledger:
            yield Hold(ledger, lock=lock)
        return
    assert isinstance(outputs, OutputStorage)
    if outputs.kind == "memory":
        raise InvalidRequestError(
            "Pictures at 'memory://' end with the process that makes them; name another place.",
            param="output_dir",
        )
    outputs.make()
    with (
        Lease(outputs, waiting=_say_waiting) as lease,
        StoredLedger(outputs, is_lost=lease.is_lost) as ledger,
    ):
        yield Hold(ledger, lease=lease)


def _say_waiting() -> None:
    print("Waiting whether another run still writes there.", file=sys.stderr, flush=True)
