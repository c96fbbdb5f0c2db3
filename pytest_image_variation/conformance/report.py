"""The outcome of each rule, as a table and as JSON."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from langchain_image_variation import __version__
from langchain_image_variation.files.atomic import atomic_write
from pytest_image_variation.conformance.rule import LEVELS, Rule
from pytest_image_variation.conformance.rule_tests import VIOLATION
from pytest_image_variation.conformance.server import Server

__all__ = ["RULE", "Row", "Tally", "as_property"]

RULE = "image_variation_rule"
"""The property of a test report that holds the rule of the test."""

_OUTCOMES = ("passed", "failed", "xfailed", "skipped", "error")


@dataclass(slots=True)
class Row:
    """The outcome of one rule in one test."""

    test: str
    """The node id of the test."""
    id: str
    level: str
    rule: str
    """The rule in one sentence."""
    outcome: str
    """"passed", "failed", "xfailed" (failed as expected), "skipped", or "error" (the test itself
    failed, so the rule was not checked)."""
    got: str | None = None
    """What was found instead, or why the rule was not checked."""
    requests: list[str] = field(default_factory=list)
    """The requests that a client sent or an engine got, if the rule is broken."""
    curl: list[str] = field(default_factory=list)
    """Command lines that repeat the requests to a server."""


class Tally:
    """The outcomes of a test session."""

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}

    def add(self, report: pytest.TestReport, rule: Mapping[str, str]) -> None:
        """Add the report of one phase of a test."""
        violation = dict(report.user_properties).get(VIOLATION)
        outcome, got = _outcome(report, violation)
        if outcome is None:
            return
        row = Row(report.nodeid, rule["id"], rule["level"], rule["rule"], outcome, got)
        if isinstance(violation, dict) and outcome in ("failed", "xfailed"):
            row.got, row.curl = violation["got"], violation["curl"]
            row.requests = violation["requests"]
        self._rows[report.nodeid] = row

    def lines(self) -> Iterable[str]:
        """Yield a table of the outcomes by level, then each rule that did not pass."""
        yield "        " + "".join(f"{outcome:>10}" for outcome in _OUTCOMES)
        for level in LEVELS:
            counts = self._counts(level)
            yield f"{level:<8}" + "".join(f"{counts[outcome]:>10}" for outcome in _OUTCOMES)
        for row in self._rows.values():
            if row.outcome in ("failed", "xfailed", "error"):
                yield f"{row.level} {row.outcome}: {row.id}: {row.rule}"

    def write(self, path: Path, target: str | None, exit_status: int) -> None:
        """Write all outcomes as JSON, completely or not at all.

        Args:
            path: The file.
            target: The base URL of the server, if one server was checked.
            exit_status: pytest's exit status, which is 2 if it was interrupted.

        Raises:
            OSError: If the file cannot be written.
        """
        content: dict[str, Any] = {
            "version": __version__,
            "target": None if target is None else Server(target).base_url,
            "exit_status": int(exit_status),
            "summary": {level: dict(self._counts(level)) for level in LEVELS},
            "rules": [asdict(row) for row in self._rows.values()],
        }
        with atomic_write(path, sync=False) as file:
            file.write((json.dumps(content, indent=2) + "\n").encode())

    def _counts(self, level: str) -> Counter[str]:
        counts = Counter(dict.fromkeys(_OUTCOMES, 0))
        counts.update(row.outcome for row in self._rows.values() if row.level == level)
        return counts


def as_property(rule: Rule[Any]) -> dict[str, str]:
    """Return a rule as the property of a test report."""
    return {"id": rule.id, "level": rule.level, "rule": rule.text}


def _outcome(report: pytest.TestReport, violation: object) -> tuple[str | None, str | None]:
    """Return the outcome of a rule and its reason, or None if this phase does not decide it."""
    if report.failed and str(report.longrepr).startswith("[XPASS(strict)]"):
        # The rule passed. Only its test fails, because the list is out of date.
        return "passed", "It was expected to fail."
    if report.failed and violation is not None and report.when == "call":
        return "failed", None
    if report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        return "error", str(crash.message if crash else report.longrepr).strip().splitlines()[0]
    if report.skipped and hasattr(report, "wasxfail"):
        return "xfailed", None
    if report.skipped:
        return "skipped", _skip_reason(report)
    return ("passed", None) if report.when == "call" else (None, None)


def _skip_reason(report: pytest.TestReport) -> str:
    longrepr = report.longrepr
    reason = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    return reason.removeprefix("Skipped: ")
