import os
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
    """Return a folder of pictures beside a secret one."""
    root = tmp_path / "photos"
    for name in ("photos", "photos/trip", "photos/variations", "photos-secret"):
        (tmp_path / name).mkdir()
    for name in ("cat.png", "trip/dog.png", "variations/cat-0123abcd-1.png"):
        (root / name).write_bytes(square_png())
    (tmp_path / "photos-secret" / "key.png").write_bytes(b"secret")
    return root


def read(root: Path, name: str) -> bytes | None:
    """Return what the folder gives under a name."""
    file = ImageFolder(root).open(name)
    if file is None:
        return None
    with file:
        return file.read()


@pytest.mark.parametrize("name", ["cat.png", "./trip/../cat.png", "trip/dog.png", "trip//dog.png"])
def test_a_file_under_the_root_is_opened(root: Path, name: str) -> None:
    """By its path relative to the root, however roundabout."""
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
    """Dots, absolute paths, drives, shares, NUL, percent and Unicode forms: no file, no error."""
    assert read(root, name) is None


def test_an_absolute_path_leads_nowhere_but_under_the_root(root: Path) -> None:
    """The whole path of a secret is refused; that of a picture under the root is no secret."""
    assert read(root, str(root.parent / "photos-secret" / "key.png")) is None
    assert read(root, str(root / "cat.png")) == square_png()


def test_links_out_of_the_root_are_refused(root: Path) -> None:
    """A symbolic link to a file or a folder outside leads nowhere, and neither does a loop."""
    (root / "link.png").symlink_to(root.parent / "photos-secret" / "key.png")
    (root / "out").symlink_to(root.parent / "photos-secret")
    (root / "loop.png").symlink_to(root / "loop.png")
    (root / "inside.png").symlink_to(root / "cat.png")
    assert [read(root, name) for name in ("link.png", "out/key.png", "loop.png")] == [None] * 3
    assert read(root, "inside.png") == square_png()


def test_a_root_may_itself_be_a_link(root: Path) -> None:
    """The developer who named it knows where it leads."""
    (root.parent / "linked").symlink_to(root)
    assert read(root.parent / "linked", "trip/dog.png") == square_png()


def test_a_hard_link_is_refused(root: Path) -> None:
    """It cannot be told where its other name is."""
    os.link(root.parent / "photos-secret" / "key.png", root / "linked.png")
    with pytest.raises(
        SourceError, match=r"^'linked.png' is a hard link\. .*; use a copy of the file\.$"
    ):
        read(root, "linked.png")


@contextmanager
def before_opening(name: str, swap: Callable[[], None]) -> Iterator[None]:
    """Swap something at the last moment before a file of that name is opened."""
    waiting = [swap]

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if waiting and event == "open" and str(arguments[0]).endswith(name):
            waiting.pop()()

    sys.addaudithook(hook)
    yield
    # A hook cannot be taken away, only left without anything to do.
    assert not waiting, "nothing was opened"


def test_a_file_swapped_for_a_link_between_check_and_open(root: Path) -> None:
    """What was a file when it was looked at, and is a link when it is opened, is not read."""

    def swap() -> None:
        (root / "cat.png").unlink()
        (root / "cat.png").symlink_to(root.parent / "photos-secret" / "key.png")

    with before_opening("cat.png", swap):
        assert read(root, "cat.png") is None


def test_a_folder_swapped_for_a_link_between_check_and_open(root: Path) -> None:
    """No step of the path may have become a link, not only the last."""
    secret = root.parent / "photos-secret"
    (secret / "dog.png").write_bytes(b"secret")

    def swap() -> None:
        (root / "trip").rename(root / "away")
        (root / "trip").symlink_to(secret)

    with before_opening("trip", swap):
        assert read(root, "trip/dog.png") is None


def test_what_is_no_file_is_not_opened(root: Path) -> None:
    """A pipe that nobody writes to is refused at once."""
    os.mkfifo(root / "pipe.png")
    assert read(root, "pipe.png") is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read(root: Path) -> None:
    """It is said so, without its path."""
    (root / "cat.png").chmod(0)
    with pytest.raises(SourceError, match=r"^'cat.png' cannot be read\. Check its permissions\.$"):
        read(root, "cat.png")


