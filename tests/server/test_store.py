import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from langchain_image_variation.exceptions import NotFoundError, OutputError
from langchain_image_variation.server.store import ImageStore
from pytest_image_variation.samples import square_png

GIGABYTE = 1024**3


def path_of(store: ImageStore, address: str) -> Path:
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
        store = ImageStore(tmp_path, ttl=60, max_bytes=10)
        store.add(square_png(8))
    assert all(path.exists() for path in other_paths)


def test_expired_files_are_removed(tmp_path: Path) -> None:
    """A new store removes them, and keeps the others whatever its own settings are."""
    first = ImageStore(tmp_path, ttl=3600, max_bytes=GIGABYTE)
    current, old = first.add(square_png(1)), first.add(square_png(2))
    old_path = path_of(first, old)
    os.utime(old_path, (time.time() - 1, time.time() - 1))
    unfinished_file = tmp_path / f".{'0' * 16}.part"
    unfinished_file.write_bytes(b"x")
    os.utime(unfinished_file, (time.time() - 900, time.time() - 900))
    second = ImageStore(tmp_path, ttl=1, max_bytes=GIGABYTE)
    second.add(square_png(3))
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
    store = ImageStore(WatchedPath(tmp_path), ttl=3600, max_bytes=GIGABYTE)
    old_path = path_of(store, store.add(square_png(1)))
    os.utime(old_path, (100, 100))

    def tidy() -> None:
        assert WatchedPath.stat_event.wait(60)
        store.tidy()

    with ThreadPoolExecutor(1) as pool:
        tidying_task = pool.submit(tidy)
        WatchedPath.adding_thread = threading.current_thread()
        try:
            address = store.add(square_png(1))
        finally:
            WatchedPath.adding_thread = None
            WatchedPath.stat_event.set()
            WatchedPath.add_event.set()
        tidying_task.result()
    assert path_of(store, address).exists()


def test_storing_again_never_shortens(tmp_path: Path) -> None:
    """Each URL of an image works for its whole time, even if the image is stored again."""
    long = ImageStore(tmp_path, ttl=3600, max_bytes=GIGABYTE)
    address = long.add(square_png(1))
    expiry = path_of(long, address).stat().st_mtime
    ImageStore(tmp_path, ttl=1, max_bytes=GIGABYTE).add(square_png(1))
    assert path_of(long, address).stat().st_mtime == expiry
    ImageStore(tmp_path, ttl=7200, max_bytes=GIGABYTE).add(square_png(1))
    assert path_of(long, address).stat().st_mtime > expiry + 3000


@pytest.mark.skipif(os.name != "posix", reason="making a link needs a permission elsewhere")
def test_files_may_vanish(tmp_path: Path) -> None:
    """A file that another process removes after it was listed causes no error."""
    dangling_link = tmp_path / f"{'0' * 64}.png"
    dangling_link.symlink_to(tmp_path / "nowhere")
    store = ImageStore(tmp_path, ttl=3600, max_bytes=1)
    assert dangling_link.is_symlink()
    assert path_of(store, store.add(square_png(1))).exists()


def test_the_folder_is_private(tmp_path: Path) -> None:
    """The folder, the key and the images are private, and a corrupt key is not used."""
    folder = tmp_path / "files"
    store = ImageStore(folder, ttl=60, max_bytes=GIGABYTE)
    image = path_of(store, store.add(square_png(1)))
    if os.name == "posix":
        assert folder.stat().st_mode & 0o077 == 0
        assert (folder / "key").stat().st_mode & 0o077 == 0
        assert image.stat().st_mode & 0o077 == 0
    (folder / "key").write_bytes(b"short")
    with pytest.raises(OutputError):
        ImageStore(folder, ttl=60, max_bytes=GIGABYTE)


def test_an_evicted_image_is_not_found(tmp_path: Path) -> None:
    """The error for an evicted image says why it is not found."""
    store = ImageStore(tmp_path, ttl=60, max_bytes=1)
    address = store.add(square_png(1))
    store.add(square_png(2))
    with pytest.raises(NotFoundError, match="make room"):
        path_of(store, address)


def test_an_open_image_survives_eviction(tmp_path: Path) -> None:
    """An image that is open when it is evicted can be read to its end."""
    store = ImageStore(tmp_path, ttl=60, max_bytes=1)
    name, _, query = store.add(square_png(1)).partition("?se=")
    file, length, _ = store.open(name, *query.split("&sig="))
    with file:
        store.add(square_png(2))
        assert not Path(file.name).exists()
        assert (len(file.read()), length) == (len(square_png(1)),) * 2


@pytest.mark.skipif(os.name != "posix", reason="making a link needs a permission elsewhere")
def test_links_are_not_followed(tmp_path: Path) -> None:
    """A link in place of an image counts as an image that was removed."""
    store = ImageStore(tmp_path / "files", ttl=60, max_bytes=GIGABYTE)
    address = store.add(square_png(1))
    image, secret = path_of(store, address), tmp_path / "secret"
    secret.write_bytes(image.read_bytes())
    image.unlink()
    image.symlink_to(secret)
    with pytest.raises(NotFoundError):
        path_of(store, address)
