"""What came of each rule, for people and for machines."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from langchain_image_variation import __version__
from pytest_image_variation.conformance.rule import LEVELS, Rule
from pytest_image_variation.conformance.rule_tests import BREACH
from pytest_image_variation.conformance.server import Server

__all__ = ["RULE", "Row", "Tally", "as_property"]

RULE = "image_variation_rule"
"""The property of a test's report that says which rule it is about."""

_OUTCOMES = ("kept", "broken", "expected", "not seen", "failed")


@dataclass(slots=True)
class Row:
    """What came of one rule in one test."""

    test: str
    """The node id."""
    id: str
    level: str
    rule: str
    """The rule in a sentence."""
    outcome: str
    """"kept", "broken", "expected" (broken, as was expected), "not seen" or "failed" (the test
    itself, so that nothing is known of the rule)."""
    got: str | None = None
    """What was found instead, if it is broken; why, if it was not seen or the test failed."""
    asked: list[str] = field(default_factory=list)
    """What a client that breaks it asked, or what was asked of an engine."""
    curl: list[str] = field(default_factory=list)
    """How to ask a server again."""


class Tally:
    """The outcomes of a session."""

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}

    def add(self, report: pytest.TestReport, rule: Mapping[str, str]) -> None:
        """Take the report of one phase of a test of a rule."""
        breach = dict(report.user_properties).get(BREACH)
        outcome, got = _outcome(report, breach)
        if outcome is None:
            return
        row = Row(report.nodeid, rule["id"], rule["level"], rule["rule"], outcome, got)
        if isinstance(breach, dict) and outcome in ("broken", "expected"):
            row.got, row.asked, row.curl = breach["got"], breach["asked"], breach["curl"]
        self._rows[report.nodeid] = row

    def lines(self) -> Iterable[str]:
        """Yield a table of the outcomes by level, and what is broken."""
        yield "        " + "".join(f"{outcome:>10}" for outcome in _OUTCOMES)
        for level in LEVELS:
            counts = self._counts(level)
            yield f"{level:<8}" + "".join(f"{counts[outcome]:>10}" for outcome in _OUTCOMES)
        for row in self._rows.values():
            if row.outcome in ("broken", "expected", "failed"):
                yield f"{row.level} {row.outcome}: {row.id}: {row.rule}"

    def write(self, path: Path, target: str | None, exit_status: int) -> None:
        """Write all that is known as JSON, whole or not at all.

        Args:
            path: The file.
            target: The address of the server, if there is one for all.
            exit_status: That of pytest, which is 2 if it was interrupted.

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
        # Beside it, so that it can take its place at once.
        part = path.with_name(f"{path.name}.part")
        part.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
        part.replace(path)

    def _counts(self, level: str) -> Counter[str]:
        counts = Counter(dict.fromkeys(_OUTCOMES, 0))
        counts.update(row.outcome for row in self._rows.values() if row.level == level)
        return counts


def as_property(rule: Rule[Any]) -> dict[str, str]:
    """Return what a test's report has of its rule."""
    return {"id": rule.id, "level": rule.level, "rule": rule.text}


def _outcome(report: pytest.TestReport, breach: object) -> tuple[str | None, str | None]:
    """Return what a phase of a test says of its rule, if anything, and why."""
    if report.failed and str(report.longrepr).startswith("[XPASS(strict)]"):
        # Its test fails, but for the list, which is out of date.
        return "kept", "It was expected to be broken."
    if report.failed and breach is not None and report.when == "call":
        return "broken", None
    if report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        return "failed", str(crash.message if crash else report.longrepr).strip().splitlines()[0]
    if report.skipped and hasattr(report, "wasxfail"):
        return "expected", None
    if report.skipped:
        return "not seen", _reason(report)
    return ("kept", None) if report.when == "call" else (None, None)


def _reason(report: pytest.TestReport) -> str:
    longrepr = report.longrepr
    reason = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    return reason.removeprefix("Skipped: ")
