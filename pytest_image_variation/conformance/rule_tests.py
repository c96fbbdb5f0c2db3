"""From a check to the outcome of a test."""

from collections.abc import Hashable, Iterable
from typing import Any, TypeVar

import pytest

from pytest_image_variation.conformance.rule import LEVELS, Breach, Rule, Subject, Unseen

__all__ = ["BREACH", "judge", "parameters", "subject_of"]

BREACH = "image_variation_breach"
"""The property of a test's report that says what was found, and how to ask again."""

S = TypeVar("S", bound=Subject)


def parameters(rules: Iterable[Rule[S]]) -> list[Any]:
    """Return the rules as parameters of a test, each with its id and the mark of its level."""
    return [
        pytest.param(
            rule, id=rule.id, marks=getattr(pytest.mark, f"image_variation_{rule.level.lower()}")
        )
        for rule in rules
    ]


def subject_of(item: pytest.Item) -> Hashable:
    """Return what all tests of one subject have in common: the class, and its own parameters."""
    indices = item.callspec.indices  # type: ignore[attr-defined]  # of parametrized tests
    others = tuple(sorted((name, index) for name, index in indices.items() if name != "rule"))
    return item.parent, others


def judge(rule: Rule[S], subject: S, item: pytest.Item) -> None:
    """Check a rule, and end the test accordingly.

    A rule that cannot be seen skips it. A broken one fails it, or is expected to fail if its level
    is weaker than `--image-variation-level`.
    """
    __tracebackhide__ = True
    found = _found(rule, subject)
    if found is None:
        return
    if isinstance(found, Unseen):
        pytest.skip(str(found))
    asked = list(subject.asked())
    breach = {"got": found.got, "asked": asked, "curl": list(found.curl)}
    item.user_properties.append((BREACH, breach))
    lines = [f"{rule.level} {rule.id}: {rule.text}", f"got: {found.got}"]
    text = "\n".join([*lines, *(f"asked: {line}" for line in asked), *found.curl])
    if LEVELS.index(rule.level) > LEVELS.index(_level(item.config)):
        pytest.xfail(text)
    pytest.fail(text, pytrace=False)


def _found(rule: Rule[S], subject: S) -> Unseen | Breach | None:
    """Return what a check raises; what is raised from here on has nothing before it."""
    try:
        rule.check(subject)
    except (Unseen, Breach) as found:
        return found
    return None


def _level(config: pytest.Config) -> Any:
    return config.getoption("--image-variation-level", "should").upper()
