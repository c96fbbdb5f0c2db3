import ast
import re
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
OURS = ("langchain_image_variation", "pytest_image_variation")

# One row per room: its layer, and the libraries that it may import. A room imports only rooms in
# lower layers, so no two rooms import each other. ARCHITECTURE.md describes each room.
ROOMS = {
    "exceptions": (0, set[str]()),
    "cancellation": (1, set[str]()),
    "error_translation": (1, set[str]()),
    "numbers": (1, set[str]()),
    "progress_bar": (1, {"tqdm"}),
    "files": (2, {"fsspec"}),
    "http": (2, {"anyio", "httpcore", "httpx"}),
    "images": (2, {"PIL", "numpy", "pillow_heif"}),
    "contract": (3, {"pydantic", "pydantic_core"}),
    "source": (3, {"PIL"}),
    "engines": (
        4,
        {
            *(
                "PIL",
                "accelerate",
                "diffusers",
                "huggingface_hub",
                "numpy",
                "psutil",
                "safetensors",
                "torch",
                "tqdm",
            ),
            "transformers",
        },
    ),
    "error_response": (4, {"pydantic_core"}),
    "output": (4, {"PIL"}),
    "agents": (
        5,
        {"langchain", "langchain_core", "langgraph", "llama_index", "pydantic", "workflows"},
    ),
    "batch": (5, {"PIL", "pyarrow", "ray"}),
    "hosted": (5, {"anyio", "httpx", "pydantic", "pydantic_core"}),
    "server": (
        5,
        {
            *("anyio", "h11", "httpcore", "httpx", "platformdirs", "prometheus_client"),
            *("pydantic", "pydantic_core", "python_multipart", "ray", "starlette", "uvicorn"),
            "yaml",
        },
    ),
    "mcp": (6, {"PIL", "mcp", "mcp_types", "pydantic", "starlette", "uvicorn"}),
    "cli": (7, {"anyio", "shtab", "tqdm", "yaml"}),
    "__init__": (8, set[str]()),
    "__main__": (8, set[str]()),
}
# Libraries that only these modules of a room may import.
FRAMEWORKS = {
    "langchain": {"agents.middleware"},
    "langchain_core": {
        *("agents.graph_state", "agents.langchain_messages", "agents.middleware"),
        *("agents.progress_events", "agents.tool"),
    },
    "langgraph": {"agents.graph_state", "agents.middleware"},
    "llama_index": {"agents.llama_index_messages", "agents.tool_spec"},
    "pillow_heif": {"images.heic"},
    "pyarrow": {
        *("batch.manifest", "batch.ray.actor", "batch.ray.cluster", "batch.ray.cluster_run"),
    },
    "ray": {
        *("batch.ray.actor", "batch.ray.cluster", "batch.ray.cluster_run"),
        *("server.ray.application", "server.ray.remote_engine", "server.ray.replica"),
    },
    "workflows": {"agents.tool_spec"},
}
PLUGIN = {
    "__init__": (0, set[str]()),
    "samples": (0, {"PIL"}),
    "scenarios": (0, set[str]()),
    "assertions": (1, set[str]()),
    "forms": (1, {"PIL"}),
    "expectations": (2, set[str]()),
    "redaction": (2, set[str]()),
    "session": (3, set[str]()),
    "vcr_settings": (3, set[str]()),
    "live_session": (4, {"httpx", "pytest", "vcr"}),
    "loopback_session": (4, {"starlette"}),
    "replay": (4, {"httpx", "vcr"}),
    "loopback": (5, {"starlette", "uvicorn"}),
    "marker": (5, {"pytest"}),
    "conformance": (6, set[str]()),
    "record_cassettes": (6, {"httpx", "vcr", "yaml"}),
    "item_session": (7, {"pytest"}),
    "kit_reporter": (7, {"pytest"}),
    "lazy_loopback": (7, {"pytest"}),
    "options": (7, {"pytest"}),
    "plugin": (8, {"httpx", "pytest"}),
}
CONFORMANCE = {
    "capabilities": (0, set[str]()),
    "images": (0, {"PIL"}),
    "returned_image": (0, {"PIL"}),
    "rule": (0, set[str]()),
    "probe_request": (1, set[str]()),
    "probe_response": (1, {"httpx"}),
    "rule_tests": (1, {"pytest"}),
    "server": (1, {"httpx"}),
    "client_probe": (2, set[str]()),
    "engine_probe": (2, set[str]()),
    "server_probe": (2, {"httpx"}),
    "acceptance_rules": (3, set[str]()),
    "client_rules": (3, set[str]()),
    "engine_rules": (3, set[str]()),
    "error_rules": (3, set[str]()),
    "key_rules": (3, set[str]()),
    "model_rules": (3, set[str]()),
    "refusal_rules": (3, set[str]()),
    "response_rules": (3, set[str]()),
    "traffic_rules": (3, set[str]()),
    "url_rules": (3, {"httpx"}),
    "client_tests": (4, {"pytest"}),
    "engine_tests": (4, {"pytest"}),
    "server_tests": (4, {"pytest"}),
    "report": (5, {"pytest"}),
    "rule_lists": (5, {"pytest"}),
    "test_server": (5, set[str]()),
    "__init__": (5, set[str]()),
}
STANDARD = __import__("sys").stdlib_module_names
FILES = sorted((ROOT / OURS[0]).rglob("*.py"))
TOPS = (ROOT, *(ROOT / name for name in OURS))


