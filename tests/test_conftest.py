from pathlib import Path

import pytest
from hypothesis import settings

from tests import conftest

SUITE = """
import pytest

@pytest.mark.slow
def test_slow(): pass

def test_quick(): pass
"""


@pytest.mark.parametrize(
    ("arguments", "passed"),
    [
        ([], 1),
        (["."], 1),
        (["--all"], 2),
        (["-m", "slow"], 1),
        (["-m", "not slow"], 1),
        (["test_it.py"], 2),
        (["test_it.py::test_slow"], 1),
    ],
)
def test_slow_tests_run_only_if_you_ask_for_them(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, arguments: list[str], passed: int
) -> None:
    """An option, their file or their id asks for them; a plain run says how many it left out."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeini("[pytest]\nmarkers = slow: takes long")
    pytester.makeconftest(Path(conftest.__file__).read_text())
    pytester.makepyfile(test_it=SUITE)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments)
    left_out = 0 if "::" in "".join(arguments) else 2 - passed
    result.assert_outcomes(passed=passed, deselected=left_out)


def test_no_case_of_hypothesis_is_timed() -> None:
    """A slow machine fails no test."""
    assert settings().deadline is None
