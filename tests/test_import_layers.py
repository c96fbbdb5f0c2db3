import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("langchain_image_variation", "pytest_image_variation")

LAYERS = {
    "exceptions": 0,
    "jpeg": 0,
    "tiff": 0,
    "unfinished": 0,
    "color": 1,
    "png": 1,
    "work": 1,
    "contract": 2,
    "pixels": 2,
    "error_response": 3,
    "engines": 3,
    "output": 3,
    "arguments": 3,
    "conversation": 1,
    "folder": 3,
    "square": 3,
    "jobs": 3,
    "file_system": 1,
    "output_folder": 1,
    "placement": 1,
    "output_storage": 2,
    "lazy_engine": 4,
    "usage": 3,
    "results": 4,
    "http": 4,
    "source": 5,
    "source_pictures": 6,
    "batch_rows": 7,
    "batch": 8,
    "bulk": 9,
    "gallery": 6,
    "storage": 6,
    "cache": 6,
    "client": 6,
    "engines.gpt_image": 7,
    "engines.variations": 7,
    "calls": 7,
    "messages": 7,
    "chat_messages": 7,
    "tool": 8,
    "tool_spec": 8,
    "server": 8,
    "cli": 10,
    "__init__": 11,
    "__main__": 11,
}
LIBRARIES = {
    "exceptions": set[str](),
    "jpeg": set[str](),
    "tiff": set[str](),
    "unfinished": set[str](),
    "color": {"PIL", "numpy"},
    "png": set[str](),
    "work": set[str](),
    "contract": {"pydantic", "pydantic_core"},
    "pixels": {"PIL", "numpy"},
    "error_response": {"pydantic_core"},
    "engines": {"PIL", "numpy"},
    "http": {"anyio", "httpcore", "httpx", "pydantic", "pydantic_core"},
    "client": {"httpx", "pydantic"},
    "engines.gpt_image": {"httpx", "pydantic"},
    "engines.variations": {"httpx", "pydantic"},
    "source": {"PIL"},
    "square": {"PIL"},
    "output": {"PIL"},
    "arguments": {"pydantic"},
    "conversation": set[str](),
    "folder": set[str](),
    "jobs": set[str](),
    "file_system": {"fsspec"},
    "output_folder": set[str](),
    "placement": set[str](),
    "output_storage": set[str](),
    "lazy_engine": set[str](),
    "batch_rows": set[str](),
    "source_pictures": set[str](),
    "batch": set[str](),
    "bulk": {"PIL", "pyarrow", "ray", "tqdm"},
    "usage": set[str](),
    "results": set[str](),
    "storage": set[str](),
    "cache": {"pydantic"},
    "gallery": set[str](),
    "calls": {"pydantic"},
    "messages": {"langchain_core"},
    "chat_messages": {"llama_index"},
    "tool": {"langchain_core", "pydantic"},
    "tool_spec": {"llama_index", "pydantic", "workflows"},
    "cli": {"tqdm"},
    "server": {
        "anyio",
        "platformdirs",
        "prometheus_client",
        "pydantic",
        "python_multipart",
        "starlette",
        "uvicorn",
    },
    "__init__": set[str](),
    "__main__": set[str](),
}
PLUGIN = {
    "__init__": (0, set[str]()),
    "samples": (0, {"PIL"}),
    "scenarios": (0, set[str]()),
    "form": (1, {"PIL"}),
    "assertions": (1, set[str]()),
    "expectation": (2, set[str]()),
    "persister": (2, set[str]()),
    "vcr_form": (2, set[str]()),
    "redaction": (3, set[str]()),
    "recording": (4, set[str]()),
    "door": (3, set[str]()),
    "loopback": (5, {"starlette", "uvicorn"}),
    "live": (5, {"httpx", "pytest", "vcr"}),
    "replay": (5, {"httpx", "vcr"}),
    "record": (6, {"httpx", "vcr", "yaml"}),
    "conformance": (6, set[str]()),
    "marker": (6, {"pytest"}),
    "options": (7, {"pytest"}),
    "plugin": (8, {"httpx", "pytest"}),
}
CONFORMANCE = {
    "rule": (0, set[str]()),
    "capabilities": (0, set[str]()),
    "pictures": (0, {"PIL"}),
    "answer": (1, {"PIL", "httpx"}),
    "question": (1, set[str]()),
    "target": (1, {"httpx"}),
    "verdict": (1, {"pytest"}),
    "server_probe": (2, {"httpx"}),
    "engine_probe": (2, set[str]()),
    "client_probe": (2, set[str]()),
    "request_rules": (3, set[str]()),
    "answer_rules": (3, set[str]()),
    "engine_rules": (3, {"PIL"}),
    "client_rules": (3, {"PIL"}),
    "error_rules": (4, set[str]()),
    "traffic_rules": (4, set[str]()),
    "url_rules": (4, {"httpx"}),
    "server": (5, {"pytest"}),
    "engine": (5, {"pytest"}),
    "client": (5, {"pytest"}),
    "lists": (6, {"pytest"}),
    "report": (6, {"pytest"}),
    "test_server": (6, set[str]()),
    "__init__": (6, set[str]()),
}
STANDARD = __import__("sys").stdlib_module_names
FILES = sorted((ROOT / OURS[0]).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Return the modules a file imports, at whatever depth in the code, by their full names."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute: one path per name"
            names.add(str(node.module))
            # `from package import module` imports the module too.
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def unit(path: Path) -> str:
    """Return which row of the table a file belongs to: its module, or its subpackage."""
    return row(list(path.relative_to(ROOT / OURS[0]).with_suffix("").parts))


def row(parts: list[str]) -> str:
    """Return the row of a module by the parts of its name: engines that ask servers have one."""
    return next((name for name in (".".join(parts[:2]), parts[0]) if name in LAYERS), "__init__")


@pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(ROOT)) for p in FILES])
def test_imports_point_down(path: Path) -> None:
    """A module imports only lower layers, no sibling, and only its own libraries."""
    here = unit(path)
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == OURS[0]:
            other = row(parts[1:]) if len(parts) > 1 else "__init__"
            if here == "__init__" or other == here:
                continue
            if other == "__init__":
                assert parts[1:] in ([], ["__version__"]), f"{here} imports the root's {name}"
                continue
            if here == "__main__":
                continue
            assert LAYERS[other] < LAYERS[here], f"{here} imports {other}"
        elif parts[0] not in STANDARD:
            assert parts[0] in LIBRARIES[here], f"{here} imports {name}"


