import contextlib
import fcntl
import json
import os
import pty
import re
import shutil
import sqlite3
import struct
import subprocess
import sys
import termios
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image

from langchain_image_variation.batch.gallery import PICTURES_A_PAGE, write_pages
from langchain_image_variation.batch.ledger import Ledger
from langchain_image_variation.batch.meter import meter
from langchain_image_variation.cli import main
from langchain_image_variation.exceptions import OutputError
from langchain_image_variation.files.outputs import OutputFolder
from langchain_image_variation.server import create_app
from langchain_image_variation.source import read_file
from pytest_image_variation.samples import corrupt_png, jpeg, square_png
from tests.batch.declared import made
from tests.batch.running import manifest, pictures, run, run_here
from tests.images.scans import with_scans
from tests.server.serving import serving


def test_a_folder_becomes_pictures_and_a_manifest(capsys: pytest.CaptureFixture[str]) -> None:
    """With worker processes; a second run makes nothing and writes the same."""
    assert run("photos", "--n", "2", "--jsonl") == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == ["out/manifest.parquet", "out/manifest.jsonl"]
    assert err == "10 made, 0 already there, 0 failed.\n"
    lines = Path("out/manifest.jsonl").read_text()
    rows = manifest()
    assert [row["source_path"] for row in rows[::2]] == [f"photos/{i}.png" for i in range(5)]
    assert [row["index"] for row in rows] == [1, 2] * 5
    assert pictures().keys() == {row["output_path"] for row in rows}
    assert all(json.loads(line)["milliseconds"] is not None for line in lines.splitlines())
    assert run("photos", "--n", "2", "--jsonl") == 0
    assert capsys.readouterr().err == "0 made, 10 already there, 0 failed.\n"
    assert Path("out/manifest.jsonl").read_text() == lines
    assert set(made().values()) == {1}


def test_asking_for_more_or_fewer_later(capsys: pytest.CaptureFixture[str]) -> None:
    """More adds the further ones; fewer leaves all files and lists what was asked for."""
    assert run_here("photos", "--n", "2") == 0
    few = manifest()
    assert run_here("photos", "--n", "4") == 0
    assert capsys.readouterr().err.splitlines()[-1] == "10 made, 10 already there, 0 failed."
    assert [row for row in manifest() if row["index"] <= 2] == few
    assert run_here("photos", "--n", "2") == 0
    assert manifest() == few
    assert (len(pictures()), set(made().values())) == (20, {1})


