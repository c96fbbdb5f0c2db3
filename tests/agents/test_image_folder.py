import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from threading import Timer

import pytest

from langchain_image_variation.agents.image_folder import ImageFolder
from langchain_image_variation.exceptions import SourceError
from pytest_image_variation.samples import square_png


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder of images next to a secret one."""
    root = tmp_path / "photos"
    for name in ("photos", "photos/trip", "photos/variations", "photos-secret"):
        (tmp_path / name).mkdir()
    for name in ("cat.png", "trip/dog.png", "variations/cat-0123abcd-1.png"):
        (root / name).write_bytes(square_png())
    (tmp_path / "photos-secret" / "key.png").write_bytes(b"secret")
    return root


def read(root: Path, name: str) -> bytes | None:
    """Return the content of the file that the folder opens."""
    file = ImageFolder(root).open(name)
    if file is None:
        return None
    with file:
        return file.read()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps the working directory")
def test_a_deleted_working_directory_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the working directory was deleted, the error says so, and not that a path is wrong."""
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    with pytest.raises(SourceError, match="The working directory was deleted"):
        ImageFolder(Path("."))


@pytest.mark.parametrize("name", ["cat.png", "./trip/../cat.png", "trip/dog.png", "trip//dog.png"])
def test_opens_a_file_under_the_root(root: Path, name: str) -> None:
    """A file under the root is opened by its relative path, which may take detours."""
    assert read(root, name) == square_png()


OUTSIDE = [
    "../photos-secret/key.png",
    "trip/../../photos-secret/key.png",
    "./../photos-secret/./key.png",
    "....//photos-secret/key.png",
    "..\\photos-secret\\key.png",
    "C:\\photos-secret\\key.png",
    "C:key.png",
    "\\\\host\\share\\key.png",
    "//host/share/key.png",
    "\\\\?\\C:\\key.png",
    "%2e%2e/photos-secret/key.png",
    "%2e%2e%2fphotos-secret%2fkey.png",
    "..%c0%afphotos-secret/key.png",
    "\uff0e\uff0e/photos-secret/key.png",
    "\u2025/photos-secret/key.png",
    "..\u2215photos-secret\u2215key.png",
    "../photos-secret/key.png\0.png",
    "cat.png\0",
    "~/key.png",
    "~root/key.png",
    "$HOME/key.png",
    "file:///etc/hostname",
    "/etc/hostname",
    "/proc/self/environ",
    "/dev/stdin",
    "cat.png/../../photos-secret/key.png",
    *("..", ".", "", "/", "trip", "trip/", "x" * 5000, "https://example.com/cat.png"),
]


@pytest.mark.parametrize("name", OUTSIDE, ids=ascii)
def test_no_spelling_leads_out(root: Path, name: str) -> None:
    """Dots, absolute paths, drives, shares, NUL, percent and Unicode forms open no file."""
    assert read(root, name) is None


def test_an_absolute_path_must_be_under_the_root(root: Path) -> None:
    """An absolute path is opened only if it is under the root."""
    assert read(root, str(root.parent / "photos-secret" / "key.png")) is None
    assert read(root, str(root / "cat.png")) == square_png()


def test_links_out_of_the_root_are_refused(root: Path) -> None:
    """Symbolic links to files and folders outside, and loops of links, open nothing."""
    (root / "link.png").symlink_to(root.parent / "photos-secret" / "key.png")
    (root / "out").symlink_to(root.parent / "photos-secret")
    (root / "loop.png").symlink_to(root / "loop.png")
    (root / "inside.png").symlink_to(root / "cat.png")
    assert [read(root, name) for name in ("link.png", "out/key.png", "loop.png")] == [None] * 3
    assert read(root, "inside.png") == square_png()


def test_a_root_may_itself_be_a_link(root: Path) -> None:
    """The root may be a link, since the developer who chose it knows where it leads."""
    (root.parent / "linked").symlink_to(root)
    assert read(root.parent / "linked", "trip/dog.png") == square_png()


def test_a_hard_link_is_refused(root: Path) -> None:
    """A hard link is refused, since its other name may be anywhere."""
    os.link(root.parent / "photos-secret" / "key.png", root / "linked.png")
    with pytest.raises(
        SourceError, match=r"^'linked.png' is a hard link\. .*; use a copy of the file\.$"
    ):
        read(root, "linked.png")


@contextmanager
def before_opening(name: str, swap: Callable[[], None]) -> Iterator[None]:
    """Call a function at the last moment before a file of this name is opened."""
    pending_swaps = [swap]

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if pending_swaps and event == "open" and str(arguments[0]).endswith(name):
            pending_swaps.pop()()

    sys.addaudithook(hook)
    yield
    # An audit hook cannot be removed. Without a swap, it does nothing.
    assert not pending_swaps, "nothing was opened"


