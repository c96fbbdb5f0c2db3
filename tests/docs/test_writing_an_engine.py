import inspect
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pytest

from langchain_image_variation import (
    CreateImageVariationRequest,
    ImagesResponse,
    VariationEngine,
    call_engine,
    decode_png,
    encode_png,
    load_source,
)
from langchain_image_variation.cancellation import stop_when
from langchain_image_variation.engines import traits
from langchain_image_variation.exceptions import EngineError
from tests.conftest import Run
from tests.docs.pages import ROOT, Block, find_page, table

PAGE = find_page("docs/writing-an-engine.md")


def titled_block(title: str) -> Block:
    """Return the page's block with this title."""
    return next(block for block in PAGE.blocks if block.title == title)


def test_the_complete_engine_is_short() -> None:
    """The class of the complete engine has 15 lines."""
    _, _, lines = titled_block("crop_engine.py").text.partition("\nclass ")
    assert len(lines.splitlines()) == 15


def test_the_page_imports_from_the_root_only() -> None:
    """All that an engine imports from this package has a public name at the top."""
    for title in ("crop_engine.py", "slow_engine.py"):
        assert "langchain_image_variation." not in titled_block(title).text


def test_the_engine_that_help_shows_works() -> None:
    """The engine in the docstring of `VariationEngine` makes variations, as shown."""
    _, _, example = (inspect.getdoc(VariationEngine) or "").partition("the image:\n\n")
    example, _, _ = example.partition("\n\n`call_engine`")
    namespace: dict[str, Any] = {
        "ImagesResponse": ImagesResponse,
        "decode_png": decode_png,
        "encode_png": encode_png,
    }
    exec(textwrap.dedent(example), namespace)
    png = load_source(ROOT / "examples" / "chelsea.png").png
    request = CreateImageVariationRequest(image=png, n=2, size="256x256")
    response = call_engine(namespace["TurnEngine"](), request)
    assert len({image.read() for image in response.data}) == 2


def test_the_billed_engine_keeps_what_is_paid_for() -> None:
    """If its call is stopped, the engine returns the finished images, and an error for the others.

    If it is stopped before the first image, it raises the error.
    """
    namespace: dict[str, Any] = {}
    exec(titled_block("billed_engine.py").text, namespace)
    png = load_source(ROOT / "examples" / "chelsea.png").png
    request = CreateImageVariationRequest(image=png, n=3, size="256x256")
    answers = iter([False, True])
    with stop_when(lambda: next(answers)):
        response = call_engine(namespace["BilledEngine"](), request)
    assert [image.failure is None for image in response.data] == [True, False, False]
    message = "Stopped before this image was bought"
    with pytest.raises(EngineError, match=message):
        response.data[1].read()
    with stop_when(lambda: True), pytest.raises(EngineError, match=message):
        call_engine(namespace["BilledEngine"](), request)


@pytest.mark.slow
@pytest.mark.parametrize("title", ["crop_engine.py", "slow_engine.py"])
def test_mypy_accepts_the_engines_of_the_page(tmp_path: Path, title: str) -> None:
    """An author who checks an engine with `mypy --strict` gets no error, and a wrong return one."""
    pytest.importorskip("mypy")
    text = titled_block(title).text
    path = tmp_path / title
    path.write_text(
        f"{text}\n\nfrom langchain_image_variation import VariationEngine, call_engine\n"
        f"engine: VariationEngine = {title.split('_')[0].title()}Engine()\n"
    )
    assert run_mypy(path) == "Success: no issues found in 1 source file\n"
    path.write_text(text.replace("return ImagesResponse.from_pngs", "return list"))
    assert "error: " in run_mypy(path)


def run_mypy(path: Path) -> str:
    """Check a file as the author of an engine does, outside this project."""
    command = [sys.executable, "-m", "mypy", "--strict", path.name]
    done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, timeout=300)
    return done.stdout


@pytest.mark.mostly_slow("Crop")
@pytest.mark.parametrize("name", ["Crop", "Slow"])
def test_engines_on_the_page_follow_every_rule(
    run: Run, pytester: pytest.Pytester, name: str
) -> None:
    """Both engines on the page pass the conformance kit, tested as the page shows."""
    module = f"{name.lower()}_engine"
    (pytester.path / f"{module}.py").write_text(titled_block(f"{module}.py").text)
    suite = titled_block("test_crop_engine.py").text
    suite = suite.replace("crop_engine", module).replace("CropEngine", f"{name}Engine")
    if name == "Slow":
        suite = suite.replace("SlowEngine()", "SlowEngine(seed=7)")
    assert run(suite).parseoutcomes() == {"passed": 26}


@pytest.mark.slow
def test_entry_point_gives_a_name(tmp_path: Path) -> None:
    """With the entry point of the page's `pyproject.toml`, `--engine crop` makes variations."""
    project = tomllib.loads(next(b.text for b in PAGE.blocks if b.language == "toml"))["project"]
    ((group, entries),) = project["entry-points"].items()
    metadata = tmp_path / "crop_engine-1.0.dist-info"
    metadata.mkdir()
    metadata.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: crop-engine\n")
    lines = [f"[{group}]", *(f"{name} = {target}" for name, target in entries.items())]
    metadata.joinpath("entry_points.txt").write_text("\n".join(lines))
    (tmp_path / "crop_engine.py").write_text(titled_block("crop_engine.py").text)
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


def test_table_of_fields_is_complete() -> None:
    """The page lists each field of a request, and the side of its images."""
    rows = table("docs/writing-an-engine.md", "| field | what it holds |")
    names = re.findall(r"`(\w+)`", " ".join(rows))
    assert sorted(names) == sorted([*CreateImageVariationRequest.model_fields, "side"])


def test_table_of_traits_is_complete() -> None:
    """The page lists the traits in `engines.traits`, and no others."""
    listed_traits = re.findall(r"^\| `(\w+)", traits.__doc__ or "", re.MULTILINE)
    rows = table("docs/writing-an-engine.md", "| trait | what it means |")
    assert len(listed_traits) >= 4
    assert sorted(re.findall(r"`(\w+)", " ".join(rows))) == sorted(listed_traits)
