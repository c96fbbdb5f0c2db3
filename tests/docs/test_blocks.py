import ast
import gc
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run
from tests.docs.pages import PAGES, Block, Page, blocks_of, blocks_where, find_page, pages_with
from tests.docs.running import check_excuse, run_python
from tests.docs.shell import Shell
from tests.extras import skip_without, skip_without_imports
from tests.server.ports import free_port
from tests.server.serving import installed_client

SERVED = re.compile(r"(127\.0\.0\.1|localhost):8000")
"""The address of `image-variation serve`, which the tests serve on another port."""
DIFFUSERS = re.compile(r"--engine diffusers|DiffusersEngine|load_engine\(\"diffusers\"")
"""Uses of the engine `diffusers`, for which the Hub has a tiny model, and so has `my-model`."""


def test_every_fence_is_a_block() -> None:
    """Every fence is a block that the tests understand, so that none goes unchecked."""
    for page in PAGES:
        assert len(re.findall(r"^ *```", page.text, re.MULTILINE)) == 2 * len(page.blocks)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_block_runs_or_gives_a_reason(page: Page) -> None:
    """A block runs, or the comment right above it gives the reason why not."""
    for block in page.blocks:
        check_excuse(block)


def parse_yaml(text: str) -> None:
    """Parse YAML, or skip the test without PyYAML."""
    pytest.importorskip("yaml").safe_load(text)


def parse_shell(text: str) -> None:
    """Let bash parse commands without running them."""
    subprocess.run(["bash", "-n", "-c", text], check=True, timeout=60)


PARSERS: dict[str, Callable[[str], object]] = {
    "bash": parse_shell,
    "json": json.loads,
    "python": ast.parse,
    "toml": tomllib.loads,
    "yaml": parse_yaml,
}


@pytest.mark.parametrize(
    "block", blocks_where(lambda block: bool(block.reason) and block.language in PARSERS)
)
def test_blocks_that_do_not_run_parse(block: Block) -> None:
    """A block that does not run is at least valid, if its language can be parsed here."""
    PARSERS[block.language](block.text)


OTHER_SDKS = ("csharp", "go", "java", "php", "ruby")


@pytest.mark.parametrize("block", blocks_where(lambda block: block.language in OTHER_SDKS))
def test_other_languages_use_the_same_server(block: Block) -> None:
    """Blocks in other languages get the address and the key from the same environment."""
    assert "OPENAI_BASE_URL" in block.text
    assert "OPENAI_API_KEY" in block.text
    assert "256x256" in block.text.replace("W256xH256", "256x256")


def write_files(page: Page, folder: Path) -> None:
    """Write the page's titled blocks, so that its other blocks can use them as files."""
    for block in page.blocks:
        if block.title and block.reason is None:
            (folder / block.title).write_text(block.text, "utf-8")


# A Memory of LlamaIndex offers no way to close its database.
@pytest.mark.filterwarnings("ignore:.*was deleted before being closed:ResourceWarning")
@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
@pytest.mark.parametrize("page", pages_with("program"))
def test_python_blocks_run(
    checkout: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    page: Page,
) -> None:
    """A page's Python blocks run in order in one namespace, and sessions print what it shows.

    `model` and `llm` are chat models that need no service. OPENAI_BASE_URL names a server of ours
    on loopback, which also replaces the one on port 8000.
    """
    blocks = page.running("program")
    source = "\n".join(block.text for block in blocks)
    skip_without_imports(source.replace(">>> ", ""))
    if DIFFUSERS.search(source):
        request.getfixturevalue("models")
    names: dict[str, Any] = {"__name__": "__main__"}
    if re.search(r"\bmodel\b", source):
        from tests.docs.models import Caller

        names["model"] = Caller()
    if re.search(r"\bllm\b", source):
        from tests.docs.models import llama_index_model

        names["llm"] = llama_index_model()
    address = "127.0.0.1:8000"
    if SERVED.search(source) or re.search("Client|OpenAI|OPENAI", source):
        skip_without("starlette")
        address = request.getfixturevalue("server").removeprefix("http://")
    write_files(page, checkout)
    modules_before = set(sys.modules)
    try:
        for block in blocks:
            run_python(block, SERVED.sub(address, block.text), names)
        for name in ("client", "vendor"):
            if hasattr(names.get(name), "close"):
                names[name].close()
    finally:
        for block in page.blocks:
            if (module := block.title.removesuffix(".py")) not in modules_before:
                sys.modules.pop(module, None)
    names.clear()
    gc.collect()
    # What is left are the modules that the page imported. The next page need not look at them.
    gc.freeze()
    if "agent.invoke(" in source or "agent.run(" in source:
        assert len(list(Path("examples/variations").rglob("*.png"))) >= 3
    if "agent.run(" in source:
        first, second = re.findall("^Answer: (.*)", capsys.readouterr().out, re.MULTILINE)
        third = re.findall(r"chelsea-[0-9a-f]{8}-3", first)
        assert f"Made 1 variation of {third[0]}," in second


