"""The page of the other frameworks, and what is installed."""

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.agents.hosts.conversation import PAGE, example
from tests.docs.pages import find_page

TEXT = find_page(PAGE).text
REQUIREMENTS = [Requirement(text) for text in re.findall(r"`([\w.,\[\]-]+>=[^`]+)`", TEXT)]
HEADINGS = re.findall(r"^\| \[([^]]+)\]\(#[\w-]+\) \|", TEXT, re.MULTILINE)


@pytest.mark.parametrize("heading", HEADINGS)
def test_each_example_is_run_by_a_test(heading: str) -> None:
    """Each framework in the table has an example, which a test of this folder runs."""
    heading = heading.removeprefix("Graphs of ")
    assert "tool" in example(heading).text
    sources = [path.read_text("utf-8") for path in Path(__file__).parent.glob("test_*.py")]
    assert any(re.search(rf'run_example\W+"{re.escape(heading)}"', source) for source in sources)


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_the_installed_version_is_on_the_page(requirement: Requirement) -> None:
    """The versions that these tests run with are in the ranges that the page gives."""
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        pytest.skip(f"{requirement.name!r} is not installed")
    assert requirement.specifier.contains(installed)