@cache
def imports_of(path: Path) -> list[ast.Import | ast.ImportFrom]:
    """Return the imports anywhere in the code of a file."""
    tree = ast.parse(path.read_text())
    return [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


def imported_names(path: Path) -> set[str]:
    """Return the full names of what a file imports anywhere in its code, and their modules."""
    names: set[str] = set()
    for node in imports_of(path):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        else:
            assert node.level == 0, "imports are absolute: one path per name"
            names.add(str(node.module))
            # `from package import module` imports the module too.
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def module_name(path: Path) -> str:
    """Return the name of a module below the package, such as `images.png`."""
    parts = path.relative_to(ROOT / OURS[0]).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and parts[1:] else parts)


def room_of(name: str) -> str:
    """Return the room that a name below the package belongs to: its first part."""
    first = name.partition(".")[0]
    return first if first in ROOMS else "__init__"


def test_imports_point_down() -> None:
    """A module imports its own room, lower rooms and the libraries of its room."""
    for path in FILES:
        module = module_name(path)
        room = room_of(module)
        layer, libraries = ROOMS[room]
        for name in imported_names(path):
            package, _, rest = name.partition(".")
            if package == OURS[0]:
                other_room = room_of(rest)
                if room in ("__init__", other_room) or rest in ("", "__version__"):
                    continue
                assert ROOMS[other_room][0] < layer, f"{module} imports {name}"
            elif package not in STANDARD:
                assert package in libraries, f"{module} imports {name}"
                assert module in FRAMEWORKS.get(package, {module}), f"{module} imports {name}"


def test_every_room_has_a_row() -> None:
    """Every room has a row in the table of layers."""
    assert {room_of(module_name(path)) for path in FILES} == ROOMS.keys()
    flat = {path.stem for path in FILES if path.parent == ROOT / OURS[0]}
    assert flat <= ROOMS.keys()


def test_the_map_lists_the_rooms_and_floors() -> None:
    """ARCHITECTURE.md has one row for each room, in the order of their layers."""
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| .+ \|$", text, re.MULTILINE)
    floors = sorted((layer, room) for room, (layer, _) in ROOMS.items())
    assert [(int(layer), room) for layer, room in rows] == floors


