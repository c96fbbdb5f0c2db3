import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, find_page

README = find_page("README.md").text


def test_the_readme_is_short() -> None:
    """The README has at most 150 lines."""
    assert len(README.splitlines()) <= 150


def test_each_link_of_the_readme_works() -> None:
    """Each link of the README to a file leads to one that exists."""
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", README)
    assert len(targets) > 20
    assert not [target for target in targets if not (ROOT / target).exists()]


def test_the_index_page_has_no_dead_links() -> None:
    """The README has no relative link or image when a package index shows it."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["metadata"]
    text = README
    for substitution in settings["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(substitution["pattern"], substitution["replacement"], text)
    assert "](" in README
    assert re.findall(r"\]\((?!https:)", text) == []
    assert "| [" not in text
    assert len(text.splitlines()) >= len(README.splitlines()) - 2


def test_the_server_is_started_as_shown() -> None:
    """Before its call, the README starts the server and sets the variables that it prints."""
    (block,) = (block for block in find_page("README.md").blocks if block.language == "bash")
    start, _, call = block.text.partition("curl ")
    assert "\n.venv/bin/image-variation serve &\n" in start
    assert "OPENAI_BASE_URL=http://127.0.0.1:8000/v1" in start
    assert call.startswith("--retry 9 --retry-connrefused $OPENAI_BASE_URL/images/variations ")


def test_the_llama_index_example_runs(checkout: Path) -> None:
    """The LlamaIndex example runs offline without a key, and recovers from a mistake."""
    pytest.importorskip("llama_index.core")
    script = Path("examples", "llama_index_agent.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("image_variation: Made ") == 2
    assert "There is no image 'cat.png' here." in done.stdout
    assert len(list(Path("examples/variations").glob("*/*.png"))) == 4


def test_the_gate_runs_the_two_commands_of_the_readme() -> None:
    """The gate finds both commands of the README, and the lines that the first one prints."""
    readme_commands = runpy.run_path(str(ROOT / ".ci" / "environments.py"))["readme_commands"]
    (create_command, create_output), (test_command, test_output) = readme_commands(README)
    assert "image-variation create" in create_command
    assert len(create_output) == 6
    assert ".venv/bin/python -m pytest" in test_command
    assert test_output == []
    assert all(f"$ {command}\n" in README for command in (create_command, test_command))


def test_the_gate_lists_its_steps_and_refuses_others() -> None:
    """The gate lists each step with what it checks, and runs nothing for an unknown name."""

    def gate(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = ["bash", str(ROOT / ".ci" / "run"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    lines = gate("--list").stdout.splitlines()
    assert len(lines) >= 15
    assert all(re.fullmatch(r"[a-z0-9-]+ +[A-Z].+\.", line) for line in lines)
    refusal = gate("lint", "no-such-step")
    assert refusal.returncode == 2
    assert "unknown step 'no-such-step'" in refusal.stderr


def test_images_of_the_readme_exist_and_are_small() -> None:
    """The README's image is in the tree and under 400 KB, photos are under 600 KB."""
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
