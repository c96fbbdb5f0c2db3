"""`make_temporary_folder`: a folder for temporary files, or an error that says what to do."""

import os
import tempfile

from langchain_image_variation.exceptions import OutputError

__all__ = ["make_temporary_folder"]


def make_temporary_folder(purpose: str) -> "tempfile.TemporaryDirectory[str]":
    """Create a folder that is removed when its block ends or when it is cleaned up.

    Args:
        purpose: What needs the folder; the error message begins with it.

    Raises:
        OutputError: If this user can write to no temporary folder.
    """
    try:
        return tempfile.TemporaryDirectory()
    except OSError as error:
        # The error's own text may list all folders that were tried.
        reason = os.strerror(error.errno) if error.errno else type(error).__name__
        raise OutputError(
            f"{purpose} needs a folder for temporary files ({reason}). Set TMPDIR to a folder that "
            "you can write to."
        ) from None
