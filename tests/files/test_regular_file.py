import os
import socket
from pathlib import Path

import pytest

from langchain_image_variation.files.regular_file import open_regular_file

POSIX = pytest.mark.skipif(os.name != "posix", reason="other systems have no such files")


def test_a_regular_file_is_opened(tmp_path: Path) -> None:
    """A regular file is opened, and a missing one is an error."""
    path = tmp_path / "cat.png"
    with pytest.raises(FileNotFoundError):
        open_regular_file(path)
    path.write_bytes(b"cat")
    file = open_regular_file(path)
    assert file is not None
    with file:
        assert file.read() == b"cat"


@POSIX
@pytest.mark.parametrize("kind", ["link", "dangling", "loop", "folder", "fifo", "socket", "null"])
def test_anything_else_is_not_opened(tmp_path: Path, kind: str) -> None:
    """A link, a folder, a FIFO, a socket or a device gives None, without waiting for a writer."""
    path = tmp_path / "x"
    if kind == "link":
        (tmp_path / "secret").write_bytes(b"secret")
        path.symlink_to(tmp_path / "secret")
    elif kind == "dangling":
        path.symlink_to(tmp_path / "nowhere")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "null":
        path = Path(os.devnull)
    else:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.path.relpath(path))
    assert open_regular_file(path) is None


@POSIX
def test_an_unreadable_file_is_an_error(tmp_path: Path) -> None:
    """A file that this user may not read is an error, unlike a path that is not a file."""
    path = tmp_path / "cat.png"
    path.write_bytes(b"cat")
    path.chmod(0)
    if os.geteuid() == 0:
        pytest.skip("root may read every file")
    with pytest.raises(PermissionError):
        open_regular_file(path)
