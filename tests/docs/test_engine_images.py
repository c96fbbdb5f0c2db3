"""Tests of the images on the page of the local engine, and of the README's sheet."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
PAGE = (ROOT / "docs" / "local-engine.md").read_text("utf-8")

TOLERANCE = 6.0
"""The mean difference in gray levels that JPEG may cause."""


def test_the_page_shows_every_image_of_the_script() -> None:
    """The page shows what the script draws and nothing else, and all of it is small."""
    rows = runpy.run_path(str(ROOT / "docs" / "engine_images.py"))["ROWS"]
    shown = re.findall(r"!\[[^\]]+\]\(images/([^)]+)\.jpg\)", PAGE)
    assert sorted(shown) == sorted(rows)
    assert sum((IMAGES / f"{name}.jpg").stat().st_size for name in rows) < 400_000


@pytest.mark.slow
def test_the_images_are_what_the_engine_makes(tmp_path: Path) -> None:
    """Drawing them again gives the same images."""
    script = ROOT / "docs" / "engine_images.py"
    subprocess.run([sys.executable, script, tmp_path], check=True, timeout=300)
    drawn = sorted(tmp_path.iterdir())
    assert drawn
    for path in drawn:
        assert difference(path, IMAGES / path.name) < TOLERANCE, path.name


@pytest.mark.slow
def test_the_example_script_draws_the_sheet(tmp_path: Path) -> None:
    """The script behind the README's image draws the same sheet again."""
    sheet, script = tmp_path / "sheet.jpg", ROOT / "examples" / "contact_sheet.py"
    subprocess.run([sys.executable, script, "--output", sheet], check=True, timeout=300)
    assert difference(sheet, ROOT / "examples" / "contact-sheet.jpg") < TOLERANCE


def difference(one: Path, other: Path) -> float:
    """Return the mean difference of two images, which have the same size, in gray levels."""
    with Image.open(one) as first, Image.open(other) as second:
        assert first.size == second.size
        return float(np.abs(np.asarray(first, float) - np.asarray(second, float)).mean())
