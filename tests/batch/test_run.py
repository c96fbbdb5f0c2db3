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

from langchain_image_variation.batch.gallery import IMAGES_PER_PAGE, write_gallery
from langchain_image_variation.batch.ledger import Ledger
from langchain_image_variation.cli import main
from langchain_image_variation.exceptions import OutputError, install_command
from langchain_image_variation.files.outputs import OutputFolder
from langchain_image_variation.progress_bar import show_progress
from langchain_image_variation.server import create_app
from langchain_image_variation.source.read import read_file
from pytest_image_variation.samples import corrupt_png, jpeg, non_square_png, square_png
from tests.batch.declared_engines import count_made_images
from tests.batch.runs import output_images, read_manifest, run, run_hosted
from tests.images.scans import with_scans
from tests.server.serving import serving


def test_folder_becomes_images_and_manifest(capsys: pytest.CaptureFixture[str]) -> None:
    """A folder becomes images and a manifest, and a second run makes nothing."""
    assert run("photos", "--n", "2", "--jsonl") == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == ["out/manifest.parquet", "out/manifest.jsonl"]
    assert err == "10 made, 0 already there, 0 failed.\n"
    lines = Path("out/manifest.jsonl").read_text()
    rows = read_manifest()
    assert [row["source_path"] for row in rows[::2]] == [f"photos/{i}.png" for i in range(5)]
    assert [row["index"] for row in rows] == [1, 2] * 5
    assert output_images().keys() == {row["output_path"] for row in rows}
    assert all(json.loads(line)["milliseconds"] is not None for line in lines.splitlines())
    assert run("photos", "--n", "2", "--jsonl") == 0
    assert capsys.readouterr().err == "0 made, 10 already there, 0 failed.\n"
    assert Path("out/manifest.jsonl").read_text() == lines
    assert set(count_made_images().values()) == {1}


def test_n_may_change_between_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """A higher n adds images, and a lower n keeps all files but lists only n in the manifest."""
    assert run_hosted("photos", "--n", "2") == 0
    rows = read_manifest()
    assert run_hosted("photos", "--n", "4") == 0
    assert capsys.readouterr().err.splitlines()[-1] == "10 made, 10 already there, 0 failed."
    assert [row for row in read_manifest() if row["index"] <= 2] == rows
    assert run_hosted("photos", "--n", "2") == 0
    assert read_manifest() == rows
    assert (len(output_images()), set(count_made_images().values())) == (20, {1})


