"""Translates Pillow's errors about a file, and hides its warnings."""

import threading
import warnings
from collections.abc import Callable
from types import TracebackType

from langchain_image_variation.error_translation import ErrorTranslation
from langchain_image_variation.exceptions import ImageVariationError

__all__ = ["translate_decoder_errors"]


class _PillowWarningFilter:
    """Ignores Pillow's warnings, for example about corrupt EXIF, while any thread is inside.

    `warnings.catch_warnings` restores all filters, including those that other threads have changed
    in the meantime. This class adds and removes only its own filter.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._filter: object = None

    def __enter__(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                warnings.filterwarnings("ignore", module=r"PIL\.")
                self._filter = warnings.filters[0]

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._filter in warnings.filters:
                warnings.filters.remove(self._filter)  # type: ignore[attr-defined]  # it is a list


_pillow_warning_filter = _PillowWarningFilter()


def translate_decoder_errors(make_error: Callable[[], ImageVariationError]) -> ErrorTranslation:
    """Replace any exception that Pillow raises in the block with our error, and hide its warnings.

    For a corrupt file, Pillow raises almost anything, including struct.error and zlib.error. Its
    messages are dropped, because they may contain memory addresses and paths.

    Args:
        make_error: Returns the error to raise.
    """
    return _DecoderErrorTranslation(lambda _: make_error())


class _DecoderErrorTranslation(ErrorTranslation):
    """Also ignores Pillow's warnings in the block."""

    def __enter__(self) -> None:
        _pillow_warning_filter.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _pillow_warning_filter.__exit__()
        super().__exit__(kind, error, traceback)
