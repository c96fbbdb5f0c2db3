import re
from importlib import import_module

import pytest

import langchain_image_variation
from pytest_image_variation import conformance, vcr_settings
from tests.docs.pages import PAGES

DOCUMENTED = re.findall(
    r"^::: ([\w.]+)$", "\n".join(page.text for page in PAGES), flags=re.MULTILINE
)
"""The names for which the pages show docstrings."""
NEEDING_EXTRAS = {"ImageVariationMiddleware", "ImageVariationToolSpec", "create_app"}
"""The names of the root package that need an extra, and are therefore not in `__all__`."""


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
        *langchain_image_variation.__all__,
        *conformance.__all__,
        *vcr_settings.__all__,
    }
    exported_names |= NEEDING_EXTRAS
    names = {path.rpartition(".")[2] for path in DOCUMENTED}
    assert exported_names - names == {"__version__"}


def test_index_links_every_root_name() -> None:
    """The first page of the reference lists each name of the root package once, with a link."""
    text = next(page.text for page in PAGES if page.name == "docs/api/index.md")
    linked_names = re.findall(r"\[`(\w+)`\]\(\S+\.md\)", text)
    exported_names = {*langchain_image_variation.__all__, *NEEDING_EXTRAS}
    assert sorted(linked_names) == sorted(exported_names - {"__version__"})
