import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from langchain_image_variation.exceptions import NotFoundError, OutputError
from langchain_image_variation.server.store import PictureStore
from pytest_image_variation.samples import square_png

GIGABYTE = 1024**3


def found(store: PictureStore, address: str) -> Path:
    """Return the file of an address."""
    name, _, query = address.partition("?se=")
    expires, _, signature = query.partition("&sig=")
    file = store.find(name, expires, signature)[0]
    file.close()
    return Path(file.name)


def test_what_the_store_did_not_write_is_left_alone(tmp_path: Path) -> None:
    """However old it is, and whatever its name."""
    theirs = [tmp_path / "holiday.png", tmp_path / "film.part", tmp_path / f"{'a' * 63}.png"]
    for path in theirs:
        path.write_bytes(bytes(5000))
        os.utime(path, (0, 0))
    for _ in range(2):
        store = PictureStore(tmp_path, ttl=60, max_bytes=10)
        store.add(square_png(8))
    assert all(path.exists() for path in theirs)


def test_what_has_expired_is_removed(tmp_path: Path) -> None:
    """When a store begins; what has not, stays, whatever that store's own time is."""
    first = PictureStore(tmp_path, ttl=3600, max_bytes=GIGABYTE)
    kept, old = first.add(square_png(1)), first.add(square_png(2))
    expired = found(first, old)
    os.utime(expired, (time.time() - 1, time.time() - 1))
    left = tmp_path / f".{'0' * 16}.part"
    left.write_bytes(b"x")
    os.utime(left, (time.time() - 900, time.time() - 900))
    second = PictureStore(tmp_path, ttl=1, max_bytes=GIGABYTE)
    second.add(square_png(3))
    assert found(second, kept).exists()
    assert not expired.exists()
    assert not left.exists()


class Watched(type(Path())):  # type: ignore[misc]  # the class of this system's paths
    """A path that lets `tidy` in while `add` looks at a file, and `add` while `tidy` removes it."""

    adder: threading.Thread | None = None
    looking, removing, added = threading.Event(), threading.Event(), threading.Event()

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Return what the system says of the file."""
        status: os.stat_result = super().stat(follow_symlinks=follow_symlinks)
        if threading.current_thread() is Watched.adder:
            Watched.looking.set()
            Watched.removing.wait(0.5)
        return status

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file."""
        if Watched.adder not in (None, threading.current_thread()):
            Watched.removing.set()
            Watched.added.wait(10)
        super().unlink(missing_ok)


def test_a_picture_made_again_is_not_removed_as_expired(tmp_path: Path) -> None:
    """By another thread that saw it before it was made again."""
    store = PictureStore(Watched(tmp_path), ttl=3600, max_bytes=GIGABYTE)
    expired = found(store, store.add(square_png(1)))
    os.utime(expired, (100, 100))

    def tidy() -> None:
        assert Watched.looking.wait(60)
        store.tidy()

    with ThreadPoolExecutor(1) as pool:
        tidied = pool.submit(tidy)
        Watched.adder = threading.current_thread()
        try:
            address = store.add(square_png(1))
        finally:
            Watched.adder = None
            Watched.looking.set()
            Watched.added.set()
        tidied.result()
    assert found(store, address).exists()


def test_a_picture_made_again_is_kept_longer_never_shorter(tmp_path: Path) -> None:
    """Each of its addresses works for its time."""
    long = PictureStore(tmp_path, ttl=3600, max_bytes=GIGABYTE)
    address = long.add(square_png(1))
    until = found(long, address).stat().st_mtime
    PictureStore(tmp_path, ttl=1, max_bytes=GIGABYTE).add(square_png(1))
    assert found(long, address).stat().st_mtime == until
    PictureStore(tmp_path, ttl=7200, max_bytes=GIGABYTE).add(square_png(1))
    assert found(long, address).stat().st_mtime > until + 3000


@pytest.mark.skipif(os.name != "posix", reason="links need leave elsewhere")
def test_another_process_removes_files_meanwhile(tmp_path: Path) -> None:
    """A file that is listed and gone when it is looked at is no failure."""
    gone = tmp_path / f"{'0' * 64}.png"
    gone.symlink_to(tmp_path / "nowhere")
    store = PictureStore(tmp_path, ttl=3600, max_bytes=1)
    assert gone.is_symlink()
    assert found(store, store.add(square_png(1))).exists()


def test_the_folder_is_for_its_user_alone(tmp_path: Path) -> None:
    """So are the key and the pictures; a broken key is not used."""
    folder = tmp_path / "files"
    store = PictureStore(folder, ttl=60, max_bytes=GIGABYTE)
    picture = found(store, store.add(square_png(1)))
    if os.name == "posix":
        assert folder.stat().st_mode & 0o077 == 0
        assert (folder / "key").stat().st_mode & 0o077 == 0
        assert picture.stat().st_mode & 0o077 == 0
    (folder / "key").write_bytes(b"short")
    with pytest.raises(OutputError):
        PictureStore(folder, ttl=60, max_bytes=GIGABYTE)


def test_a_picture_that_made_room(tmp_path: Path) -> None:
    """Is not found, and that is said."""
    store = PictureStore(tmp_path, ttl=60, max_bytes=1)
    address = store.add(square_png(1))
    store.add(square_png(2))
    with pytest.raises(NotFoundError, match="made room"):
        found(store, address)


def test_a_picture_that_makes_room_while_it_is_served(tmp_path: Path) -> None:
    """Is served to its end."""
    store = PictureStore(tmp_path, ttl=60, max_bytes=1)
    name, _, query = store.add(square_png(1)).partition("?se=")
    file, length, _ = store.find(name, *query.split("&sig="))
    with file:
        store.add(square_png(2))
        assert not Path(file.name).exists()
        assert (len(file.read()), length) == (len(square_png(1)),) * 2
