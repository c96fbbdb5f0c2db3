"""The extras that a command needs."""

from collections.abc import Iterator
from contextlib import contextmanager

from langchain_image_variation.exceptions import MissingExtraError

__all__ = ["translate_import_errors"]


@contextmanager
def translate_import_errors(extra: str) -> Iterator[None]:
    """Name the extra to install if an import in the block fails.

    Raises:
        MissingExtraError: If a package is not installed.
    """
    try:
        yield
    except MissingExtraError:
        raise
    except ImportError as error:
        raise MissingExtraError.for_package(
            "This command", error.name, f"langchain-image-variation[{extra}]"
        ) from None
