import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from langchain_image_variation.exceptions import (
    ExpiredURLError,
    NotFoundError,
    OutputError,
    ServiceUnavailableError,
)
from langchain_image_variation.server.store.folder_store import FolderStore
from langchain_image_variation.server.store.limited_folder import Reservation
from pytest_image_variation.samples import square_png
from tests.other_users import (
    OTHER_USER,
    environment_of_other_users,
    require_other_users,
)

GIGABYTE = 1024**3
DAY = 24 * 3600.0


def add(store: FolderStore, png: bytes) -> str:
    """Store an image as the only one of an answer, and return the last part of its URL."""
    (address,) = store.add_all([png])
    return address


def path_of(store: FolderStore, address: str) -> Path:
    """Return the file of a URL."""
    name, _, query = address.partition("?se=")
    expires, _, signature = query.partition("&sig=")
    file = store.open(name, expires, signature).file
    file.close()
    return Path(file.name)


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    """Other files are left alone, however old they are, and whatever their names."""
    other_paths = [tmp_path / "holiday.png", tmp_path / "film.part", tmp_path / f"{'a' * 63}.png"]
    for path in other_paths:
        path.write_bytes(bytes(5000))
        os.utime(path, (0, 0))
    for _ in range(2):
        store = FolderStore(tmp_path, ttl=60, max_bytes=10)
        add(store, square_png(8))
    assert all(path.exists() for path in other_paths)


def test_expired_files_are_removed(tmp_path: Path) -> None:
    """A new store removes expired files, and keeps all others whatever its own settings are."""
    first = FolderStore(tmp_path, ttl=3600, max_bytes=GIGABYTE)
    current, old = add(first, square_png(1)), add(first, square_png(2))
    old_path = path_of(first, old)
    os.utime(old_path, (time.time() - 1, time.time() - 1))
    unfinished_file = tmp_path / f".{'0' * 16}.part"
    unfinished_file.write_bytes(b"x")
    os.utime(unfinished_file, (time.time() - 900, time.time() - 900))
    second = FolderStore(tmp_path, ttl=1, max_bytes=GIGABYTE)
    add(second, square_png(3))
    assert path_of(second, current).exists()
    assert not old_path.exists()
    assert not unfinished_file.exists()


class WatchedPath(type(Path())):  # type: ignore[misc]  # the class of this system's paths
    """Lets `tidy` run while `add` looks at a file, and `add` while `tidy` removes it."""

    adding_thread: threading.Thread | None = None
    stat_event, unlink_event, add_event = threading.Event(), threading.Event(), threading.Event()

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Return the status of the file."""
        status: os.stat_result = super().stat(follow_symlinks=follow_symlinks)
        if threading.current_thread() is WatchedPath.adding_thread:
            WatchedPath.stat_event.set()
            WatchedPath.unlink_event.wait(0.5)
        return status

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file."""
        if WatchedPath.adding_thread not in (None, threading.current_thread()):
            WatchedPath.unlink_event.set()
            WatchedPath.add_event.wait(10)
        super().unlink(missing_ok)


def test_a_renewed_image_is_not_removed(tmp_path: Path) -> None:
    """A renewed image is not removed even by a thread that saw it before, when it had expired."""
    store = FolderStore(WatchedPath(tmp_path), ttl=3600, max_bytes=GIGABYTE)
    old_path = path_of(store, add(store, square_png(1)))
    os.utime(old_path, (100, 100))

    def tidy() -> None:
        assert WatchedPath.stat_event.wait(60)
        store.tidy()

    with ThreadPoolExecutor(1) as pool:
        tidying_task = pool.submit(tidy)
        WatchedPath.adding_thread = threading.current_thread()
        try:
            address = add(store, square_png(1))
        finally:
            WatchedPath.adding_thread = None
            WatchedPath.stat_event.set()
            WatchedPath.add_event.set()
        tidying_task.result()
    assert path_of(store, address).exists()


def test_storing_again_never_shortens(tmp_path: Path) -> None:
    """Each URL of an image works for its whole time, even if the image is stored again."""
    long = FolderStore(tmp_path, ttl=3600, max_bytes=GIGABYTE)
    address = add(long, square_png(1))
    expiry = path_of(long, address).stat().st_mtime
    add(FolderStore(tmp_path, ttl=1, max_bytes=GIGABYTE), square_png(1))
    assert path_of(long, address).stat().st_mtime == expiry
    add(FolderStore(tmp_path, ttl=7200, max_bytes=GIGABYTE), square_png(1))
    assert path_of(long, address).stat().st_mtime > expiry + 3000


