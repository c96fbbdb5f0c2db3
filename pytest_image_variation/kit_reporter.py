"""Reports the conformance kit's results in a run of pytest: which rules passed, and which failed.

Importing this module imports only pytest and the standard library.
"""

from pathlib import Path
from typing import Any

import pytest

__all__ = ["KitReporter", "prepare_rules"]


def prepare_rules(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Attach each test's rule to its report, and mark the tests that a list names."""
    from pytest_image_variation.conformance import report, rule_lists

    for item in items:
        rule = item.callspec.params["rule"]  # type: ignore[attr-defined]  # of parametrized tests
        item.user_properties.append((report.RULE, report.as_property(rule)))
    rule_lists.apply_lists(
        items,
        config.getoption("--image-variation-skips"),
        config.getoption("--image-variation-xfails"),
    )


class KitReporter:
    """Reports the outcomes of the conformance kit's rules, also across xdist workers."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._tally: Any = None
        self._write_failed = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test of a rule."""
        rule = dict(report.user_properties).get("image_variation_rule")
        if rule is not None:
            self._get_tally().add(report, rule)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the JSON report."""
        option = self._config.getoption
        path = option("--image-variation-report")
        if not path or option("--collect-only") or hasattr(self._config, "workerinput"):
            return
        try:
            self._get_tally().write(Path(path), option("--image-variation-url"), exitstatus)
        except OSError:
            self._write_failed = True
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print how many rules of each level passed or failed."""
        if self._tally is not None:
            terminalreporter.section("conformance of image variations")
            for line in self._tally.lines():
                terminalreporter.write_line(line)
        if self._write_failed:
            terminalreporter.write_line("Could not write the report of --image-variation-report.")

    def _get_tally(self) -> Any:
        if self._tally is None:
            from pytest_image_variation.conformance.report import Tally

            self._tally = Tally()
        return self._tally
