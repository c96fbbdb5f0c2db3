import ast
import base64
import io
import json
import re
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageStat

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a copy of the examples, without what whoever tried them has made."""
    made = shutil.ignore_patterns("variations")
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=made)
    monkeypatch.chdir(tmp_path / "examples")
    return tmp_path / "examples"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Run a script as its user does, but in this process: imports take longer than all else."""
    monkeypatch.setattr(sys, "argv", list(arguments))
    runpy.run_path(arguments[0], run_name="__main__")


def test_the_agent_varies_goes_wrong_and_recovers(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four of the photo, two of the second, one of the last; two mistakes cost no picture."""
    run(monkeypatch, "agent.py", "tea-garden.jpg")
    said = capsys.readouterr().out
    assert "There is no image 'cat_final_v2.png' here. In this conversation: img_1, " in said
    assert "n must be a whole number from 1 to 4, got 20." in said
    named = re.findall(r"^  (variations/tea-garden-\w+/image-\S+\.png)$", said, flags=re.M)
    handles = [Path(path).stem for path in named]
    assert re.findall(r"^tool: (Made \d \w+ of \S+),", said, flags=re.M) == [
        "Made 4 variations of img_1",
        f"Made 2 variations of {handles[1]}",
        f"Made 1 variation of {handles[5]}",
    ]
    assert len(named) == 7
    for path in named:
        with Image.open(path) as picture:
            assert picture.size == (256, 256)


def test_one_line_of_the_agent_names_its_model() -> None:
    """Whoever has a real model changes that line and no other."""
    tree = ast.parse((EXAMPLES / "agent.py").read_text())
    lines = [node for node in tree.body if ast.unparse(node).startswith("model = ")]
    assert len(lines) == 1
    assert lines[0].lineno == lines[0].end_lineno


def test_a_human_approves_one_of_four_in_a_later_run(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What waits is in a file; the approved picture, and no other, is varied; once."""
    run(monkeypatch, "approval.py", "vary")
    offered = re.findall(r"^[1-4] (\S+)\.png$", capsys.readouterr().out, flags=re.M)
    assert len(offered) == 4
    run(monkeypatch, "approval.py", "approve", "3")
    assert f"Made 2 variations of {Path(offered[2]).name}, 512x512" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="Nothing waits for approval"):
        run(monkeypatch, "approval.py", "approve", "3")
    assert len(list(here.glob("variations/approval-*/*.png"))) == 6


def test_a_human_may_approve_none(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Then nothing more is made."""
    run(monkeypatch, "approval.py", "vary", "tea-garden.jpg")
    run(monkeypatch, "approval.py", "approve", "0")
    assert len(list(here.glob("variations/approval-*/*.png"))) == 4


NOTEBOOK = json.loads((EXAMPLES / "variations.ipynb").read_text())


def shown_by(source: str, names: dict[str, Any]) -> Any:
    """Run a cell as a notebook does, and return the value of its last line."""
    cell = ast.parse(source)
    last = cell.body.pop()
    exec(compile(cell, "cell", "exec"), names)
    if isinstance(last, ast.Expr):
        return eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    exec(compile(ast.Module([last], []), "cell", "exec"), names)


def same(shown: Image.Image, drawn: Image.Image) -> bool:
    """Say whether two pictures look alike: decoders of JPEG differ in their last bits."""
    if shown.size != drawn.size:
        return False
    difference = ImageChops.difference(shown.convert("RGB"), drawn.convert("RGB"))
    return max(ImageStat.Stat(difference).mean) < 4


def test_the_notebook_shows_what_its_cells_give(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each cell runs, in order, and gives the text and the pictures that are stored with it."""
    names: dict[str, Any] = {}
    pictures = 0
    for cell in (cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"):
        value = shown_by("".join(cell["source"]), names)
        (output,) = cell["outputs"]
        printed = capsys.readouterr().out
        assert printed == "".join(output.get("text", []))
        for kind, stored in output.get("data", {}).items():
            if kind == "text/plain":
                assert repr(value) == "".join(stored)
                continue
            drawn = getattr(value, {"image/png": "_repr_png_", "image/jpeg": "_repr_jpeg_"}[kind])
            with (
                Image.open(io.BytesIO(base64.b64decode("".join(stored)))) as before,
                Image.open(io.BytesIO(drawn())) as now,
            ):
                assert same(before, now)
            pictures += 1
    assert pictures == 2


def test_the_notebook_is_small() -> None:
    """Its pictures are there to be seen, and take less than a photo."""
    assert (EXAMPLES / "variations.ipynb").stat().st_size < 200_000
