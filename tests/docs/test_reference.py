import re
from importlib import import_module

import pytest

import langchain_image_variation
from pytest_image_variation import conformance, vcr_settings
from tests.docs.pages import PAGES, ROOT

DOCUMENTED = re.findall(
    r"^::: ([\w.]+)$", "\n".join(page.text for page in PAGES), flags=re.MULTILINE
)
"""The names for which the pages show docstrings."""
ROOT_NAMES = {
    *langchain_image_variation.__all__,
    *(
        "ImageVariationMCPServer",
        "ImageVariationMiddleware",
        "ImageVariationToolSpec",
        "create_app",
    ),
}
"""The names of the root package, also those that need an extra."""


def documented_object(path: str) -> object:
    """Import the object of a documented name, or raise an AttributeError."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


@pytest.mark.parametrize("path", DOCUMENTED)
def test_documented_names_exist(path: str) -> None:
    """Each name in the reference exists in the code and has a docstring."""
    if "tool_spec" in path:
        pytest.importorskip("llama_index.core")
    assert documented_object(path).__doc__


def test_reference_is_complete() -> None:
    """The reference has every name that the packages export for programs."""
    exported_names = {
        *ROOT_NAMES,
        *conformance.__all__,
        *vcr_settings.__all__,
    }
    names = {path.rpartition(".")[2] for path in DOCUMENTED}
    assert exported_names - names == {"__version__"}


IN_ANOTHER_OBJECT = {"Images"}
"""Names that nobody imports: `client.images` is one."""


def test_headings_show_where_to_import_a_name_from() -> None:
    """The heading of a name has its full path, unless the name is imported from the root."""
    for page in PAGES:
        for path, options in re.findall(
            r"^::: (langchain_image_variation[\w.]+)\n((?: +.*\n)*)", page.text, re.MULTILINE
        ):
            name = path.rpartition(".")[2]
            has_path = "show_root_full_path: true" in options
            assert has_path == (name not in ROOT_NAMES | IN_ANOTHER_OBJECT), path


def test_root_names_are_imported_from_the_root() -> None:
    """Each public name has one import path in the documentation and the examples."""
    examples = [path.read_text("utf-8") for path in (ROOT / "examples").rglob("*.py")]
    text = "\n".join([*(page.text for page in PAGES), *examples])
    statements = re.findall(
        r"from (langchain_image_variation\.[\w.]+) import (\([^)]*\)|[^\n]*)", text
    )
    assert statements
    for module, names in statements:
        assert not ROOT_NAMES & {*re.findall(r"\w+", names)}, module


def test_index_links_every_root_name() -> None:
    """The first page of the reference lists each name of the root package once, with a link."""
    text = next(page.text for page in PAGES if page.name == "docs/api/index.md")
    linked_names = re.findall(r"\[`(\w+)`\]\(\S+\.md\)", text)
    assert sorted(linked_names) == sorted(ROOT_NAMES - {"__version__"})