@pytest.mark.skipif(os.name != "posix", reason="making a link needs a permission elsewhere")
def test_files_may_vanish(tmp_path: Path) -> None:
    """A file that another process removes after it was listed causes no error."""
    dangling_link = tmp_path / f"{'0' * 64}.png"
    dangling_link.symlink_to(tmp_path / "nowhere")
    store = FolderStore(tmp_path, ttl=3600, max_bytes=1)
    assert dangling_link.is_symlink()
    assert path_of(store, add(store, square_png(1))).exists()


def test_the_folder_is_private(tmp_path: Path) -> None:
    """The folder, the key and the images are private, and a corrupt key is not used."""
    folder = tmp_path / "files"
    store = FolderStore(folder, ttl=60, max_bytes=GIGABYTE)
    image = path_of(store, add(store, square_png(1)))
    if os.name == "posix":
        assert folder.stat().st_mode & 0o077 == 0
        assert (folder / "key").stat().st_mode & 0o077 == 0
        assert image.stat().st_mode & 0o077 == 0
    (folder / "key").write_bytes(b"short")
    with pytest.raises(OutputError):
        FolderStore(folder, ttl=60, max_bytes=GIGABYTE)


def test_an_evicted_image_is_not_found(tmp_path: Path) -> None:
    """The error for an evicted image says why it is not found."""
    store = FolderStore(tmp_path, ttl=60, max_bytes=1)
    address = add(store, square_png(1))
    add(store, square_png(2))
    with pytest.raises(NotFoundError, match="make room"):
        path_of(store, address)


def test_an_open_image_survives_eviction(tmp_path: Path) -> None:
    """An image that is open when it is evicted can be read to its end."""
    store = FolderStore(tmp_path, ttl=60, max_bytes=1)
    name, _, query = add(store, square_png(1)).partition("?se=")
    file, length, _ = store.open(name, *query.split("&sig="))
    with file:
        add(store, square_png(2))
        assert not Path(file.name).exists()
        assert (len(file.read()), length) == (len(square_png(1)),) * 2


def test_the_images_of_an_answer_stay_together(tmp_path: Path) -> None:
    """Images of one answer do not evict each other, even if they exceed the limit."""
    store = FolderStore(tmp_path, ttl=60, max_bytes=1)
    old = add(store, square_png(9))
    addresses = store.add_all(square_png(side) for side in (1, 2, 3))
    assert all(path_of(store, address).exists() for address in addresses)
    with pytest.raises(NotFoundError):
        path_of(store, old)


def replace_by_link(path: Path) -> None:
    """Replace a file by a symbolic link to a copy of it."""
    path.rename(path.with_name("copy"))
    path.symlink_to("copy")


def replace_by_hard_link(path: Path) -> None:
    """Replace a file by another name of a file with other content."""
    path.with_name("other").write_bytes(b"secret")
    path.unlink()
    os.link(path.with_name("other"), path)


def replace_by_fifo(path: Path) -> None:
    """Replace a file by a FIFO without a writer."""
    path.unlink()
    os.mkfifo(path)


def replace_content(path: Path) -> None:
    """Change a file's content, but neither its length nor its modification time."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    # Another clock tick, or its ctime would be the same.
    time.sleep(0.05)
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace_by_endless_file(path: Path) -> None:
    """Replace a file by a sparse one that would take an hour to read."""
    with path.open("wb") as file:
        file.truncate(10**12)


REPLACEMENTS: list[Callable[[Path], None]] = [
    replace_by_link,
    replace_by_hard_link,
    replace_by_fifo,
    replace_content,
    replace_by_endless_file,
]


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such files")
@pytest.mark.parametrize("replace", REPLACEMENTS)
def test_a_replaced_file_is_not_opened(tmp_path: Path, replace: Callable[[Path], None]) -> None:
    """A file that is not the stored image counts as removed. Storing the image again fixes it."""
    store = FolderStore(tmp_path / "files", ttl=60, max_bytes=GIGABYTE)
    address = add(store, square_png(1))
    path = path_of(store, address)
    replace(path)
    with pytest.raises(NotFoundError):
        path_of(store, address)
    target = path.resolve()
    os.utime(target, (100, 100))
    assert path_of(store, add(store, square_png(1))).read_bytes() == square_png(1)
    assert target == path or target.stat().st_mtime == 100


@pytest.mark.skipif(os.name != "posix", reason="owners are those of POSIX")
def test_a_file_of_another_user_is_not_opened(tmp_path: Path) -> None:
    """Another user's file counts as removed, since that user could change it while it is sent."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to another user")
    store = FolderStore(tmp_path, ttl=60, max_bytes=1)
    address = add(store, square_png(1))
    path = path_of(store, address)
    os.chown(path, OTHER_USER, -1)
    with pytest.raises(NotFoundError):
        path_of(store, address)
    add(store, square_png(2))
    assert path.exists()


