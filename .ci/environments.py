"""The gate's commands and environments: a fresh copy of the tree, uv, and pytest's results."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

SUPPORTED = [(3, 11), (3, 12), (3, 13), (3, 14)]

gaps: list[str] = []
"""What could not be checked because this machine lacks something, in order."""
outcomes: Counter[str] = Counter()
"""The number of tests that passed, failed and so on in this step."""
skips: list[str] = []
"""Why tests were skipped in this step, apart from those of the conformance kit."""
STOP_SECONDS = 10
"""How long an interrupted command may take to exit before it is killed."""

OTHER_STEPS = r"llama.?index|'ray|'s3fs'|'pandas'|'playwright|openai-responses|cassetter|"
OTHER_STEPS += "'deepagents|aimock-pytest|pytest-vcr|pytest-httpx|pytest-randomly|respx"
OTHER_STEPS += r"|'kubernetes_validate|'agents'|\bmcp(_types)?\b|\bray\b"
OTHER_STEPS += "|'autogen.|'crewai|'langchain.|'pydantic.ai|'semantic.k|'smolagents"
OTHER_STEPS += r"|\bdiffusers\b|'torch|'fal_client|'replicate"
OTHER_STEPS += "|'chainlit|'gradio|'streamlit"
"""A pattern of the skip reasons that name what other steps install and check."""


def run(
    *command: str | Path, settings: Mapping[str, str] | None = None, cwd: Path | None = None
) -> str:
    """Run a command in the copy of the tree, print its output as it arrives, and return it.

    An exception while it runs, such as an interruption, also stops the command's children.

    Args:
        command: The program and its arguments.
        settings: Environment variables.
        cwd: The folder to run in, by default the root of the copy.

    Raises:
        CalledProcessError: If the command fails.
    """
    words = [str(word) for word in command]
    settings_shown = [f"{name}={value}" for name, value in (settings or {}).items()]
    print("\n$", shlex.join([*settings_shown, *words]), flush=True)
    variables = {**os.environ, **(settings or {})}
    # Without bytecode, each of the thousands of processes would compile every module it imports.
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    process = subprocess.Popen(
        words,
        cwd=cwd or tree(),
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    assert process.stdout is not None
    lines = []
    try:
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
        process.wait()
    except BaseException:
        _stop(process)
        raise
    output = "".join(lines)
    _read_summary(output)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words, output)
    return output


def run_every_test(
    python: Path, *arguments: str | Path, settings: Mapping[str, str] | None = None
) -> None:
    """Run tests, including slow ones, in an environment that has everything they need.

    Args:
        python: The Python of the environment.
        arguments: The arguments of pytest.
        settings: Environment variables.

    Raises:
        AssertionError: If tests were skipped.
        CalledProcessError: If a test failed, or if there are no tests.
    """
    output = run(python, "-m", "pytest", "--quiet", "--all", *arguments, settings=settings)
    skipped = _count_outcomes(output)["skipped"]
    assert not skipped, f"{skipped} tests or files were skipped, and this step must run all."


def _stop(process: "subprocess.Popen[str]") -> None:
    """Stop a command and the processes of its session, and wait for the command."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)


def note_unchecked(what: str) -> None:
    """Add something that could not be checked, unless it is listed already."""
    if what not in gaps:
        gaps.append(what)


def _count_outcomes(output: str) -> Counter[str]:
    """Add up the results in pytest's summary lines."""
    counts: Counter[str] = Counter()
    for line in re.findall(r"^(?:=+ )?(\d+ [a-z]+.* in [\d.]+s)\b", output, re.M):
        for number, outcome in re.findall(r"(\d+) (passed|failed|skipped|error)", line):
            counts[outcome] += int(number)
    return counts


def _read_summary(output: str) -> None:
    """Add up the results in pytest's summary lines, and note why tests were skipped."""
    outcomes.update(_count_outcomes(output))
    # The conformance kit's skips are about a server, not about this machine.
    pattern = r"^SKIPPED \[\d+\] (?!pytest_image_variation)\S+: (.*)$"
    skips.extend(re.findall(pattern, output, re.M))


