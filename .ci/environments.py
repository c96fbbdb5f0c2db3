"""Commands and environments of the gate: a fresh copy of the tree, uv, and what pytest said."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path

SUPPORTED = [(3, 11), (3, 12), (3, 13), (3, 14)]

unchecked: dict[str, None] = {}
"""What this machine lacks, and so was not checked, in order."""
outcomes: Counter[str] = Counter()
"""How many tests passed, failed, and so on, in this step."""
skips: list[str] = []
"""The reasons for which tests were skipped in this step."""

# What other steps install and check.
_ELSEWHERE = r"llama.?index|'ray|'s3fs'|'pandas'|'playwright|openai-responses|cassetter|"
_ELSEWHERE += "aimock-pytest|pytest-vcr|pytest-httpx|pytest-randomly|respx"


def run(
    *command: str | Path, settings: Mapping[str, str] | None = None, cwd: Path | None = None
) -> str:
    """Run a command in the copy of the tree, print its output as it comes, and return it.

    Args:
        command: The program and its arguments.
        settings: Environment variables.
        cwd: The folder to run in, if it is not the copy's root.

    Raises:
        CalledProcessError: The command failed.
    """
    words = [str(word) for word in command]
    shown = [f"{name}={value}" for name, value in (settings or {}).items()]
    print("\n$", shlex.join([*shown, *words]), flush=True)
    process = subprocess.Popen(
        words,
        cwd=cwd or tree(),
        env={**os.environ, **(settings or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    output = "".join(lines)
    _read_summary(output)
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, words, output)
    return output


def _read_summary(output: str) -> None:
    """Add up what pytest's closing lines say, and note for which reasons tests were skipped."""
    for line in re.findall(r"^(?:=+ )?(\d+ [a-z]+.* in [\d.]+s)\b", output, re.M):
        for number, outcome in re.findall(r"(\d+) (passed|failed|skipped|error)", line):
            outcomes[outcome] += int(number)
    # What the conformance kit says of a server is not about this machine.
    skipped = r"^SKIPPED \[\d+\] (?!pytest_image_variation)\S+: (.*)$"
    for reason in re.findall(skipped, output, re.M):
        if not re.search(_ELSEWHERE, reason, re.I):
            skips.append(reason)


@cache
def work() -> Path:
    """Return the folder of this run, which `main` removes."""
    return Path(tempfile.mkdtemp(prefix="gate-"))


@cache
def tree() -> Path:
    """Return a fresh copy of the tree, without what earlier runs left there."""
    left_over = (".git", ".venv*", ".*_cache", "__pycache__", ".hypothesis", "installed")
    source = Path(__file__).resolve().parents[1]
    ignore = shutil.ignore_patterns(*left_over)
    return Path(shutil.copytree(source, work() / "tree", symlinks=True, ignore=ignore))


@cache
def uv() -> Path:
    """Install uv, which makes an environment in seconds."""
    run(sys.executable, "-m", "venv", work() / "uv")
    run(work() / "uv/bin/pip", "install", "--quiet", "uv")
    return work() / "uv/bin/uv"


@cache
def require(python: Path, *requirements: str) -> None:
    """Install requirements into this Python's environment."""
    run(uv(), "pip", "install", "--quiet", "--python", python, *requirements)


@cache
def environment(name: str, *requirements: str, base: str = sys.executable) -> Path:
    """Make an environment once, and return its Python."""
    folder = tree() / f".venv{name and '-'}{name}"
    run(uv(), "venv", "--quiet", "--clear", "--no-python-downloads", "--python", base, folder)
    require(folder / "bin/python", *requirements)
    return folder / "bin/python"


@cache
def readme_environment() -> Path:
    """Return the Python that the README's second command made, or one with the same packages."""
    python = tree() / ".venv/bin/python"
    if (tree() / ".venv/bin/pytest").exists():
        return python
    return environment("", "--editable", ".[test]")


def readme_commands(readme: str) -> list[tuple[str, list[str]]]:
    """Return the README's commands that set up an environment, and the lines each one prints."""
    found = re.findall(r"^\$ (python3 -m venv .*)\n((?:(?![$`]).*\n)*)", readme, re.M)
    return [(command, printed.splitlines()) for command, printed in found]


def check_printed(output: str, expected: list[str]) -> None:
    """Compare the last lines that a command printed with those that the README shows.

    Raises:
        AssertionError: They differ.
    """
    printed = output.splitlines()[-len(expected) :]
    assert printed == expected, f"It printed {printed}, and the README shows {expected}."


@cache
def interpreters() -> dict[tuple[int, int], str]:
    """Return one CPython for each version from 3.11 up that this machine has.

    uv finds those on the path, among them the shims of pyenv, some of which run nothing.
    """
    command = [str(uv()), "python", "list", "--only-installed", "--no-python-downloads"]
    listed = subprocess.run(
        [*command, "--output-format", "json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    paths = [sys.executable, *(row["path"] for row in json.loads(listed.stdout))]
    paths += sorted(map(str, Path.home().glob(".pyenv/versions/*/bin/python")))
    script = """if True:
        import sys, sysconfig, venv
        stable = sys.version_info.releaselevel == "final"
        locked = not sysconfig.get_config_var("Py_GIL_DISABLED")
        print(sys.implementation.name, stable and locked, *sys.version_info[:2])
    """
    found: dict[tuple[int, int], str] = {}
    for path in paths:
        answer = subprocess.run([path, "-c", script], capture_output=True, text=True)
        if match := re.fullmatch(r"cpython True (\d+) (\d+)\n", answer.stdout):
            found.setdefault((int(match[1]), int(match[2])), path)
    return {version: found[version] for version in sorted(found) if version >= SUPPORTED[0]}