def test_images_of_others_are_not_removed(tmp_path: Path) -> None:
    """A folder that has files with such names but no key is refused, as it is not the store's."""
    path = tmp_path / f"{'a' * 64}.png"
    path.write_bytes(b"a photo, named by its hash")
    os.utime(path, (100, 100))
    for _ in range(2):
        with pytest.raises(OutputError, match=r"names of stored images, but no key.*--store-dir"):
            FolderStore(tmp_path, ttl=60, max_bytes=1)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.skipif(os.name != "posix", reason="making a link needs a permission elsewhere")
def test_a_replaced_folder_loses_no_file(tmp_path: Path) -> None:
    """If somebody puts a link in place of the folder, no file behind it is sent or removed."""
    store = FolderStore(tmp_path / "files", ttl=60, max_bytes=1)
    address = add(store, square_png(1))
    other = tmp_path / "other"
    other.mkdir()
    for name in (address.partition("?")[0], f"{'a' * 64}.png"):
        (other / name).write_bytes(b"secret")
        os.utime(other / name, (100, 100))
    (tmp_path / "files").rename(tmp_path / "moved")
    (tmp_path / "files").symlink_to(other)
    with pytest.raises(NotFoundError):
        path_of(store, address)
    store.tidy()
    with pytest.raises(ServiceUnavailableError):
        add(store, square_png(2))
    assert not store.has_room()
    assert {path.read_bytes() for path in other.iterdir()} == {b"secret"}


def _empty(folder: Path) -> None:
    """Remove all files of a folder."""
    for path in folder.iterdir():
        path.unlink()


def _remove_key(folder: Path) -> None:
    """Remove the key only."""
    (folder / "key").unlink()


def _put_aside(folder: Path) -> None:
    """Put an empty folder in place of a folder."""
    folder.rename(folder.with_name("aside"))
    folder.mkdir()


@pytest.mark.parametrize("clean", [_empty, _remove_key, _put_aside])
def test_a_folder_may_be_cleaned(tmp_path: Path, clean: Callable[[Path], None]) -> None:
    """A server keeps working after its folder is emptied, and another one can start there."""
    store = FolderStore(tmp_path / "files", ttl=60, max_bytes=GIGABYTE)
    add(store, square_png(1))
    clean(tmp_path / "files")
    address = add(store, square_png(2))
    store.tidy()
    for reader in (store, FolderStore(tmp_path / "files", ttl=60, max_bytes=GIGABYTE)):
        assert path_of(reader, address).read_bytes() == square_png(2)
    assert path_of(store, add(store, square_png(3))).exists()


def test_a_folder_with_an_images_name_is_left_alone(tmp_path: Path) -> None:
    """A folder whose name looks like an expired image does not keep others from being stored."""
    folder = tmp_path / f"{'0' * 64}.png"
    folder.mkdir()
    os.utime(folder, (100, 100))
    store = FolderStore(tmp_path, ttl=60, max_bytes=1)
    assert path_of(store, add(store, square_png(1))).exists()
    assert folder.exists()


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such files")
@pytest.mark.parametrize("kind", ["fifo", "link", "folder", "other user"])
def test_a_foreign_key_is_refused(tmp_path: Path, kind: str) -> None:
    """A key that is not a file of this user is not used, and the error says what to do."""
    key = tmp_path / "key"
    if kind == "fifo":
        os.mkfifo(key)
    elif kind == "link":
        (tmp_path / "known").write_bytes(bytes(32))
        key.symlink_to("known")
    elif kind == "folder":
        key.mkdir()
    elif os.geteuid() != 0:
        pytest.skip("only root can give a file to another user")
    else:
        key.write_bytes(bytes(32))
        os.chown(key, OTHER_USER, -1)
    reason = "another user's server" if kind == "other user" else "'key' is not a regular file"
    with pytest.raises(OutputError, match=f"{reason}.*--store-dir") as caught:
        FolderStore(tmp_path, ttl=60, max_bytes=GIGABYTE)
    assert str(tmp_path) not in str(caught.value)


async def test_room_that_no_disk_has_is_refused(tmp_path: Path) -> None:
    """Without enough space, nothing is reserved, and no image is removed."""
    store = FolderStore(tmp_path, ttl=60, max_bytes=GIGABYTE)
    address = add(store, square_png(1))
    with pytest.raises(ServiceUnavailableError) as caught:
        async with store.reserve(10, 10**7):
            pass
    assert caught.value.retry_after
    assert path_of(store, address).exists()
    assert store.has_room()