@cache
def work() -> Path:
    """Return the temporary folder of this run. `main` removes it."""
    folder = Path(tempfile.mkdtemp(prefix="gate-"))
    # Some tests act as other users, who must be able to read the environments.
    folder.chmod(0o755)
    return folder


@cache
def tree() -> Path:
    """Return a fresh copy of the tree, without the leftovers of earlier runs."""
    leftovers = (".git", ".venv*", ".*_cache", "__pycache__", ".hypothesis", "installed", "site")
    source = Path(__file__).resolve().parents[1]
    ignore = shutil.ignore_patterns(*leftovers)
    return Path(shutil.copytree(source, work() / "tree", symlinks=True, ignore=ignore))


@cache
def uv() -> Path:
    """Install uv, which creates an environment in seconds."""
    run(sys.executable, "-m", "venv", work() / "uv")
    run(work() / "uv/bin/pip", "install", "--quiet", "uv")
    return work() / "uv/bin/uv"


@cache
def require(python: Path, *requirements: str) -> None:
    """Install requirements into this Python's environment."""
    run(uv(), "pip", "install", "--quiet", "--python", python, *requirements)


@cache
def environment(name: str, *requirements: str, base: str = sys.executable) -> Path:
    """Create an environment, unless it exists, and return its Python."""
    folder = tree() / f".venv{name and '-'}{name}"
    run(uv(), "venv", "--quiet", "--clear", "--no-python-downloads", "--python", base, folder)
    require(folder / "bin/python", *requirements)
    return folder / "bin/python"


@cache
def readme_environment() -> Path:
    """Return the Python of the README's second command, or one with the same packages."""
    python = tree() / ".venv/bin/python"
    if (tree() / ".venv/bin/pytest").exists():
        return python
    return environment("", "--editable", ".[test]")


def readme_commands(readme: str) -> list[tuple[str, list[str]]]:
    """Return the README's commands that create an environment, each with the lines it prints."""
    commands = re.findall(r"^\$ (python3 -m venv .*)\n((?:(?![$`]).*\n)*)", readme, re.M)
    return [(command, printed.splitlines()) for command, printed in commands]


def check_printed(output: str, expected: list[str]) -> None:
    """Compare the last lines of a command's output with those in the README.

    Raises:
        AssertionError: If they differ.
    """
    printed = output.splitlines()[-len(expected) :]
    assert printed == expected, f"It printed {printed}, and the README shows {expected}."


@cache
def interpreters() -> dict[tuple[int, int], str]:
    """Return one installed CPython for each version from 3.11 on.

    uv finds the interpreters on the path. Some do not run, such as pyenv's shims or links to
    removed programs, so each one is asked for its version.

    Raises:
        CalledProcessError: If uv fails.
    """
    command = [str(uv()), "python", "list", "--only-installed", "--no-python-downloads"]
    listed = subprocess.run(
        [*command, "--output-format", "json"], stdout=subprocess.PIPE, check=True
    )
    paths = [sys.executable, *(row["path"] for row in json.loads(listed.stdout))]
    paths += sorted(map(str, Path.home().glob(".pyenv/versions/*/bin/python")))
    script = """if True:
        import sys, sysconfig, venv
        stable = sys.version_info.releaselevel == "final"
        locked = not sysconfig.get_config_var("Py_GIL_DISABLED")
        print(sys.implementation.name, stable and locked, *sys.version_info[:2])
    """
    paths_by_version: dict[tuple[int, int], str] = {}
    for path in paths:
        try:
            answer = subprocess.run(
                [path, "-c", script], stdin=subprocess.DEVNULL, capture_output=True, timeout=30
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        if match := re.fullmatch(rb"cpython True (\d+) (\d+)\s+", answer.stdout):
            paths_by_version.setdefault((int(match[1]), int(match[2])), path)
    versions = sorted(version for version in paths_by_version if version >= SUPPORTED[0])
    return {version: paths_by_version[version] for version in versions}