def test_the_map_names_paths_that_exist() -> None:
    """The modules, folders and app state that the pages for maintainers name exist."""
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    for page in (text, (ROOT / "CONTRIBUTING.md").read_text("utf-8")):
        paths = set(re.findall(r"`([a-z_]+/[a-z_/]*(?:\.py)?)`", page))
        assert len(paths) > 10
        assert not [path for path in paths if not any((top / path).exists() for top in TOPS)]
    state = text.partition("`app.state` holds")[2].partition("\n\n")[0]
    app = (ROOT / OURS[0] / "server" / "app.py").read_text("utf-8")
    assert set(re.findall(r"`(\w+)`", state)) == set(re.findall(r"app\.state\.(\w+) =", app))


def test_the_client_knows_no_service() -> None:
    """`hosted/services` is built on the other modules of its room, and they do not import it."""
    folder = ROOT / OURS[0] / "hosted"
    names = {name for path in folder.glob("*.py") for name in imported_names(path)}
    assert not [name for name in names if name.startswith(f"{OURS[0]}.hosted.services")]


def test_the_contract_has_one_path_per_name() -> None:
    """Other rooms and the pytest package import the contract's public names from its package."""
    package = f"{OURS[0]}.contract"
    parts = {f"{package}.{name}" for name in ("image", "request", "response")}
    for path in (*FILES, *(ROOT / OURS[1]).rglob("*.py")):
        if path.parent.name != "contract":
            assert not imported_names(path) & parts, path


def test_no_modules_import_each_other() -> None:
    """Imports form no cycle, even within a room and if they are inside functions."""
    modules = {module_name(path): path for path in FILES}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        imports = set()
        for node in imports_of(path):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith(OURS[0]):
                source = str(node.module).removeprefix(OURS[0]).removeprefix(".")
                for alias in node.names:
                    # A name is a module, or a part of the module that it is imported from.
                    name = f"{source}.{alias.name}".removeprefix(".")
                    imports.add(name if name in modules else source)
        graph[module] = (imports & modules.keys()) - {module}
    TopologicalSorter(graph).prepare()


def test_nothing_imports_the_pytest_package() -> None:
    """The library does not import the pytest package, which imports neither agents nor cli."""
    for path in FILES:
        assert not any(name.startswith(OURS[1]) for name in imported_names(path))
    for path in (ROOT / OURS[1]).rglob("*.py"):
        forbidden = {f"{OURS[0]}.{module}" for module in ("agents", "cli")}
        assert not {".".join(name.split(".")[:2]) for name in imported_names(path)} & forbidden


def test_imports_of_the_pytest_package_point_down() -> None:
    """Modules of the pytest package, and of the kit inside it, import only lower layers."""
    for path in sorted((ROOT / OURS[1]).rglob("*.py")):
        in_the_kit = path.parent.name == "conformance"
        layer, libraries = (CONFORMANCE if in_the_kit else PLUGIN)[path.stem]
        for name in imported_names(path):
            message = f"{path} imports {name}"
            parts = name.split(".")
            if parts[:2] == [OURS[1], "conformance"] and in_the_kit:
                others = [part for part in parts[2:3] if part in CONFORMANCE]
                assert all(CONFORMANCE[other][0] < layer for other in others), message
            elif parts[0] == OURS[1]:
                own_layer = PLUGIN["conformance"][0] if in_the_kit else layer
                others = [part for part in parts[1:2] if part in PLUGIN]
                assert all(PLUGIN[other][0] < own_layer for other in others), message
            elif parts[0] != OURS[0] and parts[0] not in STANDARD:
                assert parts[0] in libraries, message


def test_the_plugin_loads_nothing_but_pytest() -> None:
    """The plugin's modules import at the top only the standard library, pytest and each other."""
    own_modules = ("item_session", "kit_reporter", "lazy_loopback", "marker", "options", "plugin")
    for name in own_modules:
        for node in ast.parse((ROOT / OURS[1] / f"{name}.py").read_text()).body:
            if isinstance(node, ast.Import):
                assert all(alias.name in {"pytest", *STANDARD} for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.module is not None
                if node.module == OURS[1]:
                    assert all(alias.name in own_modules for alias in node.names)
                else:
                    first = node.module.partition(".")[0]
                    modules = [f"{OURS[1]}.{module}" for module in own_modules]
                    assert first in STANDARD or node.module in modules
