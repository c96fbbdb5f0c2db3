import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
CHECK = runpy.run_path(str(ROOT / "benchmarks" / "same_pixels.py"))
PAGE = (ROOT / "docs" / "same-pixels.md").read_text("utf-8")


@pytest.mark.mostly_slow("('photo', 256, 0.3, True, 7)", "('photo', 256, 0.7, True, 7)")
@pytest.mark.parametrize("case", CHECK["CASES"][:6], ids=str)
def test_pixels_match_the_docs(case: tuple[str, int, float, bool, int]) -> None:
    """On every machine, a variation has the pixels that the table promises."""
    (row,) = CHECK["rows"]([case])
    assert row in PAGE.splitlines()


@pytest.mark.slow
def test_one_thread_makes_the_pixels_of_the_docs() -> None:
    """With one thread, the command in the docs prints what the page shows for several."""
    session = re.search(r"^\$ python (\S+) \| tail -n 1\n(.*\n)", PAGE, re.M)
    assert session is not None
    done = subprocess.run(
        [sys.executable, session[1], "--threads", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.splitlines()[-1] == session[2].strip()
    assert done.returncode == 0
