"""Distributions for tests, which every process finds like installed ones."""

import os
from pathlib import Path

import pytest

__all__ = ["declare"]


def declare(
    folder: Path, name: str, entry_points: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Declare a distribution for this process and its children.

    Args:
        folder: Where to put the distribution.
        name: Its name. The name of its module is this and "_of_tests".
        entry_points: Its entry points.
        module: The code of its module.
        monkeypatch: Undoes the declaration.
    """
    distribution = folder / "distribution"
    metadata = distribution / f"{name}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(entry_points)
    (distribution / f"{name}_of_tests.py").write_text(module)
    monkeypatch.syspath_prepend(str(distribution))
    path = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(distribution), path))))
