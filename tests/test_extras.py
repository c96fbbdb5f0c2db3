import subprocess
import sys
from pathlib import Path

import pytest

_WITHOUT = """
import sys
import pytest

sys.modules["hypothesis"] = None
plugins = ("asyncio", "benchmark", "hypothesispytest", "recording", "xdist")
blocked = [f"-pno:{name}" for name in (*plugins, "cacheprovider")]
sys.exit(pytest.main(["-q", "-rs", *blocked, *sys.argv[1:]]))
"""


@pytest.mark.slow
def test_what_an_absent_extra_brings_is_skipped() -> None:
    """Without the plugins and packages of `test`, its tests are skipped and the others run."""
    tests = (
        "tests/hosted/test_retry.py",
        "tests/hosted/test_sdk_shape.py",
        "tests/test_event_loop.py",
    )
    run = subprocess.run(
        [sys.executable, "-c", _WITHOUT, *tests],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    lines = [line for line in run.stdout.splitlines() if line.startswith("SKIPPED")]
    hypothesis = [line for line in lines if "the package 'hypothesis' is not installed" in line]
    assert len(hypothesis) == 1
    assert len(lines) > 1
    assert all("run: pip install 'langchain-image-variation[test]'" in line for line in lines)
    assert " passed, " in run.stdout
