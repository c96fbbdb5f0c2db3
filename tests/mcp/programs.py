"""Other implementations of the protocol, for Node, which the gate installs."""

import os
import subprocess
from pathlib import Path

import pytest

__all__ = ["needs_programs", "run_program"]

_FOLDER = os.environ.get("IMAGE_VARIATION_MCP_PROGRAMS")
"""The folder of the programs, in which npm also installs a version of Node that runs them."""

needs_programs = pytest.mark.skipif(
    _FOLDER is None, reason="IMAGE_VARIATION_MCP_PROGRAMS does not name the folder of the inspector"
)


def run_program(name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run one of the programs, and return what it printed."""
    assert _FOLDER is not None
    return subprocess.run(
        [Path(_FOLDER, name), *arguments],
        env={**os.environ, "PATH": os.pathsep.join((_FOLDER, os.environ["PATH"]))},
        capture_output=True,
        text=True,
        timeout=120,
    )
