import doctest
import gc
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from PIL import Image

from langchain_image_variation import URLPolicy
from langchain_image_variation.agents.settings import ToolSettings
from langchain_image_variation.contract import MAX_N
from langchain_image_variation.images.png.chunks import MAX_CHUNKS
from langchain_image_variation.output import THUMBNAIL_SIDE
from langchain_image_variation.server import create_app
from langchain_image_variation.source import FORMATS, MAX_SOURCE_BYTES, MAX_SOURCE_PIXELS
from pytest_image_variation import plugin
from pytest_image_variation.conformance.client import CLIENT_RULES
from pytest_image_variation.conformance.engine import ENGINE_RULES
from pytest_image_variation.conformance.server import SERVER_RULES
from pytest_image_variation.scenarios import SCENARIOS
from tests.calling import PNG, success
from tests.conftest import Run
from tests.http.raw_server import raw_server, response
from tests.server.serving import installed_client, serving

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.M | re.S)


def blocks(language: str) -> list[Any]:
    """Return the blocks of one language, named by their first line."""
    return [
        pytest.param(text, id=text.partition("\n")[0][:50])
        for name, text in BLOCKS
        if name == language
    ]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the examples and a virtual environment that is already installed."""
    # Whoever tried the examples has results there.
    made = shutil.ignore_patterns("variations")
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=made)
    programs = {
        "bin/python3": f'[ "$2" = venv ] || exec {sys.executable} "$@"',
        ".venv/bin/pip": '[ "$1" = install ]',
        ".venv/bin/python": f'[ "$2" = pytest ] || exec {sys.executable} "$@"',
        ".venv/bin/image-variation": f'exec {sys.executable} -m langchain_image_variation "$@"',
    }
    for name, script in programs.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_block_is_of_a_kind_that_is_run() -> None:
    """A block in a language that no test below runs would go unchecked."""
    run = {"bash", "console", "javascript", "pycon", "python"}
    assert {language for language, _ in BLOCKS} - run == {"csharp", "ruby"}


@pytest.mark.parametrize("block", [*blocks("ruby"), *blocks("csharp")])
def test_blocks_that_are_not_run_name_what_the_server_says(block: str) -> None:
    """Ruby and C# take address and key from the same environment as the others."""
    assert "OPENAI_BASE_URL" in block
    assert "OPENAI_API_KEY" in block
    assert "256x256" in block.replace("W256xH256", "256x256")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server of ours, with the environment set as the README says."""
    with serving(create_app("instant", store_dir=tmp_path / "store")) as address:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{address}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "any-text")
        yield address


def test_the_server_is_started_as_shown() -> None:
    """The commands before the calls start it and set what it prints."""
    start, call = (text for language, text in BLOCKS if language == "bash")
    assert "\n.venv/bin/image-variation serve &\n" in start
    assert "OPENAI_BASE_URL=http://127.0.0.1:8000/v1" in start
    assert call.startswith("curl --retry 9 --retry-connrefused $OPENAI_BASE_URL/images/variations ")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_block_runs(server: str) -> None:
    """And prints two addresses."""
    call = [text for language, text in BLOCKS if language == "bash"][1]
    done = subprocess.run(
        ["bash", "-c", call], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.count('"url": ') == 2


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("javascript"))
def test_javascript_blocks_run(server: str, tmp_path: Path, block: str) -> None:
    """Under node, with the vendor's package."""
    package = installed_client("node-newest/node_modules/openai")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "openai").symlink_to(package)
    (tmp_path / "block.cjs").write_text(block)
    done = subprocess.run(
        ["node", "block.cjs"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "2\n", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("console"))
def test_console_sessions_run_as_shown(checkout: Path, block: str) -> None:
    """Each command prints what the README shows, hashes of pixels in file names included.

    What needs the network, making an environment and installing into it, is done already here;
    the gate runs those commands whole.
    """
    for session in re.split(r"^\$ ", block, flags=re.M)[1:]:
        command, _, shown = session.partition("\n")
        done = subprocess.run(
            ["bash", "-c", command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        assert done.stdout == shown


@pytest.mark.parametrize("block", blocks("pycon"))
def test_python_sessions_run_as_shown(checkout: Path, block: str) -> None:
    """Each interactive session gives the values that the README shows."""
    session = doctest.DocTestParser().get_doctest(block, {}, "README.md", "README.md", 0)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(session, out=report.append)
    assert not report, "".join(report)


class _ToolCaller(GenericFakeChatModel):
    def bind_tools(self, tools: Any, **options: Any) -> Any:
        """Take any tools: the answers are fixed."""
        return self


SUITES = [block for block in blocks("python") if "def test_" in block.values[0]]


@pytest.mark.parametrize("block", SUITES)
def test_blocks_with_tests_pass(run: Run, block: str) -> None:
    """Under pytest, with warnings as errors and no plugin but ours."""
    run(block).assert_outcomes(passed=block.count("def test_"))


KITS = [block for block in blocks("python") if "ConformanceTests" in block.values[0]]
LLAMA_INDEX = [block for block in blocks("python") if "llama_index" in block.values[0]]
PROGRAMS = [block for block in blocks("python") if block not in (*SUITES, *KITS, *LLAMA_INDEX)]
TOOL = next(text for name, text in BLOCKS if name == "python" and "tool = Image" in text)


@pytest.mark.parametrize("block", KITS)
def test_blocks_with_subclasses_of_the_kit_run(run: Run, server: str, block: str) -> None:
    """The rules are checked, on the server that the environment names and on the engine."""
    wanted = "answer-status or n-most or engine-same-again"
    result = run(block, "-k", wanted)
    assert result.parseoutcomes().keys() == {"passed", "deselected"}
    assert result.parseoutcomes()["passed"] == 4


def test_the_numbers_of_rules_are_those_of_the_readme() -> None:
    """Of each kind."""
    found = [int(n) for n in re.findall(r"(\d+) rules(?:,| about)", README)]
    assert found == [len(rules) for rules in (SERVER_RULES, CLIENT_RULES, ENGINE_RULES)]


def test_the_tables_of_the_plugin_are_whole() -> None:
    """Each fixture and option is in them, and each scenario but the many successes."""
    fixtures = {name for name, value in vars(plugin).items() if hasattr(value, "_fixture_function")}
    options = re.findall(r'"(--image-variation-[a-z-]+)"', (Path(plugin.__file__)).read_text())
    scenarios = {name for name in SCENARIOS if not re.match("success_(url|b64)_n", name)}
    for name in {name for name in fixtures if not name.startswith("_")} | scenarios:
        assert f"`{name}`" in README
    assert options
    for option in options:
        assert f"`{option} " in README


def rows(head: str) -> dict[str, str]:
    """Return the rows of the table that begins with `head`, by their first cells."""
    table = README.partition(head)[2].partition("\n\n")[0]
    return {row.split(" | ")[0].removeprefix("| "): row for row in table.splitlines()[2:]}


def test_the_table_of_settings_is_whole() -> None:
    """Each setting of the tool is in it, and no other, with the default of the code."""
    settings = rows("| setting | what it is | default |")
    names = [name for first in settings for name in re.findall(r"`(\w+)`", first)]
    assert sorted(names) == sorted(ToolSettings.model_fields)
    for name in ("engine", "fit", "output_dir"):
        default = ToolSettings.model_fields[name].default
        assert settings[f"`{name}`"].endswith(f'| `"{default}"` |')


def test_the_table_of_limits_says_those_of_the_code() -> None:
    """To the number."""
    limits = rows("| limit | value | setting |")
    urls = URLPolicy(hosts=["images.example.com"])
    megabytes, seconds = urls.max_bytes // 2**20, f"{urls.timeout:.0f}"
    for limit, value in {
        "bytes of a source": f"{MAX_SOURCE_BYTES // 2**20} MiB,",
        "pixels of a source": f"{MAX_SOURCE_PIXELS:,},",
        "chunks of a PNG": f"{MAX_CHUNKS:,},",
        "variations a call": f"{MAX_N} |",
        "thumbnail": f"none; {THUMBNAIL_SIDE} pixels a side",
        "pictures from URLs": (
            f"none; {megabytes} MiB, {seconds} seconds, {urls.max_redirects} redirects"
        ),
    }.items():
        assert limits[limit].startswith(f"| {limit} | {value}")
    assert limits["formats"].upper().startswith(f"| FORMATS | {', '.join(FORMATS)},")
    for setting in re.findall(r"`(\w+)` \|$", "\n".join(limits.values()), flags=re.M):
        assert setting in ToolSettings.model_fields


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
@pytest.mark.parametrize("block", PROGRAMS)
def test_python_blocks_run(checkout: Path, block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block runs; where the README says `model`, a scripted one calls the tool once.

    `tool` is the tool of the block that makes one. `OPENAI_BASE_URL` names a server on loopback.
    """
    arguments = {"image": "chelsea.png", "n": 3, "size": "256x256"}
    call = {"name": "image_variation", "args": arguments, "id": "1", "type": "tool_call"}
    answers = [AIMessage("", tool_calls=[call]), AIMessage("Done.")]
    names: dict[str, Any] = {"model": _ToolCaller(messages=iter(answers))}
    exec(compile(TOOL, "README.md", "exec"), names)
    with raw_server(response(200, success(2))) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "any-text")
        exec(compile(block, "README.md", "exec"), names)
        if "client" in names:
            names["client"].close()
    if "invoke(" in block:
        assert len(list(Path("examples/variations").rglob("*.png"))) in (2, 3)
    if "openai" in block:
        assert len(names["response"].data) == 2
    elif "client.images" in block:
        assert names["pictures"] == [PNG, PNG]


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
# A Memory of LlamaIndex has nothing with which to close its database.
@pytest.mark.filterwarnings("ignore:.*was deleted before being closed:ResourceWarning")
@pytest.mark.parametrize("block", LLAMA_INDEX)
def test_llama_index_blocks_run(
    checkout: Path, block: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the extra is installed; a scripted model is told what was said and made before."""
    pytest.importorskip("llama_index.core")
    from tests.agents.llama import Turn, asks, says, scripted

    def turn(answer: Callable[[list[str]], Turn]) -> Turn:
        return lambda messages: answer([str(message.content) for message in messages])(messages)

    def vary_the_last(said: list[str]) -> Turn:
        assert any("Make three variations" in text for text in said)
        return asks(image="latest", size="256x256")

    repeat = turn(lambda said: says(said[-1]))
    first = asks(image="chelsea.png", n=3, size="256x256")
    llm = scripted(first, repeat, turn(vary_the_last), repeat)
    names = {"llm": llm}
    exec(compile(block, "README.md", "exec"), names)
    names.clear()
    gc.collect()
    made, again = re.findall("^Answer: (.*)", capsys.readouterr().out, flags=re.M)
    third = re.findall(r"chelsea-[0-9a-f]{8}-3", made)
    assert f"Made 1 variation of {third[0]}," in again


def test_the_llama_index_example_runs(checkout: Path) -> None:
    """Offline, without a key, and it says what was made and how the mistake was mended."""
    pytest.importorskip("llama_index.core")
    script = Path("examples", "llama_index_agent.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("image_variation: Made ") == 2
    assert "There is no image 'cat.png' here." in done.stdout
    assert len(list(Path("examples/variations").rglob("*.png"))) == 4


@pytest.mark.slow
def test_the_example_script_draws_the_sheet(tmp_path: Path) -> None:
    """The script that drew the README's picture runs, and draws it at the same size."""
    sheet = tmp_path / "sheet.jpg"
    script = ROOT / "examples" / "contact_sheet.py"
    subprocess.run([sys.executable, script, "--output", sheet], check=True, timeout=120)
    with Image.open(sheet) as drawn, Image.open(script.with_name("contact-sheet.jpg")) as shown:
        assert drawn.size == shown.size


def test_the_gate_runs_the_two_commands_of_the_readme() -> None:
    """It finds both set-up commands, word for word, and the lines that the first one prints."""
    readme_commands = runpy.run_path(str(ROOT / ".ci" / "environments.py"))["readme_commands"]
    (create, printed), (test, nothing) = readme_commands(README)
    assert "image-variation create" in create
    assert len(printed) == 6
    assert ".venv/bin/python -m pytest" in test
    assert nothing == []
    assert all(f"$ {command}\n" in README for command in (create, test))


def test_the_gate_lists_its_steps_and_refuses_others() -> None:
    """Each step has a line that says what it checks; a name that it does not know runs nothing."""

    def gate(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = ["bash", str(ROOT / ".ci" / "run"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    lines = gate("--list").stdout.splitlines()
    assert len(lines) >= 15
    assert all(re.fullmatch(r"[a-z0-9-]+ +[A-Z].+\.", line) for line in lines)
    refused = gate("lint", "no-such-step")
    assert refused.returncode == 2
    assert "no step is named 'no-such-step'" in refused.stderr


def test_the_pictures_of_the_readme_exist_and_are_small() -> None:
    """Pictures that the README shows are in the tree, under 400 KB; photos under 600 KB."""
    for path in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README):
        assert (ROOT / path).stat().st_size < 400_000
    credits = (ROOT / "examples" / "README.md").read_text()
    photos = [
        path
        for path in (ROOT / "examples").iterdir()
        if path.suffix in (".png", ".jpg") and path.stem != "contact-sheet"
    ]
    assert len(photos) >= 3
    for path in photos:
        assert path.stat().st_size <= 600_000
        assert path.name in credits
