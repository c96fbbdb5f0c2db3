"""The secret key of a store's folder, which signs URLs. All servers of the folder share it."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

from langchain_image_variation.files.atomic import atomic_write, link_or_rename
from langchain_image_variation.files.regular_file import open_regular_file

__all__ = ["has_key", "load_key"]

_NAME = "key"
_BYTES = 32


def has_key(folder: Path) -> bool:
    """Return whether a server has used this folder."""
    return os.path.lexists(folder / _NAME)


def load_key(folder: Path, owner: int, lost_key: bytes | None = None) -> bytes:
    """Return the key of a folder, which the first process makes.

    Args:
        folder: The folder.
        owner: The user who owns the files of this process. Another user's key is refused, because
            that user could sign URLs.
        lost_key: The previous key of the folder, in case it was removed.

    Raises:
        OSError: If the key cannot be read or made, or must not be used.
    """
    path = folder / _NAME
    if not has_key(folder):
        # A later process must not replace the key of the first one.
        with (
            suppress(FileExistsError),
            atomic_write(path, publish=link_or_rename, mode=0o600) as file,
        ):
            file.write(lost_key or secrets.token_bytes(_BYTES))
    # Checked first, because it explains why the key may be unreadable.
    if os.lstat(path).st_uid != owner:
        raise OSError(0, "another user's server stores its images there")
    key_file = open_regular_file(path)
    if key_file is None:
        raise OSError(0, f"its {_NAME!r} is not a regular file")
    with key_file:
        if os.fstat(key_file.fileno()).st_uid != owner:
            raise OSError(0, f"its {_NAME!r} was replaced")
        key = key_file.read(_BYTES + 1)
    if len(key) != _BYTES:
        raise OSError(0, f"its {_NAME!r} is corrupt")
    return key