async def test_room_is_reserved_once(tmp_path: Path) -> None:
    """Concurrent requests do not count on the same space."""
    store = FolderStore(tmp_path, ttl=60, max_bytes=GIGABYTE)
    side = math.isqrt(int(shutil.disk_usage(tmp_path).free * 0.6) // 4)
    async with store.reserve(1, side):
        with pytest.raises(ServiceUnavailableError):
            async with store.reserve(1, side):
                pass
    async with store.reserve(1, side):
        pass


def test_a_caller_that_left_reserves_nothing(tmp_path: Path) -> None:
    """A reservation that is released before it was made takes no space."""
    folder = FolderStore(tmp_path, ttl=60, max_bytes=GIGABYTE).folder
    half = int(shutil.disk_usage(tmp_path).free * 0.6)
    reservation = Reservation(half)
    folder.release(reservation)
    folder.reserve(reservation)
    assert folder.has_room(half)


class AheadPath(type(Path())):  # type: ignore[misc]  # the class of this system's paths
    """Gives files the times of a clock that was two days ahead when they were stored."""

    wrong_names: frozenset[str] = frozenset()

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Return the status of the file."""
        status: os.stat_result = super().stat(follow_symlinks=follow_symlinks)
        if self.name in self.wrong_names:
            *others, _, mtime, ctime = tuple(status)
            status = os.stat_result((*others, mtime, mtime, int(ctime + 2 * DAY)))
        return status


def test_a_clock_that_goes_back_favors_no_old_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images from before the clock was put back make room for newer ones, not the reverse."""
    limit = 2 * len(square_png(100)) + 20
    store = FolderStore(AheadPath(tmp_path), ttl=60, max_bytes=limit)
    true_time = time.time
    monkeypatch.setattr(time, "time", lambda: true_time() + 2 * DAY)
    for side in (98, 99):
        add(store, square_png(side))
    wrong_names = frozenset(path.name for path in tmp_path.glob("*.png"))
    monkeypatch.setattr(AheadPath, "wrong_names", wrong_names)
    monkeypatch.setattr(time, "time", true_time)
    addresses = [add(store, square_png(side)) for side in (100, 101)]
    assert all(path_of(store, address).exists() for address in addresses)


def test_a_clock_that_goes_ahead_only_ends_urls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the clock was put ahead, older URLs have expired, and new ones work."""
    store = FolderStore(tmp_path, ttl=60, max_bytes=GIGABYTE)
    old = add(store, square_png(1))
    true_time = time.time
    monkeypatch.setattr(time, "time", lambda: true_time() + 2 * DAY)
    new = add(store, square_png(2))
    store.tidy()
    with pytest.raises(ExpiredURLError):
        path_of(store, old)
    assert path_of(store, new).exists()
    assert len(list(tmp_path.glob("*.png"))) == 1


USER = """
import os, sys
from langchain_image_variation.exceptions import OutputError
from langchain_image_variation.server import create_app

create_app("instant", store_dir=sys.argv[1])
os.setgroups([])
os.setuid(int(sys.argv[3]))
for name in ("HOME", "XDG_CACHE_HOME"):
    os.environ.pop(name, None)
os.environ.update(argument.split("=") for argument in sys.argv[4:])
try:
    create_app("instant", store_dir=sys.argv[2] or None)
except OutputError as error:
    print(error.param, error)
"""
"""Lets another user, who has no entry in the list of users, start a server."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "setting", "reason"),
    [
        (0o777, "", "has no home folder"),
        (0o777, "HOME=/nonexistent", "'files' cannot be used to store images"),
        (0o777, "store", "another user's server stores its images there"),
        (0o700, "store", "Permission denied"),
    ],
)
def test_another_user_gets_a_clear_error(
    tmp_path: Path, mode: int, setting: str, reason: str
) -> None:
    """A folder of another user, or no usable home folder, is an error that says what to set."""
    require_other_users()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, mode)
        store = folder if setting == "store" else ""
        arguments = [folder, store, str(OTHER_USER), *([setting] if "=" in setting else [])]
        command = [sys.executable, "-c", USER, *arguments]
        done = subprocess.run(
            command,
            env=environment_of_other_users(),
            capture_output=True,
            text=True,
            cwd="/",
            timeout=60,
        )
    assert done.stdout.startswith("store_dir ")
    assert reason in done.stdout
    assert "--store-dir" in done.stdout
    assert folder not in done.stdout
    assert not done.stderr