def test_a_folder_can_be_left_out(root: Path) -> None:
    """What is below it counts as outside, behind a link too; a name that begins alike does not."""
    (root / "variations-of-mine.png").write_bytes(square_png())
    (root / "shortcut").symlink_to(root / "variations")
    folder = ImageFolder(root)
    for name in ("variations/cat-0123abcd-1.png", "shortcut/cat-0123abcd-1.png"):
        assert folder.open(name, excluded_folder=PurePath("variations")) is None
    with folder.open("variations-of-mine.png", excluded_folder=PurePath("variations")) as file:  # type: ignore[union-attr]
        assert file.read() == square_png()


def test_a_folder_that_is_left_out_is_known_by_what_it_is(root: Path) -> None:
    """Not by how it is spelt, which may differ where upper and lower case are one."""

    def swap() -> None:
        (root / "trip").rename(root / "away")
        (root / "variations").rename(root / "trip")

    (root / "trip" / "cat-0123abcd-1.png").write_bytes(square_png())
    folder = ImageFolder(root)
    with before_opening("trip", swap):
        assert (
            folder.open("trip/cat-0123abcd-1.png", excluded_folder=PurePath("variations")) is None
        )


def test_a_file_that_is_being_put_in_place_is_waited_for(root: Path) -> None:
    """For a moment it has a temporary name beside its own, and is no hard link of anyone's."""
    name, temporary = root / "dog.png", root / ".0123.part"
    temporary.write_bytes(square_png())
    os.link(temporary, name)
    taken = Timer(0.01, temporary.unlink)
    taken.start()
    assert read(root, "dog.png") == square_png()
    taken.join()


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
def test_a_file_whose_writer_was_killed_is_read(root: Path) -> None:
    """Between its two names: the temporary one goes, others like it stay, and so does the file."""
    (root / f".{'0' * 16}.part").write_bytes(b"of another")
    command = [sys.executable, "-c", KILLED, str(root)]
    done = subprocess.run(command, input=square_png(), timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert (root / "dog.png").stat().st_nlink == 2
    assert read(root, "dog.png") == square_png()
    assert (root / "dog.png").stat().st_nlink == 1
    assert [path.read_bytes() for path in root.glob(".*.part")] == [b"of another"]


def test_a_hard_link_with_a_temporary_name_is_refused(root: Path) -> None:
    """Whatever names a file has in the folder, it has one elsewhere too."""
    secret = root.parent / "photos-secret" / "key.png"
    for name in ("linked.png", f".{'0' * 16}.part"):
        os.link(secret, root / name)
    with pytest.raises(SourceError, match="is a hard link"):
        read(root, "linked.png")
    assert secret.read_bytes() == b"secret"


def test_a_hard_link_inside_the_folder_is_refused(root: Path) -> None:
    """A name that is no temporary one of ours may be somebody's, and stays."""
    for name in (".0123.part", "0123456789abcdef.part", f".{'0' * 16}.part/key.png", "twin.png"):
        (root / name).parent.mkdir(exist_ok=True)
        os.link(root / "cat.png", root / name)
        with pytest.raises(SourceError, match="is a hard link"):
            read(root, "cat.png")
        (root / name).unlink()


def test_lists_the_newest_pictures_only(root: Path) -> None:
    """A long folder is listed by its twelve newest pictures; other files are not listed."""
    for index in range(30):
        path = root / f"photo{index:02}.jpg"
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
    expected = [f"photo{index:02}.jpg" for index in range(29, 17, -1)]
    assert ImageFolder(root).newest_names() == expected


def test_a_root_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    """A misspelt root is an error at once."""
    (tmp_path / "file").write_text("")
    for name in ("none", "file"):
        with pytest.raises(SourceError, match=f"no folder '{name}'"):
            ImageFolder(tmp_path / name)
