"""`StoredLedger`: the ledger of a run whose outputs are in a file system, which takes whole files.

It is written to a temporary folder of this machine, and its copy in the file system is renewed now
and then. A run that is killed loses what it wrote since, which loses no picture: they stand by
themselves, and are looked at again.
"""

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from langchain_image_variation.batch.ledger import LEDGER_DIR, Ledger, translate_sqlite_errors
from langchain_image_variation.exceptions import OutputError
from langchain_image_variation.files.stored_outputs import OutputStorage

__all__ = ["RENEWED_EVERY", "StoredLedger"]

RENEWED_EVERY = 300.0
"""Seconds between two copies, and more where a copy takes long."""

_SHARE = 20
"""At most a part of the time like this goes to copies."""

_NAME = f"{LEDGER_DIR}/ledger.sqlite"


class StoredLedger(Ledger):
    """A ledger that is kept in a file system.

    Args:
        outputs: Where the outputs are.
        is_lost: Once it says True, another run may write there, and its copy is left alone.

    Raises:
        OutputError: As `Ledger`, and if its copy cannot be read.
    """

    def __init__(self, outputs: OutputStorage, *, is_lost: Callable[[], bool]) -> None:
        self._outputs = outputs
        self._is_lost = is_lost
        with translate_sqlite_errors():
            self._folder = tempfile.TemporaryDirectory()
        try:
            local = Path(self._folder.name)
            with translate_sqlite_errors():
                (local / LEDGER_DIR).mkdir()
            outputs.download(_NAME, local / _NAME)
            super().__init__(local)
        except BaseException:
            self._folder.cleanup()
            raise
        self._renewed = time.monotonic()
        self._wait = RENEWED_EVERY

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            # What ended the run is told, and not what came of it. An interrupt waits for no server.
            if error is None:
                self._renew()
            elif isinstance(error, Exception):
                with suppress(OutputError):
                    self._renew()
        finally:
            super().__exit__(kind, error, traceback)
            self._folder.cleanup()

    def record(self, position: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write down what came of one source, and renew the copy if it is time and can be.

        Raises:
            OutputError: If it cannot be written.
        """
        super().record(position, rows)
        if time.monotonic() - self._renewed > self._wait:
            # What fails now may work the next time, or else at the end.
            with suppress(OutputError):
                self._renew()

    def _renew(self) -> None:
        if self._is_lost():
            return
        begun = time.monotonic()
        copy = Path(self._folder.name, "copy.sqlite")
        try:
            with translate_sqlite_errors():
                copy.unlink(missing_ok=True)
            self.copy_to(copy)
            self._outputs.upload(_NAME, copy)
        finally:
            self._renewed = time.monotonic()
            self._wait = max(RENEWED_EVERY, _SHARE * (self._renewed - begun))
