"""Writes the table of `docs/exceptions.md` from the exception classes.

Run `python .ci/exceptions_table.py` after you change `langchain_image_variation/exceptions.py`.
"""

from collections.abc import Iterator
from inspect import getdoc
from pathlib import Path

from langchain_image_variation.exceptions import ImageVariationError

PAGE = Path(__file__).parent.parent / "docs" / "exceptions.md"
START = "<!-- The table is generated: python .ci/exceptions_table.py -->\n"
END = "<!-- End of the table -->\n"


def exceptions_table() -> str:
    """Return the table in Markdown, with one row for each class, subclasses below their base."""
    head = "| exception | status | `type` and `code` | raised if |"
    return "\n".join([head, "| --- " * 4 + "|", *map(_row, exception_classes())]) + "\n"


def exception_classes(
    base: type[ImageVariationError] = ImageVariationError,
) -> Iterator[type[ImageVariationError]]:
    """Yield a class and the package's classes below it, depth first."""
    yield base
    for subclass in base.__subclasses__():
        if subclass.__module__ == base.__module__:
            yield from exception_classes(subclass)


def page_with_table(page: str) -> str:
    """Return the text of the page with the current table.

    Raises:
        ValueError: If the page does not mark the start and the end of the table.
    """
    before, start, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(f"{PAGE.name} lacks {(START if not start else END).strip()!r}.")
    return f"{before}{START}\n{exceptions_table()}\n{END}{after}"


def _row(exception: type[ImageVariationError]) -> str:
    depth = sum(issubclass(base, ImageVariationError) for base in exception.__mro__[1:])
    names = [exception.default_type, exception.default_code]
    summary = (getdoc(exception) or "").partition("\n\n")[0].replace("\n", " ")
    reason = summary.removeprefix("Raised if ")
    cells = [
        f"{'↳&nbsp;' * depth}`{exception.__name__}`",
        str(exception.default_status_code),
        "<br>".join(f"`{name}`" for name in names if name is not None),
        reason[:1].upper() + reason[1:],
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    PAGE.write_text(page_with_table(PAGE.read_text("utf-8")), "utf-8")
