"""Tests that act as other users of the machine."""

import os
import subprocess
import sys
from functools import cache

import pytest

OTHER_USER = 12345

_PROBE = """
import sys
from langchain_image_variation import load_engine

load_engine("instant")
import os
os.setgroups([])
os.setuid(int(sys.argv[1]))
import PIL

load_engine("instant")
for module in (PIL, sys.modules["langchain_image_variation"]):
    open(module.__file__).close()
"""


def require_other_users() -> None:
    """Skip the test unless it can act as other users, who can also read this installation."""
    if reason := _obstacle():
        pytest.skip(reason)


def environment_of_other_users(**variables: str) -> dict[str, str]:
    """Return the environment for a process that becomes another user.

    Coverage is not measured there, because the user cannot write its data.
    """
    names = [name for name in os.environ if not name.startswith("COVERAGE")]
    return {**{name: os.environ[name] for name in names}, **variables}


@cache
def _obstacle() -> str | None:
    if os.name != "posix" or os.geteuid() != 0:
        return "only root can act as another user"
    command = [sys.executable, "-c", _PROBE, str(OTHER_USER)]
    done = subprocess.run(
        command, env=environment_of_other_users(), capture_output=True, cwd="/", timeout=60
    )
    return "other users cannot read this installation" if done.returncode else None
