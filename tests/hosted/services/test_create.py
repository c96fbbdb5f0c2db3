"""What `create` prints if some of several paid images fail."""

import json
from pathlib import Path

import pytest

from langchain_image_variation.cli import main
from pytest_image_variation.samples import square_png
from tests.hosted.services.fakes import KEY, FakeFal, Reply

REFUSAL = Reply(400, {"detail": "Wrong parameter."})


@pytest.fixture(autouse=True)
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A photo in the working directory, and the key of the service."""
    monkeypatch.setenv("FAL_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    path = Path("photo.png")
    path.write_bytes(square_png())
    return path


def create(fal: FakeFal, *arguments: str) -> int:
    """Run `create` with the service."""
    command = ["create", "photo.png", *arguments, "--engine", "fal", "--base-url", fal.url]
    return main([*command, "--size", "256x256"])


def test_the_paths_of_saved_images_are_printed(
    fal: FakeFal, capsys: pytest.CaptureFixture[str]
) -> None:
    """If one of three images fails, the paths of the others are printed, and the code is 3."""
    fal.faults.append(REFUSAL)
    assert create(fal, "-n", "3", "-o", "out") == 3
    output, errors = capsys.readouterr()
    paths = output.splitlines()
    assert sorted(paths) == sorted(str(path) for path in Path("out").iterdir())
    assert len(paths) == 2
    assert all(Path(path).is_file() for path in paths)
    assert "image-variation: Wrong parameter." in errors
    assert "--seed" in errors


def test_no_path_is_printed_if_all_images_fail(
    fal: FakeFal, capsys: pytest.CaptureFixture[str]
) -> None:
    """If all images fail, nothing is printed to standard output, and the code is an error's."""
    fal.faults += [REFUSAL] * 2
    assert create(fal, "-n", "2") == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("options", [["--json"], ["--json", "-o", "out"], ["--format", "jsonl"]])
def test_the_response_has_the_images_that_succeeded(
    fal: FakeFal, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    """A printed response lists the images that were made, whether or not they are saved, too."""
    fal.faults.append(REFUSAL)
    assert create(fal, "-n", "3", *options) == 3
    output, errors = capsys.readouterr()
    entries = json.loads(output)["data"]
    assert [entry["url"][:22] for entry in entries] == ["data:image/png;base64,"] * 2
    assert "Wrong parameter." in errors
    assert Path("out").exists() == ("-o" in options)


def test_a_failure_names_its_photo(fal: FakeFal, capsys: pytest.CaptureFixture[str]) -> None:
    """Among several photos, the error names the one whose image failed; the others are whole."""
    fal.faults.append(REFUSAL)
    assert create(fal, "photo.png", "-n", "2", "--no-sheet", "-o", "out", "--seed", "1") == 3
    output, errors = capsys.readouterr()
    assert len(output.splitlines()) == 3
    assert "image-variation: photo.png: Wrong parameter." in errors
