"""`StoredLedger`: the ledger of a batch whose outputs are at a URL.

SQLite needs a local file, so the ledger is in a temporary folder, and a copy is uploaded to the
outputs every few minutes and at the end. A run that is killed loses what it recorded since the last
upload, but no images: the next run finds and checks those that the ledger does not know.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from langchain_image_variation.batch.folders import BATCH_DIR
from langchain_image_variation.batch.ledger import LEDGER_NAME, Ledger, translate_sqlite_errors
from langchain_image_variation.exceptions import OutputError
from langchain_image_variation.files.stored_outputs import StoredOutputs
from langchain_image_variation.files.temporary_folder import make_temporary_folder

__all__ = ["UPLOAD_INTERVAL", "StoredLedger"]

UPLOAD_INTERVAL = 300.0
"""The minimum number of seconds between two uploads."""

_MIN_INTERVAL_FACTOR = 20
"""The interval is at least this many times the duration of the last upload."""


class StoredLedger(Ledger):
    """A ledger that is kept among outputs at a URL.

    Args:
        outputs: The outputs.
        is_lost: Returns True once another run may be writing to the outputs. From then on,
            the ledger is not uploaded.

    Raises:
        OutputError: See `Ledger`. Also if there is no temporary folder, or the ledger cannot be
            downloaded.
    """

    def __init__(self, outputs: StoredOutputs, *, is_lost: Callable[[], bool]) -> None:
        self._outputs = outputs
        self._is_lost = is_lost
        self._folder = make_temporary_folder("The ledger of a run at a URL")
        try:
            local_folder = Path(self._folder.name)
            with translate_sqlite_errors():
                (local_folder / BATCH_DIR).mkdir()
            outputs.download(LEDGER_NAME, local_folder / LEDGER_NAME)
            super().__init__(local_folder)
        except BaseException:
            self._folder.cleanup()
            raise
        self._last_upload = time.monotonic()
        self._interval = UPLOAD_INTERVAL

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._upload()
            elif isinstance(error, Exception):
                # The error that ended the run matters more than a failed upload.
                with suppress(OutputError):
                    self._upload()
            # On an interrupt nothing is uploaded, because the server may not respond.
        finally:
            super().__exit__(kind, error, traceback)
            self._folder.cleanup()

    def record(self, position: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replace the rows of one source, and upload the ledger if it is time to.

        Raises:
            OutputError: If the rows cannot be written.
        """
        super().record(position, rows)
        if time.monotonic() - self._last_upload > self._interval:
            # A later upload may succeed.
            with suppress(OutputError):
                self._upload()

    def _upload(self) -> None:
        if self._is_lost() or self.is_empty():
            return
        start = time.monotonic()
        copy = Path(self._folder.name, "copy.sqlite")
        try:
            with translate_sqlite_errors():
                copy.unlink(missing_ok=True)
            self.copy_to(copy)
            self._outputs.upload(LEDGER_NAME, copy)
        finally:
            self._last_upload = time.monotonic()
            duration = self._last_upload - start
            self._interval = max(UPLOAD_INTERVAL, _MIN_INTERVAL_FACTOR * duration)
