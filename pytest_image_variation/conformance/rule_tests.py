"""Turns rules into pytest tests: their parameters, and the outcome of each check."""

from collections.abc import Hashable, Iterable
from typing import Any, TypeVar

import pytest

from pytest_image_variation.conformance.rule import LEVELS, Rule, SkipCheck, Subject, Violation

__all__ = ["VIOLATION", "check_rule", "parameters", "subject_key"]

VIOLATION = "image_variation_violation"
"""The property of a test report that holds what was found, and how to repeat it."""

S = TypeVar("S", bound=Subject)


def parameters(rules: Iterable[Rule[S]]) -> list[Any]:
    """Return rules as parameters of a test, each with its id and the marker of its level."""
    return [
        pytest.param(
            rule, id=rule.id, marks=getattr(pytest.mark, f"image_variation_{rule.level.lower()}")
        )
        for rule in rules
    ]


def subject_key(item: pytest.Item) -> Hashable:
    """Return a key that all tests of one subject share: their class and its own parameters."""
    indices = item.callspec.indices  # type: ignore[attr-defined]  # of parametrized tests
    others = tuple(sorted((name, index) for name, index in indices.items() if name != "rule"))
    return item.parent, others


def check_rule(rule: Rule[S], subject: S, item: pytest.Item) -> None:
    """Check a rule, and end the test with the outcome.

    If the rule cannot be checked, the test is skipped. If the rule is broken, the test fails, or
    xfails if the rule's level is weaker than `--image-variation-level`.
    """
    __tracebackhide__ = True
    outcome = _check(rule, subject)
    if outcome is None:
        return
    if isinstance(outcome, SkipCheck):
        pytest.skip(str(outcome))
    requests = list(subject.request_lines())
    violation = {"got": outcome.got, "requests": requests, "curl": list(outcome.curl)}
    item.user_properties.append((VIOLATION, violation))
    lines = [f"{rule.level} {rule.id}: {rule.text}", f"got: {outcome.got}"]
    text = "\n".join([*lines, *(f"request: {line}" for line in requests), *outcome.curl])
    if LEVELS.index(rule.level) > LEVELS.index(_failing_level(item.config)):
        pytest.xfail(text)
    pytest.fail(text, pytrace=False)


def _check(rule: Rule[S], subject: S) -> SkipCheck | Violation | None:
    """Return what a check raises, so that a later exception is not chained to it."""
    try:
        rule.check(subject)
    except (SkipCheck, Violation) as outcome:
        return outcome
    return None


def _failing_level(config: pytest.Config) -> Any:
    return config.getoption("--image-variation-level", "should").upper()
