import importlib
import inspect
import pkgutil
import subprocess
import sys
from importlib.util import find_spec

import pytest

import langchain_image_variation
import pytest_image_variation
from langchain_image_variation.exceptions import MissingExtraError, install_command

MODULES = [
    module.name
    for package in (langchain_image_variation, pytest_image_variation)
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
    if not module.name.endswith("__main__")
]
EXTRA = find_spec("llama_index") is not None
OF_THE_EXTRA = (
    "langchain_image_variation.agents.llama_index_messages",
    "langchain_image_variation.agents.tool_spec",
)


def test_the_root_exports_names_that_resolve() -> None:
    """The public names are sorted, and each can be loaded if its extra is installed."""
    names = langchain_image_variation.__all__
    assert names == sorted(names)
    for name in (*names, "create_app", "ImageVariationToolSpec"):
        if name == "ImageVariationToolSpec" and not EXTRA:
            with pytest.raises(MissingExtraError, match="package 'llama_index'"):
                _ = langchain_image_variation.ImageVariationToolSpec
            continue
        assert getattr(langchain_image_variation, name) is not None
    assert {*names} <= {*dir(langchain_image_variation)}
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = langchain_image_variation.nope


@pytest.mark.parametrize("name", MODULES)
def test_modules_declare_sorted_documented_names(name: str) -> None:
    """Each module lists its public names in order, and documents every class and function."""
    if name in OF_THE_EXTRA and not EXTRA:
        pytest.skip("LlamaIndex is not installed")
    module = importlib.import_module(name)
    exported_names: list[str] = module.__all__ if hasattr(module, "__all__") else []
    constants = [n for n in exported_names if n.isupper()]
    rest = [n for n in exported_names if n not in constants]
    assert constants + rest == sorted(constants) + sorted(rest)
    assert module.__doc__
    for exported_name in rest:
        value = getattr(module, exported_name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, exported_name


@pytest.mark.mostly_slow(
    "import langchain_image_variation-pydantic httpx numpy PIL langchain_core tqdm",
    "import langchain_image_variation.cli-httpx numpy langchain_core langsmith",
    "import pytest_image_variation-pydantic httpx numpy PIL langchain_core",
)
@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import langchain_image_variation", "pydantic httpx numpy PIL langchain_core tqdm"),
        ("import langchain_image_variation.exceptions", "pydantic httpx numpy PIL"),
        ("import langchain_image_variation.images.png", "pydantic httpx numpy PIL"),
        ("import langchain_image_variation.contract", "httpx numpy PIL langchain_core"),
        ("import langchain_image_variation.source", "httpx anyio pydantic langchain_core"),
        ("import langchain_image_variation.hosted.client", "httpx numpy PIL langchain_core"),
        ("import langchain_image_variation.cli", "httpx numpy langchain_core langsmith"),
        ("import pytest_image_variation", "pydantic httpx numpy PIL langchain_core"),
        (
            "import langchain_image_variation.agents.tool",
            "numpy langgraph langchain llama_index fsspec",
        ),
        pytest.param(
            *("import langchain_image_variation.agents.tool_spec", "langchain_core langsmith"),
            marks=pytest.mark.skipif(not EXTRA, reason="LlamaIndex is not installed"),
        ),
    ],
)
def test_imports_load_only_what_they_need(statement: str, forbidden: str) -> None:
    """Heavy libraries are loaded by the module that needs them, and not earlier."""
    code = f"{statement}; import sys; print([m for m in {forbidden.split()!r} if m in sys.modules])"
    completed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert completed.stdout == "[]\n", completed.stderr


@pytest.mark.slow
def test_import_star_needs_no_extra() -> None:
    """`import *` imports the names that do not need an extra."""
    extras = "llama_index", "starlette", "uvicorn", "fsspec", "pytest"
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({extras!r}))\n"
        "from langchain_image_variation import *\nprint(ImageVariationTool.__name__)"
    )
    completed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert completed.stdout == "ImageVariationTool\n", completed.stderr


@pytest.mark.parametrize("module", ["langchain_image_variation", OF_THE_EXTRA[1]])
def test_the_tool_spec_names_its_missing_extra(module: str) -> None:
    """Without the package, importing the tool spec raises an error that names the extra."""
    script = f"import sys; sys.modules['llama_index'] = None\nfrom {module} import "
    code = f"{script} ImageVariationToolSpec"
    completed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert "MissingExtraError: The tool spec needs the package 'llama_index" in completed.stderr
    assert install_command("langchain-image-variation[llama-index]") in completed.stderr


def test_help_works_without_the_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names whose extra is not installed are hidden from `help`."""
    monkeypatch.setitem(sys.modules, "llama_index", None)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    members = dict(inspect.getmembers(langchain_image_variation))
    assert {*langchain_image_variation.__all__} <= {*members}
    assert not {"ImageVariationToolSpec", "create_app"} & {*members}
