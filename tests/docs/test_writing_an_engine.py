import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from langchain_image_variation.engines import traits
from tests.conftest import Run
from tests.docs.pages import ROOT, Block, find_page, table

PAGE = find_page("docs/writing-an-engine.md")


def titled_block(title: str) -> Block:
    """Return the page's block with this title."""
    return next(block for block in PAGE.blocks if block.title == title)


def test_the_complete_engine_is_short() -> None:
    """The complete engine has 15 lines, and the page says what each of them is for."""
    assert len(titled_block("turn_engine.py").text.splitlines()) == 15


@pytest.mark.mostly_slow("Turn")
@pytest.mark.parametrize("name", ["Turn", "Slow"])
def test_engines_on_the_page_follow_every_rule(
    run: Run, pytester: pytest.Pytester, name: str
) -> None:
    """Both engines on the page pass the conformance kit, tested as the page shows."""
    module = f"{name.lower()}_engine"
    (pytester.path / f"{module}.py").write_text(titled_block(f"{module}.py").text)
    suite = titled_block("test_turn_engine.py").text
    suite = suite.replace("turn_engine", module).replace("TurnEngine", f"{name}Engine")
    if name == "Slow":
        suite = suite.replace("SlowEngine()", "SlowEngine(seed=7)")
    assert run(suite).parseoutcomes() == {"passed": 26}


@pytest.mark.slow
def test_entry_point_gives_a_name(tmp_path: Path) -> None:
    """With the entry point of the page's `pyproject.toml`, `--engine turn` makes variations."""
    project = tomllib.loads(next(b.text for b in PAGE.blocks if b.language == "toml"))["project"]
    ((group, entries),) = project["entry-points"].items()
    metadata = tmp_path / "turn_engine-1.0.dist-info"
    metadata.mkdir()
    metadata.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: turn-engine\n")
    lines = [f"[{group}]", *(f"{name} = {target}" for name, target in entries.items())]
    metadata.joinpath("entry_points.txt").write_text("\n".join(lines))
    (tmp_path / "turn_engine.py").write_text(titled_block("turn_engine.py").text)
    command = next(b.text for b in PAGE.blocks if b.language == "bash")
    arguments = command.replace("photo.jpg", str(ROOT / "examples" / "chelsea.png")).split()
    assert arguments.pop(0) == "image-variation"
    done = subprocess.run(
        [sys.executable, "-m", "langchain_image_variation", *arguments],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"chelsea-[0-9a-f]{8}-[12]\.png", done.stdout)) == 2


def test_table_of_traits_is_complete() -> None:
    """The page lists the traits in `engines.traits`, and no others."""
    listed_traits = re.findall(r"^\| `(\w+)", traits.__doc__ or "", re.MULTILINE)
    rows = table("docs/writing-an-engine.md", "| trait | what it means |")
    assert len(listed_traits) >= 4
    assert sorted(re.findall(r"`(\w+)", " ".join(rows))) == sorted(listed_traits)
