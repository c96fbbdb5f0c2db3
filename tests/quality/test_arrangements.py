"""Tests of the table of patch metrics, which measures arrangements alone."""

from pathlib import Path

import pytest
from PIL import Image

from engine_quality import compare_patches, rearrange
from quality.photos import source


@pytest.mark.slow
def test_only_rearranged_images_are_measured() -> None:
    """A house is not rearranged at 0.7, and a tea garden is at 0.7 and 1, but not at 0.6."""
    house, garden = source("house (drawn)"), source("tea garden")
    assert rearrange(house, 0.7, 2) == []
    assert rearrange(garden, 0.6, 2) == []
    for strength in (0.7, 1.0):
        arrangements = rearrange(garden, strength, 2)
        assert len(arrangements) == 2
        assert all(one is not None and (one != garden).any() for one in arrangements)


@pytest.mark.slow
def test_a_row_without_images_misses_its_bars(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A strength at which nothing is rearranged does not count as passed."""
    paths = {name: tmp_path / f"{name}.png" for name in ("house (drawn)", "tea garden")}
    for name, path in paths.items():
        Image.fromarray(source(name)).save(path)
    misses = compare_patches([paths["house (drawn)"]], 1)
    assert "| 0.85 | 0 | 0 | 0 | - | - | - | - | - | - |" in capsys.readouterr().out
    assert {f"{strength}: no arrangement to measure" for strength in (0.7, 0.85)} <= set(misses)
    misses = compare_patches([paths["tea garden"]], 1)
    assert "| 0.85 | 1 | 1 | 0 | " in capsys.readouterr().out
    assert not any("no arrangement to measure" in miss for miss in misses)
