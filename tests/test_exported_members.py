import importlib
import inspect
import pkgutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

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
FRAMEWORKS = {
    "langchain_image_variation.agents.llama_index_messages": "llama_index",
    "langchain_image_variation.agents.middleware": "langchain",
    "langchain_image_variation.agents.tool_spec": "llama_index",
    **{
        f"langchain_image_variation.mcp.{name}": "mcp_types"
        for name in ("answer", "http", "progress", "resources", "server")
    },
    **{
        f"langchain_image_variation.server.ray{name}": "ray"
        for name in ("", ".application", ".remote_engine", ".replica", ".request_ids", ".settings")
    },
}
"""The modules that need the package of an extra."""
NAMES_OF_EXTRAS = {
    "ImageVariationMCPServer": "mcp_types",
    "ImageVariationMiddleware": "langchain",
    "ImageVariationToolSpec": "llama_index",
}


def named_package(package: str) -> str:
    """Return the package that the error names if this one is missing."""
    # Older releases of `mcp` have no `mcp_types`.
    return "mcp" if package == "mcp_types" else package


def test_the_root_exports_names_that_resolve() -> None:
    """The public names are sorted, and each can be loaded if its extra is installed."""
    names = langchain_image_variation.__all__
    assert names == sorted(names)
    for name in (*names, "create_app", *NAMES_OF_EXTRAS):
        package = NAMES_OF_EXTRAS.get(name)
        if package is not None and find_spec(package) is None:
            with pytest.raises(MissingExtraError, match=f"package '{named_package(package)}'"):
                getattr(langchain_image_variation, name)
            continue
        assert getattr(langchain_image_variation, name) is not None
    assert {*names} <= {*dir(langchain_image_variation)}
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = langchain_image_variation.nope


@pytest.mark.parametrize("name", MODULES)
def test_modules_declare_sorted_documented_names(name: str) -> None:
    """Each module lists its public names in order, and documents every class and function."""
    package = FRAMEWORKS.get(name)
    if package is not None and find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
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


PLAIN_CALL = (
    "from tempfile import TemporaryDirectory; from PIL import Image; "
    "from langchain_image_variation import ImageVariationTool; root = TemporaryDirectory(); "
    "Image.new('L', (64, 64)).save(f'{root.name}/a.png'); "
    "tool = ImageVariationTool(root_dir=root.name, engine='instant'); "
    "assert tool.invoke({'image': 'a.png'}).startswith('Made 1 variation')"
)
"""A call of the tool outside a graph."""


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
        (PLAIN_CALL, "langgraph langchain llama_index fsspec"),
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


def test_an_early_interrupt_meets_the_guard() -> None:
    """No other file is imported before the program can answer Ctrl-C with its message."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "old_names = {*sys.modules, *sys.builtin_module_names}\n"
        "import langchain_image_variation.__main__; print(sorted({*sys.modules} - old_names))"
    )
    root = str(Path(langchain_image_variation.__path__[0]).parent)
    completed = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, root], capture_output=True, text=True, timeout=60
    )
    names = ["langchain_image_variation", "langchain_image_variation.__main__"]
    assert completed.stdout == f"{names}\n", completed.stderr


@pytest.mark.slow
def test_import_star_needs_no_extra() -> None:
    """`import *` imports the names that do not need an extra."""
    extras = "langchain", "llama_index", "starlette", "uvicorn", "fsspec", "pytest"
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({extras!r}))\n"
        "from langchain_image_variation import *\nprint(ImageVariationTool.__name__)"
    )
    completed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert completed.stdout == "ImageVariationTool\n", completed.stderr


@pytest.mark.mostly_slow("root-ImageVariationToolSpec-agents.tool_spec-The tool spec-llama-index")
@pytest.mark.parametrize(
    ("name", "module", "subject", "extra"),
    [
        ("ImageVariationMCPServer", "mcp.server", "The MCP server", "mcp"),
        ("ImageVariationMiddleware", "agents.middleware", "The middleware", "langchain"),
        ("ImageVariationToolSpec", "agents.tool_spec", "The tool spec", "llama-index"),
    ],
)
@pytest.mark.parametrize("from_root", [True, False], ids=["root", "module"])
def test_a_framework_names_its_missing_extra(
    name: str, module: str, subject: str, extra: str, from_root: bool
) -> None:
    """Without its package, importing a framework's class raises an error that names the extra."""
    package, root = named_package(NAMES_OF_EXTRAS[name]), "langchain_image_variation"
    source = root if from_root else f"{root}.{module}"
    code = f"import sys; sys.modules[{package!r}] = None\nfrom {source} import {name}"
    completed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert f"MissingExtraError: {subject} needs the package '{package}" in completed.stderr
    assert install_command(f"langchain-image-variation[{extra}]") in completed.stderr


def test_the_kit_names_its_missing_extra() -> None:
    """Without pytest, importing the conformance kit raises an error that names the extra."""
    code = "import sys; sys.modules['pytest'] = None; import pytest_image_variation.conformance"
    completed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert "MissingExtraError: The conformance kit needs the package 'pytest'" in completed.stderr
    assert install_command("langchain-image-variation[pytest]") in completed.stderr


def test_help_works_without_the_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names whose extra is not installed are hidden from `help`."""
    for package in (*NAMES_OF_EXTRAS.values(), "uvicorn"):
        monkeypatch.setitem(sys.modules, package, None)
    members = dict(inspect.getmembers(langchain_image_variation))
    assert {*langchain_image_variation.__all__} <= {*members}
    assert not {*NAMES_OF_EXTRAS, "create_app"} & {*members}