def test_bad_images_are_rows_and_exit_code_3(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bad images become rows, and the summary counts the errors by class, with examples."""
    (photos / "corrupt.png").write_bytes(corrupt_png())
    (photos / "empty.png").touch()
    for index in range(2, 5):
        (photos / f"{index}.png").unlink()
    Path("list.csv").write_text("path,n\nphotos/0.png,many\nphotos/none.png,\nphotos/0.png,1,2\n")
    arguments = ["photos", "list.csv", "--engine", "local", "--workers", "1"]
    assert run(*arguments) == 3
    summary, *reasons = capsys.readouterr().err.splitlines()
    assert summary == "2 made, 0 already there, 5 failed."
    assert sorted(reasons) == [
        "  Line 4 of 'list.csv' has more values than there are columns.",
        "  photos/0.png: n must be a whole number from 1 to 10, got 'many'.",
        "  photos/corrupt.png: image is a corrupt PNG file: its pixels cannot be decompressed.",
        "  photos/empty.png: The source is empty; pass an image file.",
        "  photos/none.png: There is no file 'none.png'; check the path.",
    ]
    errors = {row["source_path"]: row["error"] for row in read_manifest() if row["error"]}
    assert errors.keys() == {
        "photos/corrupt.png",
        "photos/empty.png",
        "photos/0.png",
        "photos/none.png",
        None,
    }
    assert errors[None] == (
        "InvalidRequestError: Line 4 of 'list.csv' has more values than there are columns."
    )
    (photos / "corrupt.png").unlink()
    (photos / "empty.png").write_bytes(square_png(99))
    assert run_hosted("photos") == 0
    assert [row["error"] for row in read_manifest()] == [None] * 3


@pytest.mark.slow
def test_jpeg_with_hundreds_of_scans_is_a_row(photos: Path) -> None:
    """A JPEG with hundreds of scans becomes a row and is never decoded."""
    (photos / "scans.jpg").write_bytes(with_scans(300))
    assert run("photos", "--gallery") == 3
    errors = {row["source_path"]: row["error"] for row in read_manifest() if row["error"]}
    assert errors.keys() == {"photos/scans.jpg"}
    assert "300 scans; the limit is 100" in str(errors["photos/scans.jpg"])
    assert len(output_images()) == 5
    assert "image not available" in Path("out/gallery/index.html").read_text()


def test_copies_of_a_source_are_processed_once(photos: Path) -> None:
    """Copies of a source are processed once, and each copy has its own rows and files."""
    for name in ("0b.png", "1b.png", "9.png"):
        (photos / name).write_bytes((photos / "0.png").read_bytes())
    assert run_hosted("photos", "--n", "2") == 0
    sha256 = read_manifest()[0]["source_sha256"]
    rows = [row for row in read_manifest() if row["source_sha256"] == sha256]
    assert [row["source_path"][7:] for row in rows[::2]] == ["0.png", "0b.png", "1b.png", "9.png"]
    assert [Path(row["output_path"]).name.partition("-")[0] for row in rows[::2]] == [
        *("0", "0b", "1b", "9")
    ]
    assert len({row["output_path"] for row in rows}) == 8
    assert len({row["output_sha256"] for row in rows}) == 2
    assert output_images().keys() == {row["output_path"] for row in read_manifest()}
    assert set(count_made_images().values()) == {1}
    Path("out", rows[2]["output_path"]).write_bytes(square_png(256))
    all_rows = read_manifest()
    assert run_hosted("photos", "--n", "2") == 0
    assert read_manifest() == all_rows
    assert set(count_made_images().values()) == {1}


def test_file_names_may_have_any_characters(photos: Path) -> None:
    """File names may have line breaks, markup, any Unicode, and bytes that are not UTF-8."""
    names = [b"new\nline.png", "\u00fc\U0001f431.png".encode(), b"<b>&.png", b"\xff'\".png"]
    for index, name in enumerate(names):
        data = square_png(64 + index)
        Path(os.fsdecode(os.fsencode(photos) + b"/" + name)).write_bytes(data)
    assert run_hosted("photos", "--jsonl", "--gallery") == 0
    new_paths = {row["source_path"] for row in read_manifest()} - {
        f"photos/{i}.png" for i in range(5)
    }
    assert new_paths == {
        "photos/new\nline.png",
        "photos/\u00fc\U0001f431.png",
        "photos/<b>&.png",
        "photos/\\udcff'\".png",
    }


def test_output_may_be_inside_the_input() -> None:
    """A second run with its output inside the input uses the same sources, not the results."""
    assert run_hosted("photos", "--gallery", out="photos/out") == 0
    first_rows = read_manifest("photos/out")
    assert run_hosted("photos", "--gallery", out="photos/out") == 0
    assert read_manifest("photos/out") == first_rows
    assert len(first_rows) == 5


def test_source_may_change_between_runs(photos: Path) -> None:
    """A source with new content gets new images and rows, and the old files stay."""
    assert run_hosted("photos") == 0
    first_rows = read_manifest()
    (photos / "0.png").write_bytes(square_png(100))
    assert run_hosted("photos") == 0
    assert read_manifest()[0]["output_path"] != first_rows[0]["output_path"]
    assert read_manifest()[1:] == first_rows[1:]
    assert len(output_images()) == 6


def test_source_may_be_deleted_during_a_run(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deleted source gets a row with an error, and the others are made."""
    monkeypatch.setenv("ENGINE_REMOVES", str(photos / "4.png"))
    assert run_hosted("photos", "--workers", "1") == 3
    assert read_manifest()[-1]["error"] == "SourceError: There is no file '4.png'; check the path."
    assert len(output_images()) == 4


def test_manifest_rows_have_their_own_settings() -> None:
    """Each row of a manifest has its own settings, and a run's manifest can be an input."""
    rows = [
        {"path": "photos/0.png", "n": 3},
        {"path": "photos/1.png", "size": "512x512", "seed": 7},
    ]
    Path("list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert run_hosted("list.jsonl") == 0
    assert [row["size"] for row in read_manifest()] == ["256x256"] * 3 + ["512x512"]
    assert read_manifest()[3]["seed"] == 7
    assert run_hosted("out/manifest.parquet", "--column", "output_path", out="further") == 0
    assert len(read_manifest("further")) == 4


def test_a_source_without_its_package_is_a_row(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the extra `heif`, a HEIC source fails, and the others get images."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (photos / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    assert run_hosted("photos") == 3
    errors = {row["source_path"]: row["error"] for row in read_manifest()}
    message = errors.pop("photos/phone.HEIC")
    assert message.endswith(f"Run: {install_command('langchain-image-variation[heif]')}")
    assert list(errors.values()) == [None] * 5
    assert "  photos/phone.HEIC: A HEIC image needs" in capsys.readouterr().err


def test_max_failures_stops_the_run(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At `--max-failures`, the run writes the manifest of the sources so far and exits with 3."""
    for index in range(4):
        (photos / f"{index}.png").write_text("not an image")
    assert run_hosted("photos", "--max-failures", "2", "--workers", "1") == 3
    assert capsys.readouterr().err.splitlines() == [
        "0 made, 0 already there, 2 failed.",
        *(
            f"  photos/{index}.png: The source is text, which is not supported. Pass an image "
            "file, such as a PNG or JPEG."
            for index in range(2)
        ),
        "The batch is not complete. Run the same command again to continue.",
    ]
    assert len(read_manifest()) == 2


def test_stopped_run_keeps_earlier_rows(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sources that a stopped run did not reach keep their rows."""
    assert run_hosted("photos") == 0
    first_rows = read_manifest()
    (photos / "0.png").write_text("not an image")
    assert run_hosted("photos", "--max-failures", "1", "--workers", "1") == 3
    assert read_manifest()[1:] == first_rows[1:]
    (photos / "0.png").unlink()
    assert run_hosted("photos") == 0
    assert read_manifest() == first_rows[1:]


@pytest.mark.parametrize(
    ("engine", "code", "message"),
    [
        ("refused", 1, "image-variation: The key is wrong.\n"),
        ("lacking", 1, "image-variation: The engine 'lacking' needs the package"),
        ("magic", 2, "image-variation: There is no engine 'magic'. Installed engines:"),
    ],
)
def test_fatal_errors_end_the_run(
    engine: str, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fatal error ends the run with a single line, not one per source."""
    assert run("photos", "--engine", engine) == code
    err = capsys.readouterr().err
    assert err.startswith(message)
    assert err.count("\n") == 1


@pytest.mark.slow
def test_source_that_kills_workers_fails() -> None:
    """A source that kills workers fails after three attempts, and the run goes on."""
    Path("list.csv").write_text("path\nphotos/0.png\n")
    assert run("list.csv", "--engine", "dying", "--workers", "1") == 3
    assert [row["error"] for row in read_manifest()] == [
        "EngineError: The worker process died 3 times in a row (exit code 7)."
    ]


@pytest.mark.slow
def test_engine_may_print_and_read(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """What an engine prints does not mix with messages to the run, and its input is empty."""
    assert run("photos", "--engine", "noisy", "--workers", "1") == 0
    out, err = capfd.readouterr()
    assert out == "out/manifest.parquet\n"
    assert "stray output" in err
    assert len(read_manifest()) == 5


def test_hosted_engines_get_concurrent_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A hosted engine gets as many calls at once as workers, without worker processes."""
    monkeypatch.setenv("ENGINE_SECONDS", "0.1")
    assert run_hosted("photos", "--workers", "5") == 0
    pid, calls = Path(os.environ["ENGINE_LOG"] + ".calls").read_text().split()
    assert (int(pid), int(calls)) == (os.getpid(), 5)


def test_run_with_a_real_server(tmp_path: Path) -> None:
    """Images of a real server are kept, and not requested again."""
    with serving(create_app("instant", store_dir=tmp_path / "store")) as address:
        arguments = ["photos", "--engine", "variations", "--base-url", f"{address}/v1"]
        assert run_hosted(*arguments, "--n", "2", "--workers", "4") == 0
        first_rows = read_manifest()
    assert {row["seed"] for row in first_rows} == {None}
    assert len(output_images()) == 10
    assert run_hosted(*arguments, "--n", "2") == 0
    assert read_manifest() == first_rows


def test_workers_that_cannot_start_end_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Workers that cannot start end the run with one line, without attempts per source."""
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    assert run("photos") == 1
    assert capsys.readouterr().err == (
        "image-variation: The worker processes cannot be started. The last one ended early (exit "
        "code 1). Use fewer workers, or check that this Python can import the package.\n"
    )


@pytest.mark.slow
def test_the_manifest_names_model_and_note() -> None:
    """The manifest has the model and the note of the engine, also for images of an earlier run."""
    shutil.copy("photos/0.png", "photos/copy.png")
    for arguments in (["-n", "1"], ["-n", "2"], ["-n", "2", "photos/copy.png"]):
        assert run("photos/0.png", *arguments, "--engine", "noting") == 0
    rows = read_manifest()
    assert [row["model"] for row in rows] == ["small"] * 4
    assert [row["note"] for row in rows] == ["Made at 512x512 and enlarged."] * 4


@pytest.mark.slow
def test_another_fit_makes_other_images(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run with another --fit in the same folder reuses nothing and replaces nothing."""
    (photos / "wide.png").write_bytes(non_square_png())
    for fit, height in (("crop", 256), ("pad", 256), ("keep", 171)):
        assert run("photos/wide.png", "--fit", fit) == 0
        assert capsys.readouterr().err == "1 made, 0 already there, 0 failed.\n"
        (row,) = read_manifest()
        with Image.open(Path("out", row["output_path"])) as image:
            assert image.size == (256, height)
    assert len(list(Path("out/images").rglob("*.png"))) == 3
    assert run("photos/wide.png", "--fit", "keep", "--gallery") == 0
    assert capsys.readouterr().err == "0 made, 1 already there, 0 failed.\n"
    shapes = set()
    for path in Path("out/gallery/thumbnails").rglob("*.jpg"):
        with Image.open(path) as thumbnail:
            shapes.add(thumbnail.size)
    assert shapes == {(96, 64), (160, 107)}


BAD = [
    ("photos --n 0", "--n must be a whole number from 1 to 10, got 0."),
    ("photos --size 640x480", "argument --size: must be one of 256x256, 512x512, 1024x1024, got"),
    ("photos --fit stretch", "argument --fit: must be one of "),
    ("photos --workers 0", "--workers must be a whole number of at least 1, got 0."),
    ("photos --max-failures 0", "--max-failures must be a whole number of at least 1, got 0."),
    ("photos --output-dir ", "--output-dir is empty; pass a folder or a URL."),
    ("photos --output-dir https://a.example", "--output-dir must be a path on this machine or"),
    ("none", "There is no file or folder 'none'; check the path."),
    ("empty", "No images found. Pass image files, or folders that contain images."),
    (
        "photos --strength 2 --engine local --workers 1",
        "strength must be a number from 0 to 1, got 2.0",
    ),
    ("", "the following arguments are required: PHOTOS"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[message[:30] for _, message in BAD])
def test_bad_usage_is_one_line_and_exit_code_2(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bad usage is one line with exit code 2, and nothing is written."""
    Path("empty").mkdir()
    assert main(["batch", *(arguments.split(" ") if arguments else [])]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
    assert not Path("variations", "images").exists()


def test_json_lines_need_no_pyarrow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without pyarrow, the manifest is JSON Lines, and a note says so."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert run_hosted("photos") == 0
    out, err = capsys.readouterr()
    assert out == "out/manifest.jsonl\n"
    note = "Writing manifest.jsonl instead of manifest.parquet, because pyarrow is not installed.\n"
    assert err.startswith(note)
    assert run_hosted("photos", "--jsonl") == 0
    out, err = capsys.readouterr()
    assert out == "out/manifest.jsonl\n" and note not in err
    Path("list.parquet").touch()
    assert run_hosted("list.parquet") == 1
    assert "Reading 'list.parquet' needs the package 'pyarrow'" in capsys.readouterr().err


def test_a_parquet_manifest_does_not_become_outdated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without pyarrow, a run next to a Parquet manifest is refused unless `--jsonl` is passed."""
    Path("out").mkdir()
    Path("out", "manifest.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert run_hosted("photos") == 1
    assert capsys.readouterr().err == (
        "image-variation: The output folder has a manifest.parquet, which needs the package "
        "'pyarrow' to be kept up to date. It is not installed. Pass --jsonl for JSON Lines "
        f"instead, or run: {install_command('langchain-image-variation[batch]')}\n"
    )
    assert run_hosted("photos", "--jsonl") == 0


def test_quiet_prints_files_and_failures(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --quiet, a run that succeeds prints only its files, and one that fails says why."""
    assert run_hosted("photos", "--quiet") == 0
    assert capsys.readouterr() == ("out/manifest.parquet\n", "")
    (photos / "empty.png").touch()
    assert run_hosted("photos", "-q") == 3
    assert "photos/empty.png: The source is empty" in capsys.readouterr().err


@pytest.mark.slow
def test_terminal_shows_progress() -> None:
    """On a terminal, a bar shows the rate and the remaining time."""
    terminal, child_side = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    arguments = ["batch", "photos", "--engine", "hosted"]
    process = subprocess.Popen(
        [sys.executable, "-m", "langchain_image_variation", *arguments],
        stderr=child_side,
        stdout=subprocess.DEVNULL,
    )
    os.close(child_side)
    output = b""
    # At the end of a terminal, Linux raises an error. Other systems return nothing.
    with contextlib.suppress(OSError):
        while data := os.read(terminal, 4096):
            output += data
    os.close(terminal)
    assert process.wait(timeout=60) == 0
    assert re.search(rb"sources: 100%\|.*5/5 \[.*sources/s\]", output)


def test_incompatible_ledger_is_refused() -> None:
    """A ledger with another schema version is refused instead of misread."""
    Path("out").mkdir()
    with Ledger(Path("out")):
        pass
    with contextlib.closing(sqlite3.connect("out/.batch/ledger.sqlite")) as database:
        database.execute("PRAGMA user_version = 9")
    with pytest.raises(OutputError, match="written by an incompatible version"):
        Ledger(Path("out"))


class _Links(HTMLParser):
    def __init__(self, page: Path) -> None:
        super().__init__()
        self.targets: list[Path] = []
        self.tags: set[str] = set()
        self._page = page
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record the links and tags of the page."""
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "href"):
                assert value is not None
                assert ":" not in value
                self.targets.append(self._page.parent / unquote(value))


def test_gallery_shows_sources_and_variations(photos: Path) -> None:
    """All files linked in the gallery exist, and names and errors are text, never markup."""
    (photos / "<b>'\".png").write_bytes(jpeg())
    without_end = square_png()[:-12]
    (photos / "repaired.png").write_bytes(without_end)
    (photos / "9.png").write_text("not an image")
    assert run_hosted("photos", "--n", "2", "--gallery") == 3
    page = _Links(Path("out/gallery/index.html"))
    assert page.targets
    assert all(target.is_file() for target in page.targets)
    assert "b" not in page.tags
    assert "script" not in page.tags
    assert "&lt;b&gt;" in Path("out/gallery/index.html").read_text()
    assert "SourceError: The source is text" in Path("out/gallery/index.html").read_text()
    thumbnails = [target for target in page.targets if target.suffix == ".jpg"]
    # One source and two variations each, except for the file that is not an image.
    assert len(thumbnails) == 7 * 3
    for thumbnail in thumbnails:
        with Image.open(thumbnail) as image:
            assert max(image.size) <= 160


@pytest.mark.slow
def test_large_gallery_has_pages(photos: Path) -> None:
    """No source is split between the pages of a gallery, and obsolete pages are removed."""
    assert run_hosted("photos", "--n", "2", "--gallery") == 0
    folder = OutputFolder("out")
    with Ledger(Path("out")) as ledger:
        rows = list(ledger.rows())
    many_rows = [
        {**row, "source_path": f"{copy}/{row['source_path']}"} for copy in range(60) for row in rows
    ]
    pages = write_gallery(many_rows, folder, read_file)
    assert pages == -(-len(many_rows) // IMAGES_PER_PAGE)
    texts = [Path("out/gallery/index.html").read_text()]
    texts += [Path(f"out/gallery/page-{number}.html").read_text() for number in range(2, pages + 1)]
    assert sum(text.count("<section>") for text in texts) == len(many_rows) // 2
    assert [text.count("next page") for text in texts] == [2, 2, 0]
    assert [text.count("previous page") for text in texts] == [0, 2, 2]
    assert write_gallery(rows, folder, read_file) == 1
    assert sorted(path.name for path in Path("out/gallery").glob("*.html")) == ["index.html"]


def test_gallery_may_stop_early() -> None:
    """A gallery that stopped early shows the sources so far, and is complete once rewritten."""
    assert run_hosted("photos") == 0
    with Ledger(Path("out")) as ledger:
        answers = iter([False, False, True])
        outputs = OutputFolder("out")
        assert (
            write_gallery(ledger.rows(), outputs, read_file, is_stopped=lambda: next(answers)) == 1
        )
        assert Path("out/gallery/index.html").read_text().count("<section>") == 2
        assert write_gallery(ledger.rows(), outputs, read_file) == 1
        assert Path("out/gallery/index.html").read_text().count("<section>") == 5


def test_gallery_survives_missing_sources(photos: Path) -> None:
    """The gallery shows the variations of a missing source, and a note in its place."""
    assert run_hosted("photos") == 0
    (photos / "0.png").unlink()
    (photos / "1.png").write_bytes(square_png(99))
    with Ledger(Path("out")) as ledger:
        assert write_gallery(ledger.rows(), OutputFolder("out"), read_file) == 1
    assert Path("out/gallery/index.html").read_text().count("image not available") == 2


@pytest.mark.parametrize("gpus", ["1", "-1", "nan"])
def test_gpus_need_a_cluster(gpus: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--gpus` without `--ray` is refused, and the message names the option."""
    assert run_hosted("photos", "--gpus", gpus) == 2
    assert "--gpus" in capsys.readouterr().err
    assert not output_images()


@pytest.mark.skipif(find_spec("ray") is not None, reason="'ray' is installed")
def test_missing_ray_names_the_extra(capsys: pytest.CaptureFixture[str]) -> None:
    """Without Ray, the error names the extra, and nothing is made."""
    assert run_hosted("photos", "--ray") == 1
    assert install_command("langchain-image-variation[ray]") in capsys.readouterr().err
    assert not output_images()


def test_existing_manifest_is_kept_up_to_date() -> None:
    """A later run without --jsonl writes an existing JSON Lines manifest again."""
    assert run_hosted("photos", "--jsonl") == 0
    Path("photos/0.png").unlink()
    assert run_hosted("photos") == 0
    assert len(read_manifest()) == 4


def test_log_has_occasional_progress_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """If standard error is not a terminal, lines show the rate and the remaining time."""
    with show_progress(400, unit="sources", log_interval=0) as advance:
        advance()
    with show_progress(400, unit="sources") as advance:
        advance()
    err = capsys.readouterr().err
    assert re.fullmatch(r"0% 1/400 \[00:00<[0-9:?]+, .* sources/s\]\n", err), err
