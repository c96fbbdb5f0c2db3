"""Lists of rules that are skipped, or expected to be broken: plain text, one id a line."""

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from pathlib import Path

import pytest

from pytest_image_variation.conformance.client_tests import CLIENT_RULES
from pytest_image_variation.conformance.engine_tests import ENGINE_RULES
from pytest_image_variation.conformance.server_tests import SERVER_RULES

__all__ = ["IDS", "apply_lists", "read_list"]

IDS = SERVER_RULES.keys() | CLIENT_RULES.keys() | ENGINE_RULES.keys()
"""The ids of all rules."""


def read_list(path: Path, known: Collection[str] = IDS) -> dict[str, str]:
    """Return the ids of a list, each with the reason that follows it after a #.

    Raises:
        ValueError: If the file cannot be read, or has an id that no rule has.
    """
    try:
        # Some editors begin a file with a mark that says its encoding.
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeError):
        raise ValueError(f"The list {path.name!r} cannot be read.") from None
    found = {}
    for number, line in enumerate(lines, 1):
        id, _, reason = (part.strip() for part in line.partition("#"))
        if id and id not in known:
            near = get_close_matches(id, known, 1)
            hint = f" Is it {near[0]!r}?" if near else ""
            raise ValueError(f"{path.name}, line {number}: no rule has the id {id[:60]!r}.{hint}")
        if id:
            found[id] = reason
    return found


def apply_lists(
    items: Iterable[pytest.Item], skips: Collection[str], xfails: Collection[str]
) -> None:
    """Mark the tests of rules that are in a list.

    A rule that was expected to be broken and is kept fails, so that lists do not grow old.

    Args:
        items: Tests of rules.
        skips: Files with rules to skip.
        xfails: Files with rules to be broken.

    Raises:
        ValueError: As `read_list`.
    """
    skipped = {k: v for path in skips for k, v in read_list(Path(path)).items()}
    expected = {k: v for path in xfails for k, v in read_list(Path(path)).items()}
    for item in items:
        id = item.callspec.params["rule"].id  # type: ignore[attr-defined]  # of parametrized tests
        if id in skipped:
            reason = skipped[id] or "It is in the list of rules to skip."
            item.add_marker(pytest.mark.skip(reason=reason), append=False)
        if id in expected:
            reason = expected[id] or "It is in the list of rules expected to be broken."
            # A breach fails the test; anything else that is raised is no breach.
            mark = pytest.mark.xfail(reason=reason, strict=True, raises=pytest.fail.Exception)
            item.add_marker(mark, append=False)
