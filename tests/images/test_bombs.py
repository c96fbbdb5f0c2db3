import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MEMORY = 48 * 2**20


@pytest.mark.slow
def test_no_bomb_takes_memory() -> None:
    """Files that would decompress to hundreds of MB are loaded or refused in a few dozen MB."""
    command = [sys.executable, "-W", "error", "-m", "tests.images.bombs"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=True)
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(lines) > 15
    for name, expected, outcome, length, grown in lines:
        assert outcome.startswith(expected), name
        assert grown < MEMORY + 3 * length, name
