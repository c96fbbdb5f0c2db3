"""Turns errors of other libraries into errors of this package, and errors into portable ones."""

from collections.abc import Callable
from types import TracebackType

from langchain_image_variation.exceptions import ImageVariationError

__all__ = ["ErrorTranslation", "portable_error"]

_FIELDS = ("hint", "status_code", "type", "code", "param", "request_id", "retry_after")
_TREE = ImageVariationError.__module__


class ErrorTranslation:
    """A context manager that replaces errors that leave its block.

    Errors of this package pass through, and so do exceptions that are not errors, such as
    `KeyboardInterrupt`.

    This is a class because, since Python 3.12, an error that a generator's context manager raises
    is part of a reference cycle. The cycle keeps everything in the frames of the traceback, such as
    images, until the garbage collector runs. An error in a local variable of a frame that it leaves
    is part of such a cycle too, so errors are made where they are raised.

    Args:
        make_error: Returns the error that replaces one from another library.
        is_chained: Whether a traceback shows both errors.
    """

    def __init__(
        self, make_error: Callable[[Exception], ImageVariationError], *, is_chained: bool = False
    ) -> None:
        self._make_error, self._is_chained = make_error, is_chained

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, ImageVariationError):
            raise self._make_error(error) from (error if self._is_chained else None)


def portable_error(error: ImageVariationError) -> ImageVariationError:
    """Return an error that can be pickled: a copy without foreign classes, data and causes.

    Args:
        error: An error. If its class is an engine's own, the copy has the nearest class of the
            error tree.
    """
    kind = next(kind for kind in type(error).__mro__ if kind.__module__ == _TREE)
    copy: ImageVariationError = kind(error.message)
    for name in _FIELDS:
        setattr(copy, name, getattr(error, name))
    return copy
