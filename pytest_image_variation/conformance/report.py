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
from pytest_image_variation.conformance.target import Server
from pytest_image_variation.conformance.verdict import BREACH

__all__ = ["RULE", "Row", "Tally", "as_property"]

RULE = "image_variation_rule"
"""The property of a test's report that says which rule it is about."""

_OUTCOMES = ("kept", "broken", "expected", "not seen")


@dataclass(slots=True)
class Row:
    """What came of one rule in one test."""

    test: str
    """The node id."""
    id: str
    level: str
    rule: str
    """The rule in a sentence."""
    outcome: str = "not seen"
    """"kept", "broken", "expected" (broken, as was expected) or "not seen"."""
    got: str | None = None
    """What was found instead, if it is broken; why, if it was not seen."""
    curl: list[str] = field(default_factory=list)
    """How to ask again."""


class Tally:
    """The outcomes of a session."""

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}

    def add(self, report: pytest.TestReport, rule: Mapping[str, str]) -> None:
        """Take the report of one phase of a test of a rule."""
        row = self._rows.setdefault(
            report.nodeid, Row(report.nodeid, rule["id"], rule["level"], rule["rule"])
        )
        expected = hasattr(report, "wasxfail")
        if report.failed and str(report.longrepr).startswith("[XPASS(strict)]"):
            # Its test fails, but for the list, which is out of date.
            row.outcome, row.got = "kept", "It was expected to be broken."
        elif report.failed:
            row.outcome = "broken"
            row.got = row.got or str(report.longrepr).strip().splitlines()[-1]
        elif report.skipped:
            row.outcome = "expected" if expected else "not seen"
            row.got = None if expected else _reason(report)
        elif report.when == "call":
            row.outcome = "kept"
        for name, value in report.user_properties:
            if name == BREACH and isinstance(value, dict):
                row.got, row.curl = value["got"], value["curl"]

    def lines(self) -> Iterable[str]:
        """Yield a table of the outcomes by level, and what is broken."""
        yield "        " + "".join(f"{outcome:>10}" for outcome in _OUTCOMES)
        for level in LEVELS:
            counts = self._counts(level)
            yield f"{level:<8}" + "".join(f"{counts[outcome]:>10}" for outcome in _OUTCOMES)
        for row in self._rows.values():
            if row.outcome in ("broken", "expected"):
                yield f"{row.level} {row.outcome}: {row.id}: {row.rule}"

    def write(self, path: Path, target: str | None) -> None:
        """Write all that is known as JSON.

        Args:
            path: The file.
            target: The address of the server, if there is one for all.

        Raises:
            OSError: If the file cannot be written.
        """
        content: dict[str, Any] = {
            "version": __version__,
            "target": None if target is None else Server(target).base_url,
            "summary": {level: dict(self._counts(level)) for level in LEVELS},
            "rules": [asdict(row) for row in self._rows.values()],
        }
        path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")

    def _counts(self, level: str) -> Counter[str]:
        counts = Counter(dict.fromkeys(_OUTCOMES, 0))
        counts.update(row.outcome for row in self._rows.values() if row.level == level)
        return counts


def as_property(rule: Rule[Any]) -> dict[str, str]:
    """Return what a test's report has of its rule."""
    return {"id": rule.id, "level": rule.level, "rule": rule.text}


def _reason(report: pytest.TestReport) -> str:
    longrepr = report.longrepr
    reason = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    return reason.removeprefix("Skipped: ")