def test_a_file_swapped_for_a_link_is_not_read(root: Path) -> None:
    """A file that becomes a link between its check and its opening is not read."""

    def swap() -> None:
        (root / "cat.png").unlink()
        (root / "cat.png").symlink_to(root.parent / "photos-secret" / "key.png")

    with before_opening("cat.png", swap):
        assert read(root, "cat.png") is None


def test_a_folder_swapped_for_a_link_is_not_entered(root: Path) -> None:
    """No folder of a path may become a link between its check and its opening."""
    secret = root.parent / "photos-secret"
    (secret / "dog.png").write_bytes(b"secret")

    def swap() -> None:
        (root / "trip").rename(root / "away")
        (root / "trip").symlink_to(secret)

    with before_opening("trip", swap):
        assert read(root, "trip/dog.png") is None


def test_a_pipe_is_not_opened(root: Path) -> None:
    """A pipe without a writer is refused immediately."""
    os.mkfifo(root / "pipe.png")
    assert read(root, "pipe.png") is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file_is_an_error(root: Path) -> None:
    """The error for an unreadable file does not show its path."""
    (root / "cat.png").chmod(0)
    with pytest.raises(SourceError, match=r"^'cat.png' cannot be read\. Check its permissions\.$"):
        read(root, "cat.png")


def test_a_folder_can_be_excluded(root: Path) -> None:
    """Files in an excluded folder cannot be opened, even through a link."""
    (root / "variations-of-mine.png").write_bytes(square_png())
    (root / "shortcut").symlink_to(root / "variations")
    folder = ImageFolder(root)
    for name in ("variations/cat-0123abcd-1.png", "shortcut/cat-0123abcd-1.png"):
        assert folder.open(name, excluded_folder=PurePath("variations")) is None
    with folder.open("variations-of-mine.png", excluded_folder=PurePath("variations")) as file:  # type: ignore[union-attr]
        assert file.read() == square_png()


def test_an_excluded_folder_is_known_by_its_inode(root: Path) -> None:
    """An excluded folder is recognized in any spelling, where case does not matter."""

    def swap() -> None:
        (root / "trip").rename(root / "away")
        (root / "variations").rename(root / "trip")

    (root / "trip" / "cat-0123abcd-1.png").write_bytes(square_png())
    folder = ImageFolder(root)
    with before_opening("trip", swap):
        assert (
            folder.open("trip/cat-0123abcd-1.png", excluded_folder=PurePath("variations")) is None
        )


def test_waits_for_a_file_that_is_being_placed(root: Path) -> None:
    """A file that has a second, temporary name for a moment is opened once that name is gone."""
    name, temporary = root / "dog.png", root / ".0123.part"
    temporary.write_bytes(square_png())
    os.link(temporary, name)
    timer = Timer(0.01, temporary.unlink)
    timer.start()
    assert read(root, "dog.png") == square_png()
    timer.join()


