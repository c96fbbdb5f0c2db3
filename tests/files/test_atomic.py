import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from langchain_image_variation.exceptions import OutputError
from langchain_image_variation.files.atomic import (
    TEMPORARY_NAME,
    atomic_write,
    place_file,
    temporary_name,
    unlink_temporary_names,
    unwritable_error,
)


def test_readers_see_the_old_file_until_the_end(tmp_path: Path) -> None:
    """The new content replaces the old content only when the block ends."""
    path = tmp_path / "cat.png"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["cat.png"]


def test_an_error_in_the_block_changes_nothing(tmp_path: Path) -> None:
    """The old file stays and no temporary file is left."""
    path = tmp_path / "cat.png"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["cat.png"]


def test_a_link_never_replaces_a_file(tmp_path: Path) -> None:
    """A file that appears while the block runs is kept, and the writer gets an error."""
    path = tmp_path / "cat.png"
    with pytest.raises(FileExistsError), atomic_write(path, publish=os.link) as file:
        file.write(b"second")
        path.write_bytes(b"first")
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["cat.png"]


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_mode_and_time_are_set_before_the_name(tmp_path: Path) -> None:
    """The file has its permissions and modification time as soon as it has its name."""
    path = tmp_path / "cat.png"
    temporary_stats: list[os.stat_result] = []

    def publish(temporary: Path, final: Path) -> None:
        temporary_stats.append(temporary.stat())
        os.replace(temporary, final)

    with atomic_write(path, publish=publish, mode=0o600, mtime=100.0) as file:
        file.write(b"new")
    for status in (*temporary_stats, path.stat()):
        assert (status.st_mode & 0o777, status.st_mtime) == (0o600, 100.0)
    assert len(temporary_stats) == 1


KILLED = """
import os, signal, sys
from pathlib import Path
from langchain_image_variation.files.atomic import atomic_write

with atomic_write(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
def test_a_killed_writer_leaves_only_a_temporary_file(tmp_path: Path) -> None:
    """A killed writer leaves a temporary file whose name matches the pattern for leftovers."""
    path = tmp_path / "cat.png"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    (name,) = os.listdir(tmp_path)
    assert TEMPORARY_NAME.fullmatch(name)


def test_a_placed_file_keeps_what_is_there(tmp_path: Path) -> None:
    """`place_file` returns the new content, the existing content, or None for a folder."""
    assert place_file(tmp_path, "cat.png", b"first") == b"first"
    assert place_file(tmp_path, "cat.png", b"second") == b"first"
    (tmp_path / "dog.png").mkdir()
    assert place_file(tmp_path, "dog.png", b"third") is None
    with pytest.raises(OutputError, match="choose another folder"):
        place_file(tmp_path / "missing", "cat.png", b"fourth")
    assert sorted(os.listdir(tmp_path)) == ["cat.png", "dog.png"]


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0, 0o666)])
def test_the_umask_decides_who_may_read(tmp_path: Path, umask: int, mode: int) -> None:
    """A file has the permissions that any program's file would have."""
    earlier_umask = os.umask(umask)
    try:
        place_file(tmp_path, "cat.png", b"new")
    finally:
        os.umask(earlier_umask)
    assert (tmp_path / "cat.png").stat().st_mode & 0o777 == mode


def test_only_temporary_names_of_a_file_are_removed(tmp_path: Path) -> None:
    """A file loses its temporary names. Its other names and other temporary files stay."""
    path = tmp_path / "cat.png"
    path.write_bytes(b"cat")
    for name in (temporary_name(), temporary_name(), "cat-2.png"):
        os.link(path, tmp_path / name)
    other, link = temporary_name(), temporary_name()
    (tmp_path / other).write_bytes(b"cat")
    (tmp_path / link).symlink_to(path)
    unlink_temporary_names(tmp_path, path.stat())
    assert sorted(os.listdir(tmp_path)) == sorted(["cat.png", "cat-2.png", other, link])
    unlink_temporary_names(tmp_path / "missing", path.stat())


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "'a' cannot be written: No space left"),
        (OSError("odd"), "'a' cannot be written: OSError. Free some space or choose"),
        (PermissionError(errno.EACCES, "Permission denied"), "Check the permissions of its folder"),
    ],
)
def test_an_unwritable_file_has_a_reason(error: OSError, text: str) -> None:
    """The error has the system's reason, or the name of the error if it has none."""
    assert text in unwritable_error("a", error).message


@pytest.mark.skipif(os.name != "posix", reason="other systems have no FIFOs")
def test_a_placed_file_follows_no_link(tmp_path: Path) -> None:
    """`place_file` returns None for a link, even a dangling one, and for a FIFO, and keeps it."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (tmp_path / "link.png").symlink_to(secret)
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "fifo.png")
    before = sorted(os.listdir(tmp_path))
    for name in ("link.png", "dangling.png", "fifo.png"):
        assert place_file(tmp_path, name, b"new") is None
    assert sorted(os.listdir(tmp_path)) == before
    assert secret.read_bytes() == b"secret"
