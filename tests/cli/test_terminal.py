import os
import subprocess
from pathlib import Path

import pytest

from pytest_image_variation.samples import square_png
from tests.cli.program import declare, run, run_in_terminal, screen

CREATE = ["create", "photo.jpg", "-n", "2", "--size", "256x256"]

WAITING_ENGINE = """
import os, time
from langchain_image_variation.engines.instant import InstantEngine

class Engine(InstantEngine):
    def create_variation(self, request):
        for _ in range(1000):
            if os.path.exists("go"):
                break
            time.sleep(0.05)
        return super().create_variation(request)
"""
"""An engine that reports nothing and waits for a file."""


def test_a_progress_bar_is_seen_and_disappears() -> None:
    """The bar starts at 0 and moves. At the end, the terminal shows only notes and files."""
    code, output = run_in_terminal(CREATE)
    assert code == 0
    assert "2 variations:   0% |" in output
    note, *files, seed, end = screen(output)
    assert note.startswith("photo: converted JPEG to PNG")
    assert seed.startswith("Make these again with --seed ")
    assert [os.path.exists(file) for file in files] == [True] * 3
    assert end == ""


@pytest.mark.slow
@pytest.mark.parametrize("columns", [0, 1, 20, 300])
def test_the_bar_is_seen_in_every_width(columns: int) -> None:
    """A terminal of any width shows the bar, even one that does not report its width."""
    code, output = run_in_terminal(CREATE, columns=columns)
    assert code == 0
    start = "2 variations:   0% |"[: columns - 1 if columns else None]
    assert output.split("\r")[1].startswith(start)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "clock"),
    [("create", "| 00:01"), ("batch", "0/1 [00:01<")],
    ids=["create", "batch"],
)
def test_the_clock_goes_on_without_reports(tmp_path: Path, command: str, clock: str) -> None:
    """While an engine reports nothing, the bar is redrawn regularly."""
    declare(tmp_path, "waiting", "waiting = waiting_engine:Engine\n")
    (tmp_path / "waiting_engine.py").write_text(WAITING_ENGINE)

    def let_go_after_a_second(output: str) -> None:
        if clock in output:
            Path("go").touch()

    code, output = run_in_terminal(
        [command, *CREATE[1:], "--engine", "waiting"],
        env={"PYTHONPATH": str(tmp_path)},
        watch=let_go_after_a_second,
    )
    assert code == 0, output
    assert Path("go").exists()


@pytest.mark.slow
def test_several_images_share_one_bar() -> None:
    """The bar counts the images, and the files of each are printed above it."""
    Path("other.png").write_bytes(square_png())
    code, output = run_in_terminal(["create", "photo.jpg", "none.png", "other.png", *CREATE[2:]])
    assert code == 3
    assert "1/3 photo:   0% |" in output
    assert "3/3 other:  67% |" in output
    lines = screen(output)
    assert lines[1].startswith("variations/photo-")
    assert lines[4] == "image-variation: There is no file 'none.png'; check the path."
    assert lines[5].startswith("variations/other-")
    assert not [line for line in lines if "%" in line]


@pytest.mark.slow
@pytest.mark.parametrize(("option", "term"), [("--quiet", "xterm"), ("--no-sheet", "dumb")])
def test_there_is_no_bar_where_nobody_wants_one(option: str, term: str) -> None:
    """With --quiet, and on a terminal that cannot move its cursor, there is no bar."""
    code, output = run_in_terminal([*CREATE, option], env={"TERM": term})
    assert (code, "%" in output) == (0, False)


@pytest.mark.slow
def test_a_quiet_batch_has_no_bar() -> None:
    """With --quiet, a batch shows only its files."""
    code, output = run_in_terminal(["batch", *CREATE[1:], "--engine", "instant", "-q", "--jsonl"])
    # The Parquet manifest needs an extra.
    manifests = output.replace("variations/manifest.parquet\r\n", "")
    assert (code, manifests) == (0, "variations/manifest.jsonl\r\n")


@pytest.mark.slow
def test_there_is_no_bar_outside_a_terminal() -> None:
    """A log does not get a bar."""
    assert b"%" not in run(*CREATE).stderr


@pytest.mark.slow
def test_an_error_takes_the_bar_away() -> None:
    """After an error, the terminal shows one line and no bar."""
    code, output = run_in_terminal(["create", "none.png"])
    assert code == 2
    assert screen(output) == ["image-variation: There is no file 'none.png'; check the path.", ""]


def test_a_terminal_gets_no_binary_data() -> None:
    """`-o -` is refused on a terminal before an engine runs, and the error says what to do."""
    code, output = run_in_terminal(["create", "photo.jpg", "-o", "-"])
    assert code == 2
    assert "Standard output is a terminal, which cannot show an image." in output
    assert "-o - > image.png" in output


@pytest.mark.slow
def test_a_terminal_is_not_read_as_an_image() -> None:
    """`-` does not wait for a person to type an image."""
    code, output = run_in_terminal(["create", "-", "-o", "-"], stdout=subprocess.DEVNULL)
    assert code == 2
    assert "- reads an image from standard input; pipe or redirect a file into it." in output
