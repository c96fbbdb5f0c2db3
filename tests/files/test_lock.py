import os
import subprocess
import sys
from pathlib import Path

import pytest

from langchain_image_variation.files.lock import try_lock

HOLDER = """
import os, sys
from langchain_image_variation.files.lock import try_lock
print(try_lock(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)), flush=True)
sys.stdin.read()
"""


def test_a_killed_process_frees_its_lock(tmp_path: Path) -> None:
    """One process holds a lock, until it closes the file or is killed."""
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        descriptor = os.open(path, os.O_RDWR)
        try:
            assert not try_lock(descriptor)
            holder.kill()
            holder.wait(60)
            assert try_lock(descriptor)
        finally:
            os.close(descriptor)


def test_an_error_is_not_a_held_lock() -> None:
    """If a file cannot be locked at all, that is an error, because waiting would not help."""
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    with pytest.raises(OSError):
        try_lock(writer)
