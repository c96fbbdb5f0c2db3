"""Distributions of the tests' own, as any foreign one is; every process finds them."""

import os
from pathlib import Path

import pytest

__all__ = ["declare"]


def declare(
    folder: Path, name: str, points: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Declare a distribution to this process and to those that it starts.

    Args:
        folder: Where it is put.
        name: Its name; its module is called so, followed by "_of_tests".
        points: Its entry points.
        module: Its code.
        monkeypatch: Undoes it.
    """
    distribution = folder / "distribution"
    metadata = distribution / f"{name}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(points)
    (distribution / f"{name}_of_tests.py").write_text(module)
    monkeypatch.syspath_prepend(str(distribution))
    path = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(distribution), path))))
