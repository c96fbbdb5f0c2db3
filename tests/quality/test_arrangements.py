"""Tests of the table of patch metrics, which measures arrangements alone."""

from pathlib import Path

import pytest
from PIL import Image

from engine_quality import compare_patches, rearrange
from quality.photos import source


@pytest.mark.slow
def test_only_rearranged_images_are_measured() -> None:
    """A house is rearranged at 1 alone, and the lines of a drawn face at 0.7 too."""
    house, face = source("house (drawn)"), source("face (drawn)")
    assert rearrange(house, 0.7, 2) == []
    assert rearrange(face, 0.6, 2) == []
    for image, strength in ((face, 0.7), (house, 1.0)):
        arrangements = rearrange(image, strength, 2)
        assert len(arrangements) == 2
        assert all(one is not None and (one != image).any() for one in arrangements)


@pytest.mark.slow
def test_a_row_without_images_misses_its_bars(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A strength at which nothing is rearranged does not count as passed."""
    path = tmp_path / "house.png"
    Image.fromarray(source("house (drawn)")).save(path)
    misses = compare_patches([path], 1)
    printed = capsys.readouterr().out
    assert "| 0.85 | 0 | 0 | 0 | - | - | - | - | - | - |" in printed
    assert "| 1.0 | 1 | 1 | 0 | " in printed
    assert {f"{strength}: no arrangement to measure" for strength in (0.7, 0.85)} <= set(misses)
