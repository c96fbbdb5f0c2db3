import inspect
import runpy
from pathlib import Path
from typing import Any

import pytest

from langchain_image_variation import exceptions
from langchain_image_variation.exceptions import ImageVariationError

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "exceptions.md").read_text("utf-8")


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    """Return the functions of the script that writes the table."""
    return runpy.run_path(str(ROOT / ".ci" / "exceptions_table.py"))


def test_table_of_exceptions_is_current(script: dict[str, Any]) -> None:
    """The page holds the table that the script writes; otherwise, run the script."""
    assert script["page_with_table"](PAGE) == PAGE, "run: python .ci/exceptions_table.py"


def test_table_has_every_exception(script: dict[str, Any]) -> None:
    """The table has one row for each exception class, and arrows show how they are derived."""
    rows = [row.split("`")[:2] for row in script["exceptions_table"]().splitlines()[2:]]
    names = [name for _, name in rows]
    classes = {
        name
        for name, value in vars(exceptions).items()
        if inspect.isclass(value) and issubclass(value, ImageVariationError)
    }
    assert sorted(names) == sorted(classes)
    place = names.index("QuotaExceededError")
    assert rows[place - 1 : place + 1] == [
        ["| ↳&nbsp;", "RateLimitError"],
        ["| ↳&nbsp;↳&nbsp;", "QuotaExceededError"],
    ]


def test_stale_table_is_replaced(script: dict[str, Any]) -> None:
    """The script replaces an old table and keeps the text around it."""
    row = next(line for line in PAGE.splitlines() if "`SourceError`" in line)
    stale = PAGE.replace(row, row.replace("400", "499"))
    assert stale != PAGE
    assert script["page_with_table"](stale) == PAGE


def test_page_without_marks_is_refused(script: dict[str, Any]) -> None:
    """A page without the two marks of the table raises an error that names the missing mark."""
    with pytest.raises(ValueError, match="End of the table"):
        script["page_with_table"](PAGE.replace(script["END"], ""))
