"""The page of the other frameworks, and the tests that the gate runs for each row."""

import re
from pathlib import Path

import pytest

from tests.agents.hosts.conversation import PAGE, example
from tests.docs.pages import find_page

TEXT = find_page(PAGE).text
FRAMEWORKS = re.findall(r"^\| \[([^]]+)\]\(#([\w-]+)\) \|", TEXT, re.MULTILINE)
CHAT_MODELS = re.findall(r"^\| (langchain-\S+) \|", TEXT, re.MULTILINE)


def read_test(name: str) -> str:
    """Return the source of a module with tests of hosts."""
    return (Path(__file__).parent / f"test_{name}.py").read_text("utf-8")


@pytest.mark.parametrize(("heading", "anchor"), FRAMEWORKS)
def test_each_example_is_run_by_a_test(heading: str, anchor: str) -> None:
    """Each framework in the table has an example, which the test of its row runs."""
    heading = heading.removeprefix("Graphs of ")
    assert "tool" in example(heading).text
    source = read_test(anchor.replace("-", "_"))
    assert re.search(rf'run_example\W+"{re.escape(heading)}"', source)


def test_each_chat_model_has_tests() -> None:
    """The ids of the tests are the integrations in the table."""
    assert re.findall(r'id="(\S+)"', read_test("chat_models")) == CHAT_MODELS
