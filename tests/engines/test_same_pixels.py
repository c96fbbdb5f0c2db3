import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "benchmarks" / "same_pixels.py"
CHECK = runpy.run_path(str(SCRIPT))


@pytest.mark.parametrize("case", CHECK["CASES"][:6], ids=str)
def test_pixels_are_those_of_the_docs(case: tuple[str, int, float, bool, int]) -> None:
    """On whatever machine this runs, a variation has the pixels that the table promises."""
    (row,) = CHECK["rows"]([case])
    assert row in (ROOT / "docs" / "same-pixels.md").read_text("utf-8").splitlines()


@pytest.mark.slow
def test_the_script_checks_every_row() -> None:
    """It finds all rows of the table equal, whatever the number of threads."""
    done = subprocess.run(
        [sys.executable, SCRIPT, "--threads", "1"], capture_output=True, text=True, timeout=300
    )
    count = len(CHECK["CASES"])
    assert done.stdout.endswith(f"\n{count} of {count} rows are those of docs/same-pixels.md.\n")
    assert done.returncode == 0
