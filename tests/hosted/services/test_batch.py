import os
import subprocess
import sys
from pathlib import Path

from pytest_image_variation.samples import square_png
from tests.hosted.services.fakes import KEY, FakeFal


def test_a_batch_stops_at_its_limit(fal: FakeFal, tmp_path: Path) -> None:
    """A batch makes no billed call above the limit, and a second run pays only for the rest."""
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(square_png(32 + index))

    def run_batch(limit: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "langchain_image_variation", "batch", str(tmp_path)]
        command += ["--engine", "fal", "--base-url", fal.url, "-n", "2", "--size", "256x256"]
        command += ["--max-billed-calls", str(limit), "-o", str(tmp_path / "outputs")]
        environment = {**os.environ, "FAL_KEY": KEY}
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    first = run_batch(3)
    assert first.returncode != 0
    assert "max_billed_calls" in first.stderr or "--max-billed-calls" in first.stderr
    paid = len(fal.paths("POST"))
    assert 0 < paid <= 3
    second = run_batch(10)
    assert second.returncode == 0, second.stderr
    assert len(fal.paths("POST")) == 6
