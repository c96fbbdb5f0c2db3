"""Lists of rules to skip or to expect as broken: text files with one id per line."""

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


def read_list(path: Path, ids: Collection[str] = IDS) -> dict[str, str]:
    """Return the ids in a list, each with the reason that follows it after a #.

    Raises:
        ValueError: If the file cannot be read, or has an id that no rule has.
    """
    try:
        # Some editors start a file with a byte order mark.
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeError):
        raise ValueError(
            f"Cannot read the list {path.name!r}. Check its path, and that it is UTF-8 text."
        ) from None
    reasons = {}
    for number, line in enumerate(lines, 1):
        id, _, reason = (part.strip() for part in line.partition("#"))
        if id and id not in ids:
            similar = get_close_matches(id, ids, 1)
            hint = f" Did you mean {similar[0]!r}?" if similar else ""
            raise ValueError(f"{path.name}, line {number}: unknown rule id {id[:60]!r}.{hint}")
        if id:
            reasons[id] = reason
    return reasons


def apply_lists(
    items: Iterable[pytest.Item], skips: Collection[str], xfails: Collection[str]
) -> None:
    """Mark the tests of rules that are in a list.

    If a rule in an xfail list passes, its test fails, so that lists stay up to date.

    Args:
        items: The tests of rules.
        skips: Files with the ids of rules to skip.
        xfails: Files with the ids of rules that are known to be broken.

    Raises:
        ValueError: See `read_list`.
    """
    skip_reasons = {k: v for path in skips for k, v in read_list(Path(path)).items()}
    xfail_reasons = {k: v for path in xfails for k, v in read_list(Path(path)).items()}
    for item in items:
        id = item.callspec.params["rule"].id  # type: ignore[attr-defined]  # of parametrized tests
        if id in skip_reasons:
            reason = skip_reasons[id] or "It is in the list of rules to skip."
            item.add_marker(pytest.mark.skip(reason=reason), append=False)
        if id in xfail_reasons:
            reason = xfail_reasons[id] or "It is in the list of rules known to be broken."
            # Only a broken rule is expected, not other errors of the test.
            mark = pytest.mark.xfail(reason=reason, strict=True, raises=pytest.fail.Exception)
            item.add_marker(mark, append=False)
