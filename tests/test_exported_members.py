import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import langchain_image_variation
import pytest_image_variation

MODULES = [
    module.name
    for package in (langchain_image_variation, pytest_image_variation)
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
    if not module.name.endswith("__main__")
]


def test_the_root_exports_sorted_names_that_all_resolve() -> None:
    """Every public name can be loaded, and the list is in order."""
    names = langchain_image_variation.__all__
    assert names == sorted(names)
    for name in names:
        assert getattr(langchain_image_variation, name) is not None
    assert set(names) <= set(dir(langchain_image_variation))
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = langchain_image_variation.nope


@pytest.mark.parametrize("name", MODULES)
def test_modules_declare_sorted_documented_names(name: str) -> None:
    """Each module lists what it exports, in order, and documents every class and function."""
    module = importlib.import_module(name)
    exported: list[str] = module.__all__ if hasattr(module, "__all__") else []
    constants = [n for n in exported if n.isupper()]
    rest = [n for n in exported if n not in constants]
    assert constants + rest == sorted(constants) + sorted(rest)
    assert module.__doc__
    for exported_name in rest:
        value = getattr(module, exported_name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, exported_name


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import langchain_image_variation", "pydantic httpx numpy PIL langchain_core tqdm"),
        ("import langchain_image_variation.exceptions", "pydantic httpx numpy PIL"),
        ("import langchain_image_variation.png", "pydantic httpx numpy PIL"),
        ("import langchain_image_variation.contract", "httpx numpy PIL langchain_core"),
        ("import langchain_image_variation.source", "httpx anyio pydantic langchain_core"),
        ("import langchain_image_variation.client", "httpx numpy PIL langchain_core"),
        ("import langchain_image_variation.cli", "httpx numpy langchain_core langsmith"),
        ("import pytest_image_variation", "pydantic httpx numpy PIL langchain_core"),
        ("import langchain_image_variation.tool", "numpy langgraph langchain fsspec"),
    ],
)
def test_an_import_brings_no_more_than_it_needs(statement: str, absent: str) -> None:
    """Heavy libraries are loaded by the one module that needs them, and not before."""
    code = f"{statement}; import sys; print([m for m in {absent.split()!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr
