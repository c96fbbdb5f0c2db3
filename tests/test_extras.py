import subprocess
import sys
from pathlib import Path

import pytest

from langchain_image_variation.exceptions import install_command
from pytest_image_variation.loopback_session import LoopbackSession

ROOT = Path(__file__).parents[1]
# Python code that runs pytest without the plugins that the root conftest.py loads. Their modules
# stay importable, except for hypothesis, which tests import themselves.
_FEWER_EXTRAS = """
import runpy
import sys
from importlib import metadata

import pytest

plugins = runpy.run_path("conftest.py")["_PLUGINS"]
distributions = metadata.distributions


def is_absent(distribution):
    entries = distribution.entry_points
    return any(entry.group == "pytest11" and entry.name in plugins for entry in entries)


metadata.distributions = lambda **kwargs: [
    each for each in distributions(**kwargs) if not is_absent(each)
]
sys.modules["hypothesis"] = None
sys.exit(pytest.main(["-p", "no:cacheprovider", "-rs", *sys.argv[1:]]))
"""


def run_pytest(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run pytest in the checkout without the plugins of the extra `test`."""
    command = [sys.executable, "-c", _FEWER_EXTRAS, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_tests_of_a_missing_extra_are_skipped() -> None:
    """Without the plugins and packages of `test`, its tests are skipped and the others run."""
    result = run_pytest(
        "--quiet",
        "tests/hosted/test_retry.py",
        "tests/hosted/test_sdk_shape.py",
        "tests/test_event_loop.py",
    )
    assert result.returncode == 0, result.stdout + result.stderr
    lines = [line for line in result.stdout.splitlines() if line.startswith("SKIPPED")]
    hypothesis = [line for line in lines if "the package 'hypothesis' is not installed" in line]
    assert len(hypothesis) == 1
    assert len(lines) > 1
    command = install_command("langchain-image-variation[test]")
    assert all(f"run: {command}" in line for line in lines)
    assert " passed, " in result.stdout


@pytest.mark.slow
def test_the_kit_runs_without_the_extra_test(image_variation_server: LoopbackSession) -> None:
    """The documented command checks a server from a checkout with `[pytest,server]` alone."""
    result = run_pytest(
        *("--pyargs", "pytest_image_variation.conformance", "-m", "image_variation_may"),
        f"--image-variation-url={image_variation_server.base_url}",
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert " passed, " in result.stdout
