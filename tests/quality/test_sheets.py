"""Tests of the sheets and forms with which variations are judged."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quality.judged import Judgement
from quality.photos import Bytes, source
from quality.sheets import read_form, write_sheets

ROOT = Path(__file__).parents[2]


def test_nine_pairs_make_two_sheets_and_a_form(tmp_path: Path) -> None:
    """Pairs are shown at full size, in order, and the form has a number for each."""
    pairs = [(_plain(shade), _plain(255 - shade)) for shade in range(9)]
    write_sheets(tmp_path, pairs)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["form.csv", "instructions.txt", "sheet-01.png", "sheet-02.png"]
    with Image.open(tmp_path / "sheet-02.png") as sheet:
        assert (sheet.getpixel((128, 150)), sheet.getpixel((386, 150))) == ((8,) * 3, (247,) * 3)
    assert [row["number"] for row in _rows(tmp_path)] == [str(number) for number in range(1, 10)]


def test_a_form_is_read_in_the_order_of_the_sheets(tmp_path: Path) -> None:
    """A form may have its rows in any order."""
    _fill_in(tmp_path, ["2,0,1,bx", "1,1,0,"])
    spoiled = Judgement(intact=False, another=True, faults=frozenset("bx"))
    assert read_form(tmp_path, 2) == [Judgement(True, False, frozenset()), spoiled]


@pytest.mark.parametrize("row", ["2,,1,", "2,1,yes,", "2,0,1,q", "2,0,1,", "2,1,1,b"])
def test_a_bad_row_is_refused_with_its_number(tmp_path: Path, row: str) -> None:
    """Empty answers, unknown letters, and faults that contradict the answer are refused."""
    _fill_in(tmp_path, ["1,1,0,", row])
    with pytest.raises(ValueError, match="Number 2 is not filled in properly"):
        read_form(tmp_path, 2)


def test_a_missing_row_is_refused(tmp_path: Path) -> None:
    """A form must have every number."""
    _fill_in(tmp_path, ["1,1,0,"])
    with pytest.raises(ValueError, match="the numbers 1 to 2, each once"):
        read_form(tmp_path, 2)


@pytest.mark.slow
def test_forms_become_shares_and_bars(tmp_path: Path) -> None:
    """Two judges who accept everything miss no bar, and one who calls most spoiled misses some."""
    photo, folder = tmp_path / "house.png", tmp_path / "judged"
    Image.fromarray(source("house (drawn)")).save(photo)
    _run("sheets", folder, photo, "--judge", "ann", "--judge", "bob")
    for judge in ("ann", "bob"):
        _fill_in(folder / f"judge-{judge}", ["1,1,1,", "2,1,1,", "3,1,1,"])
    good = _run("results", folder)
    assert "| 0.5 | most | 2 | 100% | 100% | 100% | 0% |" in good.stdout
    assert (good.returncode, good.stdout[-15:]) == (0, "0 bars missed.\n")
    for judge in ("ann", "bob"):
        _fill_in(folder / f"judge-{judge}", ["1,0,1,x", "2,0,1,x", "3,0,1,x"])
    bad = _run("results", folder)
    assert bad.returncode == 1
    assert "- 0.5: edge cuts is 100%, not at most 5%" in bad.stdout
    assert "- 0.8: intact is 0%, not at least 75%" in bad.stdout
    assert "- house at 0.8, seed 0: x; another picture" in bad.stdout


def _plain(shade: int) -> Bytes:
    return np.full((256, 256, 3), shade, dtype=np.uint8)


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "form.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _fill_in(folder: Path, rows: list[str]) -> None:
    (folder / "form.csv").write_text("\n".join(["number,intact,another,faults", *rows]), "utf-8")


def _run(*arguments: object) -> subprocess.CompletedProcess[str]:
    script = ROOT / "benchmarks" / "judge_engine.py"
    command = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)
