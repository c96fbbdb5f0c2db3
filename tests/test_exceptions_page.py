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
    """The table has one row for each exception class of the package, in its base class's branch."""
    names = [row.split("`")[1] for row in script["exceptions_table"]().splitlines()[2:]]
    classes = {
        name
        for name, value in vars(exceptions).items()
        if inspect.isclass(value) and issubclass(value, ImageVariationError)
    }
    assert sorted(names) == sorted(classes)
    assert names.index("RateLimitError") + 1 == names.index("QuotaExceededError")


def test_stale_table_is_replaced(script: dict[str, Any]) -> None:
    """The script replaces an old table and keeps the text around it."""
    row = next(line for line in PAGE.splitlines() if line.startswith("| `SourceError`"))
    stale = PAGE.replace(row, row.replace("400", "499"))
    assert stale != PAGE
    assert script["page_with_table"](stale) == PAGE


def test_page_without_marks_is_refused(script: dict[str, Any]) -> None:
    """A page without the two marks of the table raises an error that names the missing mark."""
    with pytest.raises(ValueError, match="End of the table"):
        script["page_with_table"](PAGE.replace(script["END"], ""))
