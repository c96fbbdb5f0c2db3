"""Running a block, or checking the reason why it does not run."""

import doctest
import re
from typing import Any

from tests.docs.pages import Block

RUN = {"bash", "console", "javascript", "pycon", "python"}
"""The languages that the tests run."""


def check_excuse(block: Block) -> None:
    """Check that a test runs the block, or that the comment above it says why none does.

    Raises:
        AssertionError: If neither is so.
    """
    if block.reason is None:
        place, language = f"{block.page}:{block.line}", block.language or "no language"
        assert block.language in RUN, (
            f"{place}: no test runs a block of {language}. "
            "Write <!-- not run: REASON --> on the line above."
        )
    else:
        assert len(block.reason.split()) > 1


def run_python(block: Block, text: str, names: dict[str, Any]) -> None:
    """Run a block of Python, whose traceback names the page and the line."""
    if block.language == "python":
        exec(compile("\n" * (block.line - 1) + text, block.page, "exec"), names)
        if count := re.search(r"\bresponse = .*create_variation\([^)]*\bn=(\d+)", text):
            assert len(names["response"].data) == int(count[1])
        return
    session = doctest.DocTestParser().get_doctest(
        text, names, block.page, block.page, block.line - 1
    )
    session.globs = names
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(session, out=report.append, clear_globs=False)
    assert not report, "".join(report)
