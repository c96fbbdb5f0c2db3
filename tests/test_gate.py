"""The gate itself, run by a script with small steps."""

import os
import runpy
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
CI = ROOT / ".ci"

STEPS = """
import sys
from pathlib import Path

import environments, runner

SKIPPED = "SKIPPED [1] tests/test_it.py:1: could not import 'kubernetes_validate'"

def output(text):
    environments.run(sys.executable, "-c", f"print({text!r})", cwd=Path.cwd())

@runner.step
def tests():
    "First."
    output(f"{SKIPPED}\\n===== 3 passed, 1 skipped in 0.10s =====")

@runner.step
def broken():
    "Second."
    output("===== 1 failed, 2 passed, 1 error in 0.10s =====")
    next(iter(()))

@runner.step
def lint():
    "Third."
    environments.note_unchecked("the moon")
    environments.note_unchecked("the moon")

@runner.step
def deploy():
    "Fourth."
    output(f"{SKIPPED}\\n===== 2 passed, 1 skipped in 0.10s =====")

@runner.step
def complete():
    "Fifth."
    test = environments.tree() / "tests/test_it.py"
    test.write_text("def test_it(): pass\\n")
    environments.run_every_test(Path(sys.executable), "tests/test_it.py")
    with test.open("a") as file:
        file.write("def test_other(): __import__('pytest').importorskip('nothing')\\n")
    environments.run_every_test(Path(sys.executable), "tests/test_it.py")

@runner.step
def endless():
    "Sixth."
    script = "exec 3<>gate.fifo; sleep 60 & echo started; wait"
    environments.run("bash", "-c", script, cwd=Path.cwd())

sys.exit(runner.main())
"""


def start_gate(folder: Path, *steps: str) -> "subprocess.Popen[str]":
    """Start the gate with steps of the script in a folder."""
    folder.joinpath("tmp").mkdir()
    return subprocess.Popen(
        [sys.executable, "-c", STEPS, *steps],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(CI), "TMPDIR": str(folder / "tmp")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def gate(folder: Path, *steps: str) -> tuple[int, list[str]]:
    """Run the gate with these steps, and return its exit code and its output lines."""
    with start_gate(folder, *steps) as process:
        output, errors = process.communicate(timeout=60)
    assert errors == ""
    return process.returncode, output.splitlines()


def test_commands_keep_their_bytecode(tmp_path: Path) -> None:
    """Python writes bytecode in the gate, which halves the time of the tests' processes."""
    command = '"-c", "import sys; print(sys.dont_write_bytecode)"'
    script = f"import environments, sys; environments.run(sys.executable, {command}, cwd='.')"
    settings = {"PYTHONPATH": str(CI), "PYTHONDONTWRITEBYTECODE": "1"}
    lines = subprocess.check_output(
        [sys.executable, "-c", script], cwd=tmp_path, env={**os.environ, **settings}, text=True
    )
    assert lines.splitlines()[-1] == "False"


def test_steps_run_once_in_list_order(tmp_path: Path) -> None:
    """Steps run once, in the order of the list, since later ones may need an environment again."""
    code, lines = gate(tmp_path, "lint", "tests", "lint")
    assert code == 0
    assert [line for line in lines if line.startswith("== ")] == [
        "== tests: First.",
        "== lint: Third.",
        "== summary",
    ]
    assert lines.count("NOT CHECKED HERE: the moon") == 1
    assert lines[-2] == "All checks passed: tests, lint"
    assert lines[-1].startswith("===== 3 passed, 1 skipped in ")


def test_exception_fails_only_its_step(tmp_path: Path) -> None:
    """An exception fails only its step, and the last line counts the failures of all steps."""
    code, lines = gate(tmp_path, "tests", "broken", "lint")
    assert code == 1
    assert "StopIteration" in lines
    assert "== lint: Third." in lines
    assert lines[-2] == "FAILED: broken"
    expected = "===== 3 passed, 1 skipped, 1 failed, 1 error, 1 of 3 steps failed in "
    assert lines[-1].startswith(expected)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_skips_are_shown_unless_other_steps_run_them(tmp_path: Path) -> None:
    """The summary shows what a step skips, unless another step installs the missing package."""
    shown = "NOT CHECKED HERE: could not import 'kubernetes_validate'"
    _, lines = gate(tmp_path, "tests")
    assert shown not in lines
    tmp_path.joinpath("tmp").rmdir()
    code, lines = gate(tmp_path, "tests", "deploy")
    assert code == 0
    assert lines.count(shown) == 1


@pytest.mark.slow
def test_a_skip_fails_a_step_that_must_run_all(tmp_path: Path) -> None:
    """A step that installs everything its tests need fails if one of them is skipped."""
    code, lines = gate(tmp_path, "complete")
    assert code == 1
    assert any(line.startswith("1 passed in ") for line in lines)
    assert any(line.startswith("1 passed, 1 skipped in ") for line in lines)
    message = "AssertionError: 1 tests or files were skipped, and this step must run all."
    assert message in lines


@pytest.mark.mostly_slow("15-143")
@pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, -2), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_interrupted_gate_stops_its_commands(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """An interrupted gate stops its commands and their children, and prints a summary."""
    fifo = tmp_path / "gate.fifo"
    os.mkfifo(fifo)
    with start_gate(tmp_path, "broken", "endless") as process:
        assert process.stdout is not None
        assert "started\n" in iter(process.stdout.readline, "")
        # The shell and its child keep the pipe open as long as they live.
        with open(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)) as held_open:
            process.send_signal(number)
            lines = process.communicate(timeout=30)[0].splitlines()
            assert select.select([held_open], [], [], 30)[0]
            assert held_open.read() == ""
    assert process.returncode == code
    assert lines[-2] == "INTERRUPTED in endless, FAILED: broken"
    assert "interrupted in endless in " in lines[-1]
    assert list((tmp_path / "tmp").iterdir()) == []