@pytest.mark.parametrize("block", blocks_of("suite"))
def test_suites_pass(run: Run, pytester: pytest.Pytester, block: Block) -> None:
    """The pages' test suites pass with warnings as errors and no plugin but ours."""
    write_files(find_page(block.page), pytester.path)
    if block.title:
        (pytester.path / block.title).unlink()
    run(block.text).assert_outcomes(passed=block.text.count("def test_"))


WANTED = {"ServerConformanceTests": 2, "EngineConformanceTests": 2, "ClientConformanceTests": 1}
"""How many rules of each kind the next test checks; all of them run elsewhere."""


@pytest.mark.parametrize("block", blocks_of("kit"))
def test_subclasses_of_the_kit_run(
    run: Run, pytester: pytest.Pytester, server: str, block: Block
) -> None:
    """Subclasses of the kit check rules on the environment's server and on the engine."""
    write_files(find_page(block.page), pytester.path)
    if block.title:
        (pytester.path / block.title).unlink()
    selection = "answer-status or n-most or engine-same-again or client-asks"
    result = run(block.text, "-k", selection).parseoutcomes()
    assert result.keys() == {"passed", "deselected"}
    classes = re.findall(r"^class \w+\((\w+)\)", block.text, re.MULTILINE)
    assert result["passed"] == sum(WANTED[name] for name in classes)


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with("shell"))
def test_commands_run_as_shown(
    checkout: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, page: Page
) -> None:
    """A page's commands run in one shell, and console sessions print what the page shows.

    Creating an environment and installing into it need the network, so both are done in advance.
    The gate runs those commands of the README in full. `image-variation serve` gets a free port.
    """
    blocks = page.running("shell")
    if any("curl" in block.text for block in blocks) and not shutil.which("curl"):
        pytest.skip("curl is not installed")
    if any(DIFFUSERS.search(block.text) for block in blocks):
        request.getfixturevalue("models")
    for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    port = free_port()
    write_files(page, checkout)
    serve_on(port, checkout)
    with Shell(checkout) as shell:
        for block in blocks:
            text = SERVED.sub(rf"\1:{port}", block.text)
            if block.language == "console":
                for session in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
                    # A backslash continues a command on the next line.
                    parts = [*re.split(r"(?<!\\)\n", session, maxsplit=1), ""]
                    command, expected_output = parts[:2]
                    assert shell.run(command)[0] == expected_output, command
                continue
            output, status = shell.run(f"set -e\n{text}\nset +e")
            assert status == 0, output
            if count := re.search(r"curl [\s\S]*-F n=(\d+)", text):
                assert output.count('"url": ') == int(count[1])


def serve_on(port: int, folder: Path) -> None:
    """Let the page's `image-variation serve` listen on this port, and log to a file."""
    command = f'exec {sys.executable} -m langchain_image_variation "$@" --port {port}'
    case = f'[ "$1" != serve ] || {command} >{folder}/served.log 2>&1\n'
    for program in (folder / "bin/image-variation", folder / ".venv/bin/image-variation"):
        shebang, rest = program.read_text().split("\n", 1)
        program.write_text(f"{shebang}\n{case}{rest}")


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks_of("javascript"))
def test_javascript_blocks_run(server: str, checkout: Path, block: Block) -> None:
    """JavaScript blocks run under Node with the vendor's package."""
    package = installed_client("node-newest/node_modules/openai")
    (checkout / "node_modules").mkdir()
    (checkout / "node_modules" / "openai").symlink_to(package)
    (checkout / "block.cjs").write_text(block.text)
    done = subprocess.run(
        ["node", "block.cjs"], cwd=checkout, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "2\n", done.stderr
