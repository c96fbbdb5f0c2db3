"""Listing the files of a folder."""

import os
from pathlib import Path

import pytest

from langchain_image_variation.files.listing import list_files


def test_regular_files_are_listed(tmp_path: Path) -> None:
    """Each regular file is listed with its status. A subfolder is not, and neither is a link."""
    (tmp_path / "cat.png").write_bytes(b"cat")
    (tmp_path / "folder").mkdir()
    if os.name == "posix":
        (tmp_path / "link.png").symlink_to("cat.png")
    ((name, status),) = list_files(tmp_path)
    assert (name, status.st_size) == ("cat.png", 3)


def test_only_names_that_match_are_listed(tmp_path: Path) -> None:
    """A file whose name does not match is left out."""
    for name in ("cat.png", "cat.txt"):
        (tmp_path / name).touch()
    assert [name for name, _ in list_files(tmp_path, lambda name: name.endswith(".png"))] == [
        "cat.png"
    ]


def test_a_file_that_disappears_does_not_end_the_list(tmp_path: Path) -> None:
    """A file that another process removes meanwhile is left out. All others are listed."""
    names = {f"{number}.png" for number in range(20)}
    for name in names:
        (tmp_path / name).touch()
    files = list_files(tmp_path)
    first, _ = next(files)
    # The system has read all names by now, but not their status.
    removed = sorted(names - {first})[::2]
    for name in removed:
        (tmp_path / name).unlink()
    assert {first} | {name for name, _ in files} == names - set(removed)


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    """A folder that does not exist raises `FileNotFoundError`."""
    with pytest.raises(FileNotFoundError):
        list(list_files(tmp_path / "missing"))
