"""The code blocks of README.md and docs/, and the rules that they follow.

CONTRIBUTING.md states the rules for authors.
"""

import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(
    r"(?:^ *<!-- *(?P<comment>(?:(?!-->)[\s\S])*?) *-->\n)?"
    r"^(?P<indent> *)```(?P<language>[^\s`]*)(?P<attributes>[^\n`]*)\n"
    r"(?P<text>(?:(?!^ *```)[^\n]*\n)*?)"
    r"^(?P=indent)```$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A fenced code block of a page."""

    page: str
    line: int
    language: str
    title: str
    """The file that the block is, such as `sepia.py`; empty if it has no title."""
    reason: str | None
    """Why the block does not run, from the comment above it."""
    text: str

    @property
    def kind(self) -> str:
        """How it runs: as a `suite`, a `kit`, a `program`, in the `shell`, or its language."""
        if self.language == "python":
            if "def test_" in self.text:
                return "suite"
            return "kit" if "ConformanceTests" in self.text else "program"
        if self.language == "pycon":
            return "program"
        return "shell" if self.language in ("bash", "console") else self.language


@dataclass(frozen=True)
class Page:
    """A page of the documentation, named by its path in the tree."""

    name: str

    @cached_property
    def text(self) -> str:
        """The page's Markdown."""
        return (ROOT / self.name).read_text("utf-8")

    @cached_property
    def blocks(self) -> list[Block]:
        """The page's code blocks, from top to bottom."""
        return [self._block(match) for match in _FENCE.finditer(self.text)]

    def _block(self, match: "re.Match[str]") -> Block:
        reason = re.fullmatch(r"not run: *(.*)", match["comment"] or "", re.DOTALL)
        title = re.search(r'title="([^"]+)"', match["attributes"])
        return Block(
            page=self.name,
            line=self.text.count("\n", 0, match.start("text")) + 1,
            language=match["language"],
            title=title[1] if title else "",
            reason=reason[1] if reason else None,
            text=textwrap.dedent(match["text"]),
        )

    def running(self, *kinds: str) -> list[Block]:
        """Return the blocks of some kinds that run."""
        return [block for block in self.blocks if block.kind in kinds and block.reason is None]


PAGES = [
    Page(str(path.relative_to(ROOT)))
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
]


def pages_with(*kinds: str) -> list[object]:
    """Return a parameter for each page that has a running block of one of these kinds."""
    return [pytest.param(page, id=page.name) for page in PAGES if page.running(*kinds)]


def blocks_where(condition: Callable[[Block], bool]) -> list[object]:
    """Return a parameter for each block that meets a condition, named by its page and line."""
    blocks = [block for page in PAGES for block in page.blocks if condition(block)]
    return [pytest.param(block, id=f"{block.page}:{block.line}") for block in blocks]


def blocks_of(kind: str) -> list[object]:
    """Return a parameter for each running block of this kind."""
    return blocks_where(lambda block: block.kind == kind and block.reason is None)


def find_page(name: str) -> Page:
    """Return a page by its path."""
    return next(page for page in PAGES if page.name == name)


def table(name: str, head: str) -> dict[str, str]:
    """Return the rows of the page's table with the header `head`, by their first cells."""
    _, separator, rest = find_page(name).text.partition(f"\n{head}\n")
    assert separator, f"{name} has no table that begins with {head!r}"
    rows = rest.partition("\n\n")[0].splitlines()[1:]
    return {row.split(" | ")[0].removeprefix("| "): row for row in rows}
