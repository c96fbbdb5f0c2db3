from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests import conftest

SUITE = """
import pytest

@pytest.mark.slow
def test_slow(): pass

@pytest.mark.mostly_slow("plain")
@pytest.mark.parametrize("case", ["plain", "other"])
def test_cases(case): pass

def test_quick(): pass
"""
EMPTY = """
import pytest

@pytest.mark.parametrize("case", [])
def test_cases(case): pass
"""


@pytest.fixture(autouse=True)
def one_profile() -> Iterator[None]:
    """Keep the profile of Hypothesis, which an inner run changes."""
    settings.register_profile("outer", settings())
    yield
    settings.load_profile("outer")


@pytest.mark.mostly_slow("arguments0-2", "arguments2-4", "arguments6-1")
@pytest.mark.parametrize(
    ("arguments", "passed"),
    [
        ([], 2),
        (["."], 2),
        (["--all"], 4),
        (["-m", "slow"], 2),
        (["-m", "not slow"], 2),
        (["test_it.py"], 4),
        (["test_it.py::test_slow"], 1),
    ],
)
def test_slow_tests_need_to_be_selected(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, arguments: list[str], passed: int
) -> None:
    """Slow tests run only if an option, their file or their id selects them."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeini("[pytest]\nmarkers =\n  slow: takes long\n  mostly_slow: except some cases")
    pytester.makeconftest(Path(conftest.__file__).read_text())
    pytester.makepyfile(test_it=SUITE)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments)
    deselected = 0 if "::" in "".join(arguments) else 4 - passed
    result.assert_outcomes(passed=passed, deselected=deselected)


def test_parameters_must_not_be_empty(
    pytester: pytest.Pytester, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test without parameters is an error, since it would never run."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    name = "empty_parameter_set_mark"
    pytester.makeini(f"[pytest]\n{name} = {pytestconfig.getini(name)}")
    pytester.makepyfile(EMPTY)
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(errors=1)


@pytest.mark.parametrize(("arguments", "examples"), [([], 20), (["--all"], 100)])
def test_plain_runs_try_fewer_examples(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    examples: int,
) -> None:
    """Hypothesis tries fewer examples, unless the slow tests are selected too."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeconftest(Path(conftest.__file__).read_text())
    pytester.makepyfile(
        f"""
        from hypothesis import settings

        def test_examples():
            assert settings().max_examples == {examples}
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments)
    result.assert_outcomes(passed=1)


def test_hypothesis_has_no_deadline() -> None:
    """Hypothesis has no deadline, so that a slow machine fails no test."""
    assert settings().deadline is None