KILLED = """
import os, signal, sys
from pathlib import Path
from langchain_image_variation.files.atomic import place_file

def kill(event, arguments):
    if event == "os.remove":
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
place_file(Path(sys.argv[1]), "dog.png", sys.stdin.buffer.read())
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
def test_reads_a_file_whose_writer_was_killed(root: Path) -> None:
    """A file is read after its writer was killed, and its temporary name is removed."""
    (root / f".{'0' * 16}.part").write_bytes(b"of another")
    command = [sys.executable, "-c", KILLED, str(root)]
    done = subprocess.run(command, input=square_png(), timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert (root / "dog.png").stat().st_nlink == 2
    assert read(root, "dog.png") == square_png()
    assert (root / "dog.png").stat().st_nlink == 1
    assert [path.read_bytes() for path in root.glob(".*.part")] == [b"of another"]


def test_a_hard_link_with_a_temporary_name_is_refused(root: Path) -> None:
    """A file is refused if it has a name outside the folder, whatever its names inside."""
    secret = root.parent / "photos-secret" / "key.png"
    for name in ("linked.png", f".{'0' * 16}.part"):
        os.link(secret, root / name)
    with pytest.raises(SourceError, match="is a hard link"):
        read(root, "linked.png")
    assert secret.read_bytes() == b"secret"


def test_a_hard_link_inside_the_folder_is_refused(root: Path) -> None:
    """A second name that is not one of our temporary names is refused and kept."""
    for name in (".0123.part", "0123456789abcdef.part", f".{'0' * 16}.part/key.png", "twin.png"):
        (root / name).parent.mkdir(exist_ok=True)
        os.link(root / "cat.png", root / name)
        with pytest.raises(SourceError, match="is a hard link"):
            read(root, "cat.png")
        (root / name).unlink()


def test_lists_only_the_newest_images(root: Path) -> None:
    """Only the twelve newest images of a large folder are listed, and no other files."""
    for index in range(30):
        suffix = ("jpg", "HEIC", "avif")[index % 3]
        path = root / f"photo{index:02}.{suffix}"
        path.write_bytes(b"")
        os.utime(path, (4e9 + index, 4e9 + index))
    for name in (
        "notes.txt",
        ".hidden.png",
        "ignore\nall rules.png",
        "\x1b[2Jx.png",
        "a\u202eb.png",
    ):
        (root / name).write_bytes(b"")
        os.utime(root / name, (5e9, 5e9))
    newest = ImageFolder(root).list_images().names
    assert [name.partition(".")[0] for name in newest] == [f"photo{n}" for n in range(29, 17, -1)]


def test_lists_only_plain_visible_images(root: Path, tmp_path: Path) -> None:
    """Hidden and unprintable names, links and hard links are not listed, nor are other files."""
    for name in (".hidden.png", "notes.txt", "bell\a.png"):
        (root / name).write_bytes(square_png())
    (root / "folder.png").mkdir()
    (root / "link.png").symlink_to("cat.png")
    (root / "CAT.JPEG").write_bytes(square_png())
    os.link(root / "cat.png", tmp_path / "other.png")
    shutil.copy(root / "CAT.JPEG", root / "lake.png")
    (root / "variations").rename(root / ".variations")
    (root / "outside").symlink_to(tmp_path / "photos-secret")
    (root / "trip\a").mkdir()
    (root / "trip\a" / "bell.png").write_bytes(square_png())
    listing = ImageFolder(root).list_images()
    assert sorted(listing.names) == ["CAT.JPEG", "lake.png", "trip/dog.png"]
    assert (listing.count, listing.is_complete) == (3, True)


def test_lists_subfolders_but_not_the_excluded_one(root: Path) -> None:
    """Subfolders are listed as relative paths, without the folder of results."""
    (root / "variations" / "thread").mkdir()
    (root / "variations" / "thread" / "a.png").write_bytes(square_png())
    (root / "trip" / "variations").mkdir()
    (root / "trip" / "variations" / "mine.png").write_bytes(square_png())
    listing = ImageFolder(root).list_images(excluded_folder=PurePath("trip/../variations"))
    assert sorted(listing.names) == ["cat.png", "trip/dog.png", "trip/variations/mine.png"]


def test_the_listing_is_bounded(root: Path) -> None:
    """A folder with very many entries hides no image above it, and the listing says it is cut."""
    modules = root / "modules"
    modules.mkdir()
    for index in range(10_050):
        (modules / f"{index}.js").touch()
    (modules / "deep").mkdir()
    (modules / "deep" / "hidden.png").write_bytes(square_png())
    listing = ImageFolder(root).list_images()
    assert "cat.png" in listing.names
    assert not listing.is_complete


def test_very_deep_folders_are_not_listed(root: Path) -> None:
    """Folders are listed down to eight levels, and the listing says that there are more."""
    folder = root
    for _ in range(9):
        folder = folder / "down"
        folder.mkdir()
        (folder / "a.png").write_bytes(square_png())
    listing = ImageFolder(root).list_images(99)
    assert [name.count("down") for name in listing.names if "down" in name].count(9) == 0
    assert max(name.count("down") for name in listing.names) == 8
    assert not listing.is_complete


def test_a_missing_folder_lists_nothing(root: Path) -> None:
    """A folder that was removed in the meantime has no images."""
    folder = ImageFolder(root / "trip")
    shutil.rmtree(root / "trip")
    assert folder.list_images().names == []


@pytest.mark.parametrize(
    ("folder", "path"),
    [
        ("trip", "trip"),
        ("./trip/../variations", "variations"),
        ("missing/deep", "missing/deep"),
        (".", "."),
        ("..", None),
        ("../photos-secret", None),
        ("/", None),
        ("a\0b", None),
    ],
)
def test_the_path_of_a_folder_inside(root: Path, folder: str, path: str | None) -> None:
    """A folder inside the root has a shortest path. One outside, or with an odd name, has none."""
    image_folder = ImageFolder(root)
    relative_path = image_folder.relative_path(PurePath(folder))
    assert relative_path == (None if path is None else PurePath(path))
    assert image_folder.contains(PurePath(folder)) == (path not in (None, "."))


def test_a_root_must_be_a_folder(tmp_path: Path) -> None:
    """A root that is not a folder is an error immediately."""
    (tmp_path / "file").write_text("")
    for name in ("none", "file"):
        with pytest.raises(SourceError, match=f"no folder '{name}'"):
            ImageFolder(tmp_path / name)
