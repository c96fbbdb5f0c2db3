"""The names of variations: a stem from the source, and a hash that keeps them apart."""

import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_image_variation.batch.output_names import image_id, image_index, output_path
from langchain_image_variation.output.names import RESULT_NAME
from pytest_image_variation.samples import square_png
from tests.batch.runs import output_images, read_manifest, run_hosted


def test_names_begin_with_the_source(photos: Path) -> None:
    """Files are named after their source, in the manifest and the gallery too."""
    (photos / "Old Town (1).png").write_bytes(square_png(90))
    assert run_hosted("photos/Old Town (1).png", "--n", "2", "--gallery") == 0
    paths = [row["output_path"] for row in read_manifest()]
    pattern = r"images/([0-9a-f]{2})/Old-Town-1-\1[0-9a-f]{22}-"
    assert re.fullmatch(pattern + r"1\.png", paths[0])
    assert paths[1] == paths[0].replace("-1.png", "-2.png")
    assert output_images().keys() == {*paths}
    page = Path("out/gallery/index.html").read_text()
    assert all(f'href="../{path}"' in page for path in paths)


def test_equal_names_do_not_clash(photos: Path) -> None:
    """Sources with the same name in two folders get separate files, unless they are equal."""
    for folder, side in (("a", 91), ("b", 92), ("c", 91)):
        (photos / folder).mkdir()
        (photos / folder / "cat.png").write_bytes(square_png(side))
    assert run_hosted("photos/*/cat.png") == 0
    first, second, third = [row["output_path"] for row in read_manifest()]
    assert first == third != second
    assert all(Path(path).name.startswith("cat-") for path in (first, second))


def test_names_do_not_depend_on_the_run(photos: Path) -> None:
    """A run in another place, from other folders and in another order, gives the same names."""
    assert run_hosted("photos", "--n", "2") == 0
    shutil.copytree(photos, "elsewhere/deep")
    order = [f"elsewhere/deep/{index}.png" for index in (4, 2, 0, 1, 3)]
    assert run_hosted(*order, "--n", "2", out="other") == 0
    assert output_images("other") == output_images()


def test_result_as_a_source_keeps_the_stem() -> None:
    """A variation of a variation is named after the first source, and names do not grow."""
    assert run_hosted("photos/0.png") == 0
    assert run_hosted("out/manifest.parquet", "--column", "output_path", out="further") == 0
    (path,) = output_images("further")
    assert re.fullmatch(r"0-[0-9a-f]{24}-1\.png", Path(path).name)


@given(st.text(max_size=120), st.integers(1, 10))
def test_any_name_gives_a_safe_path(name: str, index: int) -> None:
    """Any source name gives a short, portable file name, from which the index can be read."""
    path = output_path(name, "ab" * 32, ["local", None], index)
    _, folder, file = path.split("/")
    assert RESULT_NAME.fullmatch(file)
    assert len(file.encode()) <= 143
    assert image_index(path) == index
    assert image_id(path) == image_id(output_path("other", "ab" * 32, ["local", None], index))
    assert image_id(path).startswith(folder)


@pytest.mark.parametrize("settings", [["local", 1], ["local", None], ["other", None]])
def test_settings_and_content_are_in_the_hash(settings: list[object]) -> None:
    """Different settings or content give a different name."""
    first = output_path("a", "ab" * 32, settings, 1)
    assert first != output_path("a", "ab" * 32, [*settings, None], 1)
    assert first != output_path("a", "cd" * 32, settings, 1)
