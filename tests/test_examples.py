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

from tests.agents.names import name_of

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def examples_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a copy of the examples, without the results of earlier runs."""
    ignore_results = shutil.ignore_patterns("variations")
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=ignore_results)
    monkeypatch.chdir(tmp_path / "examples")
    return tmp_path / "examples"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Run a script as its user does, but in this process, where everything is imported already."""
    monkeypatch.setattr(sys, "argv", list(arguments))
    runpy.run_path(arguments[0], run_name="__main__")


def test_the_agent_recovers_from_mistakes(
    examples_copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The agent varies the photo and its variations, despite two mistakes."""
    run(monkeypatch, "agent.py", "tea-garden.jpg")
    output = capsys.readouterr().out
    photo = name_of(Path("tea-garden.jpg").read_bytes())
    assert "There is no image 'cat_final_v2.png' here. In this conversation: img_" in output
    assert "n must be a whole number from 1 to 4, got 20." in output
    paths = re.findall(r"^  (variations/tea-garden-\w+/image-\S+\.png)$", output, flags=re.M)
    handles = [Path(path).stem for path in paths]
    assert re.findall(r"^tool: (Made \d \w+ of \S+),", output, flags=re.M) == [
        f"Made 4 variations of {photo}",
        f"Made 2 variations of {handles[1]}",
        f"Made 1 variation of {handles[5]}",
    ]
    assert len(paths) == 7
    for path in paths:
        with Image.open(path) as image:
            assert image.size == (256, 256)


def test_one_line_of_the_agent_names_its_model() -> None:
    """Only one line of the agent names its model, so only that changes for a real one."""
    tree = ast.parse((EXAMPLES / "agent.py").read_text())
    lines = [node for node in tree.body if ast.unparse(node).startswith("model = ")]
    assert len(lines) == 1
    assert lines[0].lineno == lines[0].end_lineno


def test_a_human_approves_one_in_a_later_run(
    examples_copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a later run, only the image that a human approved is varied, and only once."""
    run(monkeypatch, "approval.py", "vary")
    stems = re.findall(r"^[1-4] (\S+)\.png$", capsys.readouterr().out, flags=re.M)
    assert len(stems) == 4
    run(monkeypatch, "approval.py", "approve", "3")
    assert f"Made 2 variations of {Path(stems[2]).name}, 512x512" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="Nothing waits for approval"):
        run(monkeypatch, "approval.py", "approve", "3")
    assert len(list(examples_copy.glob("variations/approval-*/*.png"))) == 6


def test_a_human_may_approve_none(
    examples_copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If a human approves no image, no more variations are made."""
    run(monkeypatch, "approval.py", "vary", "tea-garden.jpg")
    run(monkeypatch, "approval.py", "approve", "0")
    assert len(list(examples_copy.glob("variations/approval-*/*.png"))) == 4


NOTEBOOK = json.loads((EXAMPLES / "variations.ipynb").read_text())


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Run a cell as a notebook does, and return the value of its last line."""
    cell = ast.parse(source)
    last = cell.body.pop()
    exec(compile(cell, "cell", "exec"), names)
    if isinstance(last, ast.Expr):
        return eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    exec(compile(ast.Module([last], []), "cell", "exec"), names)


def look_alike(first: Image.Image, second: Image.Image) -> bool:
    """Return whether two images look alike. JPEG decoders differ in the last bits."""
    if first.size != second.size:
        return False
    difference = ImageChops.difference(first.convert("RGB"), second.convert("RGB"))
    return max(ImageStat.Stat(difference).mean) < 4


@pytest.mark.slow
def test_the_notebook_shows_its_outputs(
    examples_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each cell of the notebook gives the text and the images that are stored with it."""
    names: dict[str, Any] = {}
    image_count = 0
    for cell in (cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"):
        value = run_cell("".join(cell["source"]), names)
        (output,) = cell["outputs"]
        printed_text = capsys.readouterr().out
        assert printed_text == "".join(output.get("text", []))
        for kind, stored_data in output.get("data", {}).items():
            if kind == "text/plain":
                assert repr(value) == "".join(stored_data)
                continue
            render = getattr(value, {"image/png": "_repr_png_", "image/jpeg": "_repr_jpeg_"}[kind])
            with (
                Image.open(io.BytesIO(base64.b64decode("".join(stored_data)))) as stored_image,
                Image.open(io.BytesIO(render())) as new_image,
            ):
                assert look_alike(stored_image, new_image)
            image_count += 1
    assert image_count == 2


def test_the_notebook_is_small() -> None:
    """The notebook shows images, but takes less space than a photo."""
    assert (EXAMPLES / "variations.ipynb").stat().st_size < 200_000