def test_every_module_has_a_place_in_the_table() -> None:
    """A new module must be given its layer here."""
    assert {unit(path) for path in FILES} == LAYERS.keys() == LIBRARIES.keys()


def test_nothing_imports_the_pytest_package() -> None:
    """The library stands without its test helpers, and they do not touch tool or cli."""
    for path in FILES:
        assert not any(name.startswith(OURS[1]) for name in imported(path))
    for path in (ROOT / OURS[1]).rglob("*.py"):
        forbidden = {f"{OURS[0]}.{module}" for module in ("tool", "tool_spec", "cli")}
        assert not imported(path) & forbidden


PLUGIN_FILES = sorted((ROOT / OURS[1]).rglob("*.py"))


@pytest.mark.parametrize("path", PLUGIN_FILES, ids=[str(p.relative_to(ROOT)) for p in PLUGIN_FILES])
def test_imports_of_the_pytest_package_point_down(path: Path) -> None:
    """Its modules have layers and libraries of their own, and so has the kit inside it."""
    in_the_kit = path.parent.name == "conformance"
    layer, libraries = (CONFORMANCE if in_the_kit else PLUGIN)[path.stem]
    for name in imported(path):
        parts = name.split(".")
        if parts[:2] == [OURS[1], "conformance"] and in_the_kit:
            others = [part for part in parts[2:3] if part in CONFORMANCE]
            assert all(CONFORMANCE[other][0] < layer for other in others), f"{path} imports {name}"
        elif parts[0] == OURS[1]:
            own = PLUGIN["conformance"][0] if in_the_kit else layer
            others = [part for part in parts[1:2] if part in PLUGIN]
            assert all(PLUGIN[other][0] < own for other in others), f"{path} imports {name}"
        elif parts[0] != OURS[0] and parts[0] not in STANDARD:
            assert parts[0] in libraries, f"{path} imports {name}"


def test_the_plugin_loads_nothing_but_pytest() -> None:
    """What its modules import at the top is of the standard library, pytest, or each other."""
    own = ("plugin", "options", "marker")
    for name in own:
        for node in ast.parse((ROOT / OURS[1] / f"{name}.py").read_text()).body:
            if isinstance(node, ast.Import):
                assert all(alias.name in {"pytest", *STANDARD} for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.module is not None
                if node.module == OURS[1]:
                    assert all(alias.name in own for alias in node.names)
                else:
                    first = node.module.partition(".")[0]
                    assert first in STANDARD or node.module == f"{OURS[1]}.marker"
