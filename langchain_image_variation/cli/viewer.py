"""Opens result files in the user's image viewer."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

__all__ = ["open_files"]


def open_files(paths: Iterable[Path]) -> bool:
    """Open files in the program that the system, or the variable `BROWSER`, uses for images.

    Returns:
        Whether all files were passed to a program. False on a machine without a display.
    """
    if not _has_display():
        return False
    # Imported here because few runs need it.
    import webbrowser

    try:
        return all([webbrowser.open(path.absolute().as_uri()) for path in paths])
    except webbrowser.Error:
        return False


def _has_display() -> bool:
    if os.environ.get("BROWSER") or sys.platform in ("darwin", "win32"):
        return True
    # Without a display, `webbrowser` would start a text browser in this terminal.
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