def test_oldest_versions_exist_for_each_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """The requirements leave one numpy and one Pillow for each version of Python."""
    monkeypatch.syspath_prepend(CI)
    oldest = runpy.run_path(str(CI / "processors.py"))["oldest"]
    pins = [*map(Requirement, oldest((ROOT / "pyproject.toml").read_text()))]
    for version in ("3.11", "3.12", "3.13", "3.14"):
        environment = {"python_version": version}
        names = [pin.name for pin in pins if pin.marker is None or pin.marker.evaluate(environment)]
        assert sorted(names) == ["numpy", "pillow"], version


def test_the_site_check_finds_other_hosts(tmp_path: Path) -> None:
    """The site check reports what a page loads from other hosts, and no links to follow."""
    foreign_references = runpy.run_path(str(CI / "site_check.py"))["foreign_references"]
    tmp_path.joinpath("index.html").write_text(
        """
        <link rel="canonical" href="https://docs.example.com/">
        <a href="https://example.com/">a link</a>
        <script src="assets/own.js"></script><img src="https:own.png"><img src="a//b.png">
        <link rel="preconnect" href="https://fonts.example.com">
        <script src="//cdn.example.com/a.js"></script>
        <img srcset="own.png 1x, https://cdn.example.com/b.png 2x">
        <svg><use xlink:href="https://cdn.example.com/c.svg"></use></svg>
        <style>body { background: url("https://cdn.example.com/d.png") }</style>
        <p style="background: url(//cdn.example.com/e.png)" class="mermaid"></p>
        """
    )
    tmp_path.joinpath("own.css").write_text(
        "@import 'https://fonts.example.com/f.css'; @font-face { src: url(own.woff) }"
    )
    assert list(foreign_references(tmp_path)) == [
        "index.html: https://fonts.example.com",
        "index.html: //cdn.example.com/a.js",
        "index.html: https://cdn.example.com/b.png",
        "index.html: https://cdn.example.com/c.svg",
        "index.html: https://cdn.example.com/d.png",
        "index.html: //cdn.example.com/e.png",
        "index.html: a Mermaid diagram",
        "own.css: https://fonts.example.com/f.css",
    ]
