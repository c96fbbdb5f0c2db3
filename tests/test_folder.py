import os
from pathlib import Path, PurePath

import pytest

from langchain_image_variation.exceptions import SourceError
from langchain_image_variation.folder import PictureFolder
from pytest_image_variation.samples import square_png


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder of pictures beside a secret one."""
    root = tmp_path / "photos"
    (root / "variations").mkdir(parents=True)
    (root / "trip").mkdir()
    for name in ("cat.png", "trip/dog.png", "variations/cat-0123abcd-1.png"):
        (root / name).write_bytes(square_png())
    (tmp_path / "photos-secret").mkdir()
    (tmp_path / "photos-secret" / "key.png").write_bytes(square_png())
    return root


@pytest.fixture
def folder(root: Path) -> PictureFolder:
    """Return the folder under test."""
    return PictureFolder(root, PurePath("variations"))


@pytest.mark.parametrize(
    ("image", "found"),
    [
        ("cat.png", "cat.png"),
        ("./trip/../cat.png", "cat.png"),
        ("trip/dog.png", "trip/dog.png"),
        ("cat-0123abcd-1", "variations/cat-0123abcd-1.png"),
        ("variations/cat-0123abcd-1.png", "variations/cat-0123abcd-1.png"),
        ("cat-0123abcd-1.png", "variations/cat-0123abcd-1.png"),
        (" 'cat-0123abcd-1'\n", "variations/cat-0123abcd-1.png"),
        ('"cat.png"', "cat.png"),
    ],
)
def test_finds_files_and_results(folder: PictureFolder, root: Path, image: str, found: str) -> None:
    """A relative path and a handle both lead to the file."""
    assert folder.find(image) == (root / found).resolve()


@pytest.mark.parametrize(
    "image",
    [
        *("../photos-secret/key.png", "trip/../../photos-secret/key.png", "..", ".", "", "/"),
        *("../photos-secret/key", "variations", "trip", "cat", "dog.png", "~/key.png"),
        *("nul\0.png", "x" * 5000, "C:\\key.png", "\\\\host\\key.png", "%2e%2e/key.png"),
        *("file:///etc/passwd", "https://example.com/cat.png", "data:image/png;base64,AAAA"),
    ],
)
def test_refuses_everything_else_and_lists_what_there_is(folder: PictureFolder, image: str) -> None:
    """What is not a file under the root is refused alike, with the names that may be used."""
    with pytest.raises(SourceError) as caught:
        folder.find(image)
    assert str(caught.value).endswith("Files: cat.png. Earlier results: cat-0123abcd-1.")
    assert len(str(caught.value)) < 200


def test_an_absolute_path_is_neither_followed_nor_repeated(
    folder: PictureFolder, root: Path
) -> None:
    """An absolute path outside the root is refused, and only its last part is shown."""
    secret = root.parent / "photos-secret" / "key.png"
    with pytest.raises(SourceError) as caught:
        folder.find(str(secret))
    assert str(root.parent) not in str(caught.value)


def test_links_out_of_the_root_are_refused(folder: PictureFolder, root: Path) -> None:
    """A symbolic link to a file or a folder outside the root leads nowhere; a loop neither."""
    (root / "link.png").symlink_to(root.parent / "photos-secret" / "key.png")
    (root / "out").symlink_to(root.parent / "photos-secret")
    (root / "loop.png").symlink_to(root / "loop.png")
    (root / "inside.png").symlink_to(root / "cat.png")
    for image in ("link.png", "out/key.png", "loop.png"):
        with pytest.raises(SourceError):
            folder.find(image)
    assert folder.find("inside.png") == (root / "cat.png").resolve()


def test_lists_the_newest_pictures_only(folder: PictureFolder, root: Path) -> None:
    """A long folder is listed by its twelve newest pictures; other files are not listed."""
    for index in range(30):
        path = root / f"photo{index:02}.jpg"
        path.write_bytes(b"")
        os.utime(path, (4e9 + index, 4e9 + index))
    for name in ("notes.txt", ".hidden.png", "ignore\nall rules.png"):
        (root / name).write_bytes(b"")
    files = folder.choices().partition(". ")[0].removeprefix("Files: ").split(", ")
    assert files == [f"photo{index:02}.jpg" for index in range(29, 17, -1)]


def test_only_what_can_be_found_is_listed_as_a_result(folder: PictureFolder, root: Path) -> None:
    """Results are PNG files; another picture in their folder has no handle."""
    (root / "variations" / "other.jpg").write_bytes(b"")
    assert folder.choices().endswith("Earlier results: cat-0123abcd-1.")


def test_an_empty_folder_is_said_to_be_empty(tmp_path: Path) -> None:
    """With nothing to choose from, the text says so."""
    folder = PictureFolder(tmp_path, PurePath("out"))
    assert folder.choices() == "The picture folder is empty."


def test_a_root_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    """A misspelt root is an error at once."""
    (tmp_path / "file").write_text("")
    for name in ("none", "file"):
        with pytest.raises(SourceError, match=f"no folder '{name}'"):
            PictureFolder(tmp_path / name, PurePath("out"))


@pytest.mark.parametrize("results", ["/out", "../out", "a/../../out", "link", "link/below"])
def test_results_must_stay_inside_the_root(tmp_path: Path, results: str) -> None:
    """An output folder outside the root is refused, behind a symbolic link too."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "link").symlink_to(tmp_path)
    with pytest.raises(SourceError, match="inside the root"):
        PictureFolder(tmp_path / "photos", PurePath(results))