def test_bad_pictures_are_rows_and_exit_code_3(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others are made; the summary counts failures by reason, with an example of each."""
    (photos / "corrupt.png").write_bytes(corrupt_png())
    (photos / "empty.png").touch()
    for index in range(2, 5):
        (photos / f"{index}.png").unlink()
    Path("list.csv").write_text("path,n\nphotos/0.png,many\nphotos/none.png,\nphotos/0.png,1,2\n")
    arguments = ["photos", "list.csv", "--engine", "local", "--workers", "1"]
    assert run(*arguments) == 3
    first, *others = capsys.readouterr().err.splitlines()
    assert first == "2 made, 0 already there, 5 failed."
    corrupt = "image is a corrupt PNG file: its pixels cannot be decompressed."
    assert sorted(others) == [
        f"  InvalidImageError: 1, such as: {corrupt}",
        "  InvalidRequestError: 2, such as: n must be a whole number from 1 to 10, got 'many'.",
        "  SourceError: 2, such as: The source is empty; pass an image file.",
    ]
    errors = {row["source_path"]: row["error"] for row in manifest() if row["error"]}
    assert errors.keys() == {
        "photos/corrupt.png",
        "photos/empty.png",
        "photos/0.png",
        "photos/none.png",
        None,
    }
    assert errors[None] == (
        "InvalidRequestError: Line 4 of 'list.csv' has more fields than the first line has names."
    )
    (photos / "corrupt.png").unlink()
    (photos / "empty.png").write_bytes(square_png(99))
    assert run_here("photos") == 0
    assert [row["error"] for row in manifest()] == [None] * 3


def test_a_jpeg_with_hundreds_of_scans_is_a_row(photos: Path) -> None:
    """It is not decoded for variations, nor for the gallery; the others are made."""
    (photos / "scans.jpg").write_bytes(with_scans(300))
    assert run("photos", "--gallery") == 3
    errors = {row["source_path"]: row["error"] for row in manifest() if row["error"]}
    assert errors.keys() == {"photos/scans.jpg"}
    assert "300 scans; the limit is 100" in str(errors["photos/scans.jpg"])
    assert len(pictures()) == 5
    assert "no picture to show" in Path("out/gallery/index.html").read_text()


def test_the_same_picture_twice_is_made_once(photos: Path) -> None:
    """Each of its names has its rows, whether both are in hand at once or one comes later."""
    for name in ("0b.png", "1b.png", "9.png"):
        (photos / name).write_bytes((photos / "0.png").read_bytes())
    assert run_here("photos", "--n", "2") == 0
    rows = [row for row in manifest() if row["source_sha256"] == manifest()[0]["source_sha256"]]
    assert [row["source_path"][7:] for row in rows[::2]] == ["0.png", "0b.png", "1b.png", "9.png"]
    assert len({row["output_path"] for row in rows}) == 2
    assert set(made().values()) == {1}


def test_any_name_of_a_file_will_do(photos: Path) -> None:
    """New lines, markup, all of Unicode, and bytes that are no UTF-8, which are shown escaped."""
    names = [b"new\nline.png", "\u00fc\U0001f431.png".encode(), b"<b>&.png", b"\xff'\".png"]
    for index, name in enumerate(names):
        data = square_png(64 + index)
        Path(os.fsdecode(os.fsencode(photos) + b"/" + name)).write_bytes(data)
    assert run_here("photos", "--jsonl", "--gallery") == 0
    shown = {row["source_path"] for row in manifest()} - {f"photos/{i}.png" for i in range(5)}
    assert shown == {
        "photos/new\nline.png",
        "photos/\u00fc\U0001f431.png",
        "photos/<b>&.png",
        "photos/\\udcff'\".png",
    }


def test_the_output_may_be_inside_the_input() -> None:
    """A second run varies the same pictures, not the results of the first."""
    assert run_here("photos", "--gallery", out="photos/out") == 0
    before = manifest("photos/out")
    assert run_here("photos", "--gallery", out="photos/out") == 0
    assert manifest("photos/out") == before
    assert len(before) == 5


def test_a_source_may_change_between_runs(photos: Path) -> None:
    """Its new content has new pictures, in the manifest too; the old files stay."""
    assert run_here("photos") == 0
    before = manifest()
    (photos / "0.png").write_bytes(square_png(100))
    assert run_here("photos") == 0
    assert manifest()[0]["output_path"] != before[0]["output_path"]
    assert manifest()[1:] == before[1:]
    assert len(pictures()) == 6


def test_a_source_may_go_away_amid_a_run(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a row with its error, and the others are made."""
    monkeypatch.setenv("ENGINE_REMOVES", str(photos / "4.png"))
    assert run_here("photos", "--workers", "1") == 3
    assert manifest()[-1]["error"] == "SourceError: There is no file '4.png'; check the path."
    assert len(pictures()) == 4


def test_rows_of_a_manifest_say_what_they_want() -> None:
    """Number, size and seed of each; the manifest of a run is a manifest for the next."""
    rows = [
        {"path": "photos/0.png", "n": 3},
        {"path": "photos/1.png", "size": "512x512", "seed": 7},
    ]
    Path("list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert run_here("list.jsonl") == 0
    assert [row["size"] for row in manifest()] == ["256x256"] * 3 + ["512x512"]
    assert manifest()[3]["seed"] == 7
    assert run_here("out/manifest.parquet", "--column", "output_path", out="further") == 0
    assert len(manifest("further")) == 4


def test_max_failures_ends_the_run_early(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the manifest of what had its turn, and exit 3."""
    for index in range(4):
        (photos / f"{index}.png").write_text("no picture")
    assert run_here("photos", "--max-failures", "2", "--workers", "1") == 3
    assert capsys.readouterr().err.splitlines() == [
        "0 made, 0 already there, 2 failed.",
        "  SourceError: 2, such as: Unsupported or corrupt image. "
        "Supported formats: PNG, JPEG, WEBP, GIF, BMP, TIFF.",
        "Not every picture had its turn; the same command goes on from here.",
    ]
    assert len(manifest()) == 2


def test_a_run_that_ends_early_keeps_what_was_said_before(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of sources that had no turn; a complete run forgets those that are gone."""
    assert run_here("photos") == 0
    before = manifest()
    (photos / "0.png").write_text("no picture")
    assert run_here("photos", "--max-failures", "1", "--workers", "1") == 3
    assert manifest()[1:] == before[1:]
    (photos / "0.png").unlink()
    assert run_here("photos") == 0
    assert manifest() == before[1:]


@pytest.mark.parametrize(
    ("engine", "code", "message"),
    [
        ("refused", 1, "image-variation: The key is wrong.\n"),
        ("lacking", 1, "image-variation: The engine 'lacking' needs the package"),
        ("magic", 2, "image-variation: There is no engine 'magic'. Installed engines:"),
    ],
)
def test_what_no_picture_would_survive_ends_the_run(
    engine: str, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, and not once for each picture."""
    assert run("photos", "--engine", engine) == code
    err = capsys.readouterr().err
    assert err.startswith(message)
    assert err.count("\n") == 1


@pytest.mark.slow
def test_a_worker_that_always_dies_is_an_error_of_the_picture() -> None:
    """After three attempts; the run goes on."""
    Path("list.csv").write_text("path\nphotos/0.png\n")
    assert run("list.csv", "--engine", "dying", "--workers", "1") == 3
    assert [row["error"] for row in manifest()] == [
        "EngineError: The worker's process ended with exit code 7, 3 times in a row."
    ]


def test_an_engine_that_prints_and_reads_disturbs_nothing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """What it prints is no message to the run, and there is nothing for it to read."""
    assert run("photos", "--engine", "noisy", "--workers", "1") == 0
    out, err = capfd.readouterr()
    assert out == "out/manifest.parquet\n"
    assert "stray output" in err
    assert len(manifest()) == 5


def test_engines_that_ask_a_server_are_called_at_once_from_this_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As many calls as there are workers, without processes."""
    monkeypatch.setenv("ENGINE_SECONDS", "0.1")
    assert run_here("photos", "--workers", "5") == 0
    pid, most = Path(os.environ["ENGINE_LOG"] + ".most").read_text().split()
    assert (int(pid), int(most)) == (os.getpid(), 5)


def test_a_real_server_is_asked(tmp_path: Path) -> None:
    """Its pictures are kept as any other's, and are not asked for again."""
    with serving(create_app("instant", store_dir=tmp_path / "store")) as address:
        arguments = ["photos", "--engine", "variations", "--base-url", f"{address}/v1"]
        assert run_here(*arguments, "--n", "2", "--workers", "4") == 0
        before = manifest()
    assert {row["seed"] for row in before} == {None}
    assert len(pictures()) == 10
    assert run_here(*arguments, "--n", "2") == 0
    assert manifest() == before


def test_workers_that_cannot_be_started_end_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, and not after three attempts for each picture."""
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    assert run("photos") == 1
    assert capsys.readouterr().err == (
        "image-variation: The workers' processes cannot be started: the last one ended with exit "
        "code 1.\n"
    )


BAD = [
    ("photos --n 0", "n must be a whole number from 1 to 10, got 0."),
    ("photos --size 640x480", "size must be one of '256x256', '512x512', '1024x1024', got"),
    ("photos --fit stretch", "argument --fit: invalid choice: 'stretch'"),
    ("photos --workers 0", "--workers must be a whole number of at least 1, got 0."),
    ("photos --max-failures 0", "--max-failures must be a whole number of at least 1, got 0."),
    ("photos --output-dir ", "output_dir is empty; pass a folder or a URL."),
    ("photos --output-dir https://a.example", "output_dir must be a path on this machine or"),
    ("none", "There is no file or folder 'none'; check the path."),
    ("empty", "There is no picture to vary; name files or folders."),
    ("photos --strength 2 --engine local", "strength must be a number from 0 to 1, got 2.0"),
    ("", "the following arguments are required: PHOTOS"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[message[:30] for _, message in BAD])
def test_bad_usage_is_one_line_and_exit_code_2(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is made."""
    Path("empty").mkdir()
    assert main(["batch", *(arguments.split(" ") if arguments else [])]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
    assert not Path("variations", "pictures").exists()


def test_without_pyarrow_json_lines_are_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And without --jsonl, the message says what to install and what else to do."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert run_here("photos") == 1
    assert capsys.readouterr().err == (
        "image-variation: manifest.parquet needs the package 'pyarrow', which is not installed; "
        "run: pip install 'langchain-image-variation[batch]', or pass --jsonl for JSON Lines "
        "alone.\n"
    )
    assert run_here("photos", "--jsonl") == 0
    assert capsys.readouterr().out == "out/manifest.jsonl\n"
    Path("list.parquet").touch()
    assert run_here("list.parquet", "--jsonl") == 1
    assert "Reading 'list.parquet' needs the package 'pyarrow'" in capsys.readouterr().err


def test_a_terminal_shows_how_far_it_is() -> None:
    """With the rate and the time left."""
    terminal, child_side = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    arguments = ["batch", "photos", "--engine", "hosted"]
    process = subprocess.Popen(
        [sys.executable, "-m", "langchain_image_variation", *arguments],
        stderr=child_side,
        stdout=subprocess.DEVNULL,
    )
    os.close(child_side)
    shown = b""
    # On Linux the end of a terminal is an error, elsewhere an empty read.
    with contextlib.suppress(OSError):
        while data := os.read(terminal, 4096):
            shown += data
    os.close(terminal)
    assert process.wait(timeout=60) == 0
    assert re.search(rb"sources: 100%\|.*5/5 \[.*sources/s\]", shown)


def test_a_ledger_of_another_release_is_refused() -> None:
    """Rather than read wrongly."""
    Path("out").mkdir()
    with Ledger(Path("out")):
        pass
    with contextlib.closing(sqlite3.connect("out/.bulk/ledger.sqlite")) as database:
        database.execute("PRAGMA user_version = 9")
    with pytest.raises(OutputError, match="written by another release"):
        Ledger(Path("out"))


class _Links(HTMLParser):
    def __init__(self, page: Path) -> None:
        super().__init__()
        self.targets: list[Path] = []
        self.tags: set[str] = set()
        self._page = page
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep what the page refers to."""
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "href"):
                assert value is not None
                assert ":" not in value
                self.targets.append(self._page.parent / unquote(value))


def test_the_gallery_shows_sources_and_pictures(photos: Path) -> None:
    """All that it refers to is on disk; names and errors are text, never markup."""
    (photos / "<b>'\".png").write_bytes(jpeg())
    (photos / "9.png").write_text("no picture")
    assert run_here("photos", "--n", "2", "--gallery") == 3
    page = _Links(Path("out/gallery/index.html"))
    assert page.targets
    assert all(target.is_file() for target in page.targets)
    assert "b" not in page.tags
    assert "script" not in page.tags
    assert "&lt;b&gt;" in Path("out/gallery/index.html").read_text()
    assert "SourceError: Unsupported or corrupt image" in Path("out/gallery/index.html").read_text()
    thumbnails = [target for target in page.targets if target.suffix == ".jpg"]
    # A source and two variations of each, but the one that is no picture.
    assert len(thumbnails) == 6 * 3
    for thumbnail in thumbnails:
        with Image.open(thumbnail) as image:
            assert max(image.size) <= 160


def test_a_large_gallery_has_pages(photos: Path) -> None:
    """Each source is whole on one; those that are no longer needed are removed."""
    assert run_here("photos", "--n", "2", "--gallery") == 0
    folder = OutputFolder("out")
    with Ledger(Path("out")) as ledger:
        rows = list(ledger.rows())
    many = [
        {**row, "source_path": f"{copy}/{row['source_path']}"} for copy in range(60) for row in rows
    ]
    pages = write_pages(many, folder, read_file)
    assert pages == -(-len(many) // PICTURES_A_PAGE)
    texts = [Path("out/gallery/index.html").read_text()]
    texts += [Path(f"out/gallery/page-{number}.html").read_text() for number in range(2, pages + 1)]
    assert sum(text.count("<section>") for text in texts) == len(many) // 2
    assert [text.count("next page") for text in texts] == [2, 2, 0]
    assert [text.count("previous page") for text in texts] == [0, 2, 2]
    assert write_pages(rows, folder, read_file) == 1
    assert sorted(path.name for path in Path("out/gallery").glob("*.html")) == ["index.html"]


def test_a_gallery_may_end_early() -> None:
    """What was shown so far is a page; written again, it is whole."""
    assert run_here("photos") == 0
    with Ledger(Path("out")) as ledger:
        said = iter([False, False, True])
        outputs = OutputFolder("out")
        assert write_pages(ledger.rows(), outputs, read_file, stopped=lambda: next(said)) == 1
        assert Path("out/gallery/index.html").read_text().count("<section>") == 2
        assert write_pages(ledger.rows(), outputs, read_file) == 1
        assert Path("out/gallery/index.html").read_text().count("<section>") == 5


def test_a_gallery_survives_a_source_that_is_gone(photos: Path) -> None:
    """Its pictures are shown, and where it was is said so."""
    assert run_here("photos") == 0
    (photos / "0.png").unlink()
    (photos / "1.png").write_bytes(square_png(99))
    with Ledger(Path("out")) as ledger:
        assert write_pages(ledger.rows(), OutputFolder("out"), read_file) == 1
    assert Path("out/gallery/index.html").read_text().count("no picture to show") == 2


@pytest.mark.parametrize("gpus", ["1", "-1", "nan"])
def test_gpus_are_for_a_cluster_and_no_nonsense(
    gpus: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run without a cluster takes none; the message says so."""
    assert run_here("photos", "--gpus", gpus) == 2
    assert "--gpus" in capsys.readouterr().err
    assert not pictures()


@pytest.mark.skipif(find_spec("ray") is not None, reason="'ray' is installed")
def test_without_ray_the_message_names_the_extra(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is made."""
    assert run_here("photos", "--ray") == 1
    assert "langchain-image-variation[ray]" in capsys.readouterr().err
    assert not pictures()


def test_a_manifest_that_is_there_stays_true() -> None:
    """One of JSON Lines is written again though the second run does not ask for it."""
    assert run_here("photos", "--jsonl") == 0
    Path("photos/0.png").unlink()
    assert run_here("photos") == 0
    assert len(manifest()) == 4


def test_a_log_has_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    """With the rate and the time left, where standard error is no terminal."""
    with meter(400, of="sources", line_every=0) as step:
        step()
    with meter(400, of="sources") as step:
        step()
    said = capsys.readouterr().err
    assert re.fullmatch(r"0% 1/400 \[00:00<[0-9:?]+, .* sources/s\]\n", said), said
