import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from langchain_image_variation.cli import main
from langchain_image_variation.exceptions import install_command
from pytest_image_variation.samples import corrupt_png, jpeg, square_png
from tests.calling import failure
from tests.cli.program import PROGRAM, call, declare, run
from tests.http.raw_server import raw_server, response

SMALL = ["--size", "256x256", "--engine", "instant"]


@pytest.fixture
def other_photo() -> Path:
    """A second image, in a folder."""
    path = Path("photos/other.png")
    path.parent.mkdir()
    path.write_bytes(square_png())
    return path


def test_several_images_are_varied_in_order(
    other_photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each image gets its variations and a sheet, printed in the order of the images."""
    assert main(["create", "photo.jpg", str(other_photo), "-n", "2", *SMALL, "-o", "out"]) == 0
    out, err = capsys.readouterr()
    paths = out.splitlines()
    assert [path.partition("-")[0] for path in paths] == ["out/photo"] * 3 + ["out/other"] * 3
    assert all(Path(path).is_file() for path in paths)
    note, seed = err.splitlines()
    assert note == "photo: converted JPEG to PNG, cropped 96x64 to the centered 64x64."
    assert seed.startswith("Make these again with --seed ")


def test_images_and_options_come_in_any_order(
    other_photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images may come before, between and after the options."""
    arguments = ["photo.jpg", "-n2", str(other_photo), "--no-sheet", *SMALL, "photo.jpg", "-q"]
    assert main(["create", *arguments]) == 0
    names = [path.split("-")[0] for path in capsys.readouterr().out.splitlines()]
    assert names == [f"variations/{name}" for name in ("photo", "other", "photo") for _ in "12"]


def test_a_failed_image_does_not_stop_the_others(
    other_photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each error names its image as typed, the others are made, and the exit code is 3."""
    Path("photos/corrupt.png").write_bytes(corrupt_png())
    missing = str(Path("none.png").absolute())
    images = ["photos/corrupt.png", "photo.jpg", missing, "photos", str(other_photo)]
    assert main(["create", *images, *SMALL, "--no-sheet", "--quiet"]) == 3
    out, err = capsys.readouterr()
    assert [path[:16] for path in out.splitlines()] == ["variations/photo", "variations/other"]
    corrupt, missing_line, folder = err.splitlines()
    assert corrupt.startswith("image-variation: photos/corrupt.png: image is a corrupt PNG file")
    assert missing_line == f"image-variation: There is no file {missing!r}; check the path."
    assert folder == (
        "image-variation: 'photos' is a folder. Pass images, or use `image-variation batch`, which "
        "varies whole folders."
    )


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("photos/corrupt.png", "photos/corrupt.png"),
        ("photos/a\nb.png", r"'photos/a\nb.png'"),
        ("image", "image"),
        ("https://user:secret@example.com/cat.png?key=secret", "https://example.com/cat.png"),
        ("data:image/png;base64,AAAA", "the data: URL"),
    ],
)
def test_the_error_of_one_image_names_it(
    image: str, name: str, other_photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A single image is also named as typed, in one line and without secrets."""
    if ":" not in image:
        Path(image).write_bytes(b"text")
    for images, code in (([image], 2), ([image, str(other_photo)], 3)):
        assert main(["create", *images, *SMALL, "--quiet"]) == code
        err = capsys.readouterr().err
        assert err.startswith(f"image-variation: {name}: ")
        assert (err.count("\n"), "secret" in err) == (1, False)


@pytest.mark.slow
def test_a_name_that_is_not_text_is_shown_once(other_photo: Path) -> None:
    """The error about a file whose name is not UTF-8 has that name once."""
    completed = run("create", os.fsdecode(b"caf\xe9.jpg"), str(other_photo), *SMALL, "--quiet")
    assert completed.stderr == (
        b"image-variation: There is no file 'caf\\udce9.jpg'; check the path.\n"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "local", "--strength", "2"], "--strength must be a number from 0 to 1"),
        (["-o", "photo.jpg"], "'photo.jpg' is a file; choose a folder for the results."),
        (["--allow-host", "http://x"], "--allow-host: 'http://x' is not a full host name"),
    ],
)
def test_a_wrong_option_is_one_error_for_all_images(
    options: list[str], message: str, other_photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An option that fails for every image is reported once, without an image or a seed."""
    assert main(["create", "photo.jpg", str(other_photo), *SMALL, *options]) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"image-variation: {message}")
    assert (out, err.count("\n")) == ("", 1)


def test_no_seed_is_printed_if_nothing_was_made(
    other_photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If all images fail, there is nothing to make again."""
    refusal = response(400, failure("The image shows a secret.", code="content_policy_violation"))
    with raw_server(refusal, refusal) as server:
        arguments = ["--engine", "variations", "--base-url", server.base_url]
        assert main(["create", "photo.jpg", str(other_photo), *arguments]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("image-variation: photo.jpg: ")


def test_an_image_without_its_decoder_fails_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the package for one image's format is missing, the other images are still made."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    Path("phone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    assert main(["create", "phone.heic", "photo.jpg", *SMALL, "--no-sheet", "-q"]) == 3
    out, err = capsys.readouterr()
    assert out.startswith("variations/photo-")
    command = install_command("langchain-image-variation[heif]")
    assert err == (
        "image-variation: phone.heic: A HEIC image needs the package 'pillow_heif', which is not "
        f"installed. Run: {command}\n"
    )


def test_an_error_that_would_repeat_ends_the_run(
    other_photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the key is wrong, the server is asked only once, not once per image."""
    refusal = response(401, failure("Incorrect API key.", code="invalid_api_key"))
    with raw_server(refusal, refusal) as server:
        arguments = ["--engine", "variations", "--base-url", server.base_url]
        assert main(["create", "photo.jpg", str(other_photo), *arguments]) == 1
        assert len(server.requests) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_several_images_share_one_engine_and_seed(
    other_photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The engine is created once and closed once, and one seed repeats the whole run."""
    declare(tmp_path, "counting", "counting = counting:Engine\n")
    (tmp_path / "counting.py").write_text(
        "from langchain_image_variation.engines.instant import InstantEngine\n"
        "class Engine(InstantEngine):\n"
        "    def __init__(self, seed=None):\n"
        "        print('made'); super().__init__(seed=seed)\n"
        "    def close(self): print('closed')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    command = ["create", "photo.jpg", str(other_photo), "--size", "256x256", "--engine", "counting"]
    assert main(command) == 0
    out, err = capsys.readouterr()
    first, *paths, last = out.splitlines()
    assert (first, last, len(paths)) == ("made", "closed", 4)
    seed = err.splitlines()[-1].removeprefix("Make these again with --seed ").rstrip(".")
    assert main([*command, "--seed", seed]) == 0
    assert capsys.readouterr().out == out


def test_the_engine_may_leave_a_note(
    other_photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The engine's note and model are printed once for all images, and are in the JSON."""
    declare(tmp_path, "noting", "noting = noting:Engine\n")
    (tmp_path / "noting.py").write_text(
        "from langchain_image_variation.engines.instant import InstantEngine\n"
        "class Engine(InstantEngine):\n"
        "    def create_variation(self, request):\n"
        "        response = super().create_variation(request)\n"
        "        response.model, response.note = 'small', 'Made at 512x512 and enlarged.'\n"
        "        return response\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    options = ["--size", "256x256", "--fit", "keep", "--engine", "noting"]
    assert main(["create", str(other_photo), str(other_photo), *options]) == 0
    assert capsys.readouterr().err.splitlines()[:-1] == [
        "Made at 512x512 and enlarged.",
        "Made by noting with the model small.",
    ]
    assert main(["create", "photo.jpg", *options, "--json"]) == 0
    out, err = capsys.readouterr()
    answer = json.loads(out)
    assert [answer[name] for name in ("engine", "model", "note")] == [
        *("noting", "small", "Made at 512x512 and enlarged.")
    ]
    assert "Made at 512x512 and enlarged." in err
    assert main(["create", "photo.jpg", *options, "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_notes_about_one_image_name_it(
    other_photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """If the notes about several images differ, the later ones say which image they are about."""
    declare(tmp_path, "timing", "timing = timing:Engine\n")
    (tmp_path / "timing.py").write_text(
        "from itertools import count\n"
        "from langchain_image_variation.engines.instant import InstantEngine\n"
        "class Engine(InstantEngine):\n"
        "    calls = count(1)\n"
        "    def create_variation(self, request):\n"
        "        response = super().create_variation(request)\n"
        "        response.note = f'Took {next(self.calls)} seconds.'\n"
        "        return response\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    options = ["--size", "256x256", "--fit", "keep", "--engine", "timing"]
    assert main(["create", str(other_photo), "photo.jpg", *options]) == 0
    errors = capsys.readouterr().err.splitlines()
    assert errors[0] == "Took 1 seconds."
    assert "photo: Took 2 seconds." in errors


def test_an_image_can_come_and_go_by_streams() -> None:
    """`-` reads standard input, and `-o -` writes one image to standard output and no files."""
    completed = run("create", "-", "-o", "-", *SMALL, input=jpeg())
    assert completed.returncode == 0
    with Image.open(io.BytesIO(completed.stdout)) as image:
        assert (image.format, image.size) == ("PNG", (256, 256))
    assert completed.stderr.startswith(b"stdin: converted JPEG to PNG")
    assert os.listdir() == ["photo.jpg"]
    webp = run("create", "photo.jpg", "-o", "-", "--format", "webp", "-q", *SMALL)
    assert (webp.stdout[8:12], webp.stderr) == (b"WEBP", b"")


def test_an_image_from_a_stream_has_a_name() -> None:
    """The files of an image from standard input are named after it."""
    completed = call("create", "-", *SMALL, "--no-sheet", "-q", input=jpeg())
    assert completed.stdout.startswith("variations/stdin-")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"text", "Standard input is text, which is not supported."),
        (b"", "Standard input is empty; pass an image file."),
        (b"%PDF-1.7", "Standard input is a PDF document, which is not supported."),
    ],
)
def test_a_bad_stream_is_named(data: bytes, message: str) -> None:
    """An error about standard input names it."""
    for images, code in ((["-"], 2), (["-", "photo.jpg"], 3)):
        completed = call("create", *images, *SMALL, "-q", input=data)
        assert completed.returncode == code
        assert completed.stderr.startswith(f"image-variation: {message}")


@pytest.mark.slow
def test_closed_standard_input_is_one_line() -> None:
    """If standard input is closed, reading an image from it is an error without a traceback."""
    completed = subprocess.run(
        ["bash", "-c", f"{' '.join(PROGRAM)} create - <&-"], capture_output=True, timeout=60
    )
    assert (completed.returncode, completed.stderr.count(b"\n")) == (2, 1)


REFUSED = [
    ("photo.jpg -n 2 -o -", "-o - writes one image to standard output, but this makes 2."),
    ("photo.jpg photo.jpg -o -", "-o - writes one image to standard output, but this makes 2."),
    *(
        (
            f"photo.jpg -o - {option}",
            f"-o - writes the image to standard output, where {option} prints the response. "
            "Choose one.",
        )
        for option in ("--json", "--format yaml", "--format json")
    ),
    ("photo.jpg -o - --open", "-o - writes no files, so --open cannot be used with it."),
    ("photo.jpg -o - --name x", "-o - writes no files, so --name cannot be used with it."),
    ("- -", "Standard input is one image; pass - only once."),
    ("photo.jpg photo.jpg --json", "--json prints the response for one image"),
    ("photo.jpg photo.jpg --format raw", "--format raw prints the response for one image"),
    *(
        (
            f"photo.jpg {option}",
            f"{message} is for files, and {printing} writes none without -o DIR.",
        )
        for option, message, printing in (
            ("--json --open", "--open", "--json"),
            ("--json --format webp", "--format webp", "--json"),
            ("--json --quality 50", "--quality", "--json"),
            ("--json --name x", "--name", "--json"),
            ("--format yaml --name {seed}", "--name", "--format yaml"),
        )
    ),
    ("photo.jpg -o cat.png", "--output-dir takes a folder, and 'cat.png' looks like a file."),
    ("photo.jpg -o photo.jpg", "'photo.jpg' is a file; choose a folder for the results."),
    ("photo.jpg -o ./photo.jpg/x", "The folder './photo.jpg/x' cannot be written to"),
    ("photo.jpg --format gif", "argument --format: must be one of png, "),
    ("photo.jpg --quality 50", "--quality does not apply to PNG, which is lossless."),
    ("photo.jpg --quality 0 --format jpeg", "--quality must be a whole number from 1 to 100"),
    ("photo.jpg --name ../x", "The name template '../x' may contain only letters, digits"),
    ("photo.jpg --name {name}", "The name template '{name}' has an unknown field"),
    ("photo.jpg --name {stem} -n 2", "gives 2 images the name 'photo'; add {index}."),
    ("photo.jpg photo.jpg --name {stem}", "gives 2 images the name 'photo'; add {hash}."),
    ("photo.jpg --name {seed} --engine unseeded", "--name has {seed}, but the engine 'unseeded'"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[a for a, _ in REFUSED])
def test_options_are_checked_before_the_engine_runs(
    arguments: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Options that cannot be combined give one line and exit code 2, and nothing is made."""
    declare(tmp_path, "unseeded", "unseeded = unseeded:Engine\n")
    (tmp_path / "unseeded.py").write_text(
        "class Engine:\n    def create_variation(self, request): print('called')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["create", "--engine", "unseeded", *arguments.split()]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


def test_names_and_formats_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    """A template names the files, and the format determines their suffix."""
    template = "{stem} {index:02} {seed}"
    options = ["--name", template, "--format", "jpeg", "--quality", "40", "--seed", "5", "-q"]
    assert main(["create", "photo.jpg", "-n", "2", "--size", "256x256", *options]) == 0
    names = [Path(path).name for path in capsys.readouterr().out.splitlines()]
    assert names == ["photo 01 5.jpg", "photo 02 6.jpg", "photo sheet 5.jpg"]
    for name in names:
        with Image.open(f"variations/{name}") as image:
            assert image.format == "JPEG"


def test_a_seed_is_drawn_for_names(capsys: pytest.CaptureFixture[str]) -> None:
    """A seed in a name is the one that repeats the image."""
    command = ["create", "photo.jpg", "--name", "{seed}", "--no-sheet", "-q", "--size", "256x256"]
    assert main(command) == 0
    path = Path(capsys.readouterr().out.strip())
    assert main([*command, "--seed", path.stem, "-o", "again"]) == 0
    assert Path("again", path.name).read_bytes() == path.read_bytes()


def test_another_file_is_never_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    """If a file of that name exists, it is not changed, and the new one's name gets a hash."""
    Path("variations").mkdir()
    Path("variations/photo.png").write_bytes(b"mine")
    assert main(["create", "photo.jpg", *SMALL, "--name", "{stem}", "--no-sheet", "-q"]) == 0
    (path,) = capsys.readouterr().out.splitlines()
    assert path.startswith("variations/photo-")
    assert Path("variations/photo.png").read_bytes() == b"mine"


def test_quiet_prints_files_only(capsys: pytest.CaptureFixture[str]) -> None:
    """--quiet drops the notes and the seed, but keeps file names and errors."""
    assert main(["create", "photo.jpg", "--size", "256x256", "-q", "--no-sheet"]) == 0
    out, err = capsys.readouterr()
    assert (len(out.splitlines()), err) == (1, "")
    assert main(["create", "none.png", "-q"]) == 2
    assert capsys.readouterr().err != ""


def viewer(folder: Path) -> dict[str, str]:
    """Return the variable BROWSER for a program that writes what it was asked to open to a file."""
    program = folder / "viewer"
    program.write_text(f'#!/bin/sh\necho "$1" >> {folder}/opened\n')
    program.chmod(0o755)
    return {"BROWSER": f"{program} %s"}


@pytest.mark.mostly_slow("options0-1")
@pytest.mark.parametrize(
    ("options", "count"), [([], 1), (["--no-sheet"], 3), (["--no-sheet", "-n", "1"], 1)]
)
def test_results_are_opened(tmp_path: Path, options: list[str], count: int) -> None:
    """--open opens the sheet, or each image if there is none, in the program in BROWSER."""
    arguments = ["create", "photo.jpg", "-n", "3", *SMALL, "-o", "a b", "--open", *options]
    completed = run(*arguments, env=viewer(tmp_path))
    assert (completed.returncode, len((tmp_path / "opened").read_text().split())) == (0, count)
    paths = completed.stdout.decode().splitlines()
    urls = [Path(path).absolute().as_uri() for path in paths[-count:]]
    assert (tmp_path / "opened").read_text().splitlines() == urls


@pytest.mark.slow
def test_a_machine_without_display_opens_nothing() -> None:
    """Without a display or viewer, --open prints a note and is not an error."""
    headless = {"BROWSER": "", "DISPLAY": "", "WAYLAND_DISPLAY": ""}
    completed = run("create", "photo.jpg", *SMALL, "--open", env=headless)
    assert completed.returncode == 0
    assert completed.stderr.endswith(b"this machine has no display or image viewer.\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", [b"caf\xe9.jpg", "caf\u00e9 \u732b.jpg".encode(), b"a\nb.jpg"])
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_any_file_name_works_in_any_locale(name: bytes, locale: str) -> None:
    """A file name that is not UTF-8, or not in the locale's encoding, does not matter."""
    os.rename(b"photo.jpg", name)
    environment = {"LC_ALL": locale, "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    good = run("create", os.fsdecode(name), *SMALL, "--no-sheet", env=environment)
    assert good.returncode == 0, good.stderr
    assert len(good.stdout.splitlines()) == len(os.listdir("variations")) == 1
    bad = run("create", os.fsdecode(b"no-" + name), *SMALL, env=environment)
    assert (bad.returncode, bad.stderr.count(b"\n")) == (2, 1)


def test_an_interrupt_keeps_what_is_finished(tmp_path: Path) -> None:
    """Ctrl-C exits with 130 and one line, and the files of earlier images stay complete."""
    declare(tmp_path, "stuck", "stuck = stuck:Engine\n")
    (tmp_path / "stuck.py").write_text(
        "import time\n"
        "from langchain_image_variation.engines.instant import InstantEngine\n"
        "class Engine(InstantEngine):\n"
        "    calls = 0\n"
        "    def create_variation(self, request):\n"
        "        self.calls += 1\n"
        "        if self.calls > 1:\n"
        "            print('stuck', flush=True); time.sleep(60)\n"
        "        return super().create_variation(request)\n"
    )
    arguments = ["create", "photo.jpg", "photo.jpg", "--engine", "stuck", "--no-sheet"]
    with subprocess.Popen(
        [*PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        text=True,
    ) as process:
        assert process.stdout is not None
        path = process.stdout.readline().strip()
        assert process.stdout.readline() == "stuck\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith("image-variation: interrupted; no file is half-written.\n")
    assert "Traceback" not in err
    assert [f"variations/{name}" for name in os.listdir("variations")] == [path]
