import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from langchain_image_variation import __version__
from langchain_image_variation.cli import main
from langchain_image_variation.contract import ImagesResponse
from langchain_image_variation.exceptions import install_command
from langchain_image_variation.images.pixels import decode_png, decode_result, pixel_sha256
from langchain_image_variation.images.png import SquarePNG
from langchain_image_variation.source import load_source
from pytest_image_variation.samples import corrupt_png, square_png
from tests.calling import failure, success
from tests.cli.program import declare
from tests.http.raw_server import raw_server, response
from tests.images.compressed import encodings


def run(*arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run the program as a user would, in its own process."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "langchain_image_variation", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def test_creates_variations_and_a_contact_sheet(capsys: pytest.CaptureFixture[str]) -> None:
    """The files and the sheet are written, and each path is printed on its own line."""
    assert main(["create", "photo.jpg", "--n", "3", "--engine", "instant"]) == 0
    out, err = capsys.readouterr()
    paths = out.splitlines()
    assert [path.rpartition("-")[2] for path in paths] == ["1.png", "2.png", "3.png", "sheet.png"]
    assert all(Path(path).is_file() and path.startswith("variations/photo-") for path in paths)
    assert err == "photo: converted JPEG to PNG, cropped 96x64 to the centered 64x64.\n"


@pytest.mark.slow
def test_names_do_not_depend_on_compression(capsys: pytest.CaptureFixture[str]) -> None:
    """Two files of one photo that differ in compression give variations with the same names."""
    outputs = set()
    for data in encodings(decode_png(SquarePNG(square_png(24)))):
        Path("photo.png").write_bytes(data)
        arguments = ["--size", "256x256", "--engine", "instant"]
        assert main(["create", "photo.png", *arguments]) == 0
        outputs.add(capsys.readouterr().out)
    assert len(outputs) == 1
    assert len(list(Path("variations").iterdir())) == 2


def test_json_is_printed_instead_of_files(capsys: pytest.CaptureFixture[str]) -> None:
    """With --json, no file is written, and the ImagesResponse has its engine and model."""
    arguments = ["create", "photo.jpg", "--n", "2", "--size", "512x512", "--json"]
    assert main([*arguments, "--engine", "instant", "--response-format", "b64_json"]) == 0
    body = capsys.readouterr().out
    assert list(json.loads(body)) == ["created", "data", "engine", "model"]
    assert len([image.read() for image in ImagesResponse.from_json(body).data]) == 2
    assert os.listdir() == ["photo.jpg"]


def test_json_and_files_together(capsys: pytest.CaptureFixture[str]) -> None:
    """With --json and --output-dir, the files are written too."""
    arguments = ["create", "photo.jpg", "--json", "--output-dir", "out"]
    assert main([*arguments, "--engine", "instant"]) == 0
    assert len(os.listdir("out")) == 2
    assert json.loads(capsys.readouterr().out)["data"]


def test_keep_cuts_files_and_json_back(capsys: pytest.CaptureFixture[str]) -> None:
    """With --fit keep, files and JSON have the shape of the photo, and seeds work as usual."""
    arguments = ["create", "photo.jpg", "--size", "256x256", "--fit", "keep"]
    assert main([*arguments, "--n", "2", "--seed", "5", "--json", "--output-dir", "out"]) == 0
    out, err = capsys.readouterr()
    assert (
        err == "photo: converted JPEG to PNG, padded 96x64 to a square of 96x96 for the engine.\n"
    )
    images = [decode_result(image.read()) for image in ImagesResponse.from_json(out).data]
    assert [image.size for image in images] == [(256, 171)] * 2
    names = {f"photo-{pixel_sha256(image)[:8]}-{i}.png" for i, image in enumerate(images, 1)}
    assert names < set(os.listdir("out"))
    assert main([*arguments, "--seed", "6"]) == 0
    assert Path(capsys.readouterr().out.splitlines()[0]).name.startswith(
        f"photo-{pixel_sha256(images[1])[:8]}-"
    )


def test_keep_works_with_a_server(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A server gets a square image, and its results are cut back."""
    with raw_server(response(200, success(1))) as server:
        arguments = ["--engine", "variations", "--base-url", server.base_url, "--size", "256x256"]
        assert main(["create", "photo.jpg", "--fit", "keep", "--json", *arguments]) == 0
    assert load_source(photo, fit="keep").png.data in server.requests[0]
    (image,) = ImagesResponse.from_json(capsys.readouterr().out).data
    assert decode_result(image.read()).size == (256, 171)


def test_the_same_seed_makes_the_same_files(capsys: pytest.CaptureFixture[str]) -> None:
    """A run without --seed prints a seed, with which another run makes the same files."""
    arguments = ["create", "photo.jpg", "--size", "256x256"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    seed = err.rpartition("--seed ")[2].strip().rstrip(".")
    assert main([*arguments, "--seed", seed]) == 0
    repeated_output = capsys.readouterr()
    assert repeated_output.out == out
    assert "--seed" not in repeated_output.err


@pytest.mark.parametrize("part", ["framing", "mirror", "light"])
def test_parts_can_be_turned_off(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With --no-light and the like, the engine makes another image than with --light."""
    arguments = ["create", "photo.jpg", "--size", "256x256", "--seed", "1"]
    outputs = []
    for option in (f"--{part}", f"--no-{part}"):
        assert main([*arguments, option]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] != outputs[1]


BAD = [
    (
        "https://example.com/cat.png --allow-host images.example --allow-host b.example",
        "The host 'example.com' is not allowed. If you trust it, add --allow-host HOST.",
    ),
    ("http://images.example/cat.png --allow-host images.example", "Only https URLs are fetched"),
    ("photo.jpg --allow-host https://images.example", "is not a full host name"),
    ("photo.jpg --n 0", "--n must be a whole number from 1 to 10, got 0."),
    ("photo.jpg --n 11", "--n must be a whole number from 1 to 10, got 11."),
    ("photo.jpg --n many", "argument -n/--n: must be a whole number, got 'many'; see"),
    ("photo.jpg --n 1.5", "argument -n/--n: must be a whole number, got '1.5'; see"),
    ("photo.jpg --strength much", "argument --strength: must be a number, got 'much'; see"),
    ("photo.jpg --size 100", "--size: must be one of 256x256, 512x512, 1024x1024, got '100'; see"),
    ("photo.jpg --size 512", "1024x1024, got '512'; did you mean 512x512?; see"),
    (
        "photo.jpg --response-format xml",
        "argument --response-format: must be one of url, b64_json, null, got 'xml'",
    ),
    ("photo.jpg --model gpt-4", "The model 'gpt-4' does not exist here; this engine offers"),
    (
        "photo.jpg --engine magic",
        "There is no engine 'magic'. Installed engines: auto, diffusers, fal, gpt-image, "
        "instant, local, recraft, replicate, variations.",
    ),
    (
        "photo.jpg --engine instant --strength 1",
        "The engine 'instant' has no option --strength. Its options are --seed. The option "
        "--strength is for diffusers and local.",
    ),
    ("photo.jpg --strength 2", "--strength must be a number from 0 to 1, got 2.0"),
    ("photo.jpg --strength nan", "--strength must be a number from 0 to 1, got nan"),
    ("photo.jpg --seed -1", "--seed must be a whole number of at least 0, got -1"),
    ("photo.jpg --n 9" + "9" * 5000, "--n: must be a whole number, got '9999"),
    ("photo.jpg --output-dir ", "--output-dir is empty; pass a folder."),
    ("photo.jpg --out x", "unrecognized arguments: --out x"),
    ("photo.jpg --x\ny", "unrecognized arguments: --x y"),
    (
        "photo.jpg --fit stretch",
        "argument --fit: must be one of strict, crop, pad, keep, got 'stre",
    ),
    (
        "photo.jpg --fit strict",
        "image is not a PNG file: it is a JPEG file; convert it to PNG first. --fit crop, --fit",
    ),
    ("photo.jpg --output-dir photo.jpg", "'photo.jpg' is a file; choose a folder"),
    ("photo.jpg --colour red", "unrecognized arguments: --colour red; see"),
    ("photo.png", "There is no file 'photo.png'; check the path."),
    (".", "is a folder"),
    (
        "https://example.com/cat.png",
        "URLs are not fetched by default. Download the image and pass its path, or allow its host",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[a[:40] for a, _ in BAD])
def test_invalid_input_is_one_line_and_exit_code_2(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Standard output is empty, and one line of standard error names the next step."""
    assert main(["create", *arguments.split(" ")]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), len(err) < 300) == ("", 1, True)
    assert message in err
    assert err.startswith("image-variation")


def test_usage_errors_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    """A missing option or command is one line. --help and --version exit with 0."""
    assert main(["create"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert main(["create", "--help"]) == 0
    assert "--response-format" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"image-variation {__version__}\n"


def test_no_arguments_print_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Without arguments, the program prints its help with examples, as an error."""
    assert main(["--help"]) == 0
    help_text = capsys.readouterr().out
    assert "image-variation create photo.jpg" in help_text
    assert main([]) == 2
    assert capsys.readouterr() == ("", help_text)


@pytest.mark.parametrize(
    "command", ["batch", "completion", "create", "engines", "mcp", "pull", "serve"]
)
def test_the_help_of_a_command_says_what_it_does(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The help of each command begins with a sentence, and fits a terminal of 100 columns."""
    assert main([command, "--help"]) == 0
    _, description, *_ = capsys.readouterr().out.split("\n\n")
    assert description[0].isupper() and max(map(len, description.splitlines())) <= 100


def test_a_hosted_engine_is_used_by_its_url(capsys: pytest.CaptureFixture[str]) -> None:
    """Images of a hosted engine are saved as usual, and a refusal is one line."""
    refusal = response(400, failure("This image is not allowed.", code="content_policy_violation"))
    with raw_server(response(200, success(2)), refusal) as server:
        arguments = ["create", "photo.jpg", "--n", "2", "--engine", "variations"]
        arguments += ["--base-url", server.base_url, "--model", "own", "--size", "256x256"]
        assert main(arguments) == 0
        paths = capsys.readouterr().out.splitlines()
        assert [SquarePNG(Path(path).read_bytes()).side for path in paths[:2]] == [256, 256]
        assert b'name="model"\r\n\r\nown\r\n' in server.requests[0]
        assert main(arguments) == 2
        assert capsys.readouterr().err == "image-variation: This image is not allowed.\n"


def listed_engines(capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[str, str]]:
    """Return the state and the description of each engine that `engines` lists, by name."""
    assert main(["engines"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert max(map(len, out.splitlines())) <= 100
    # A long description continues on the next line. The models come after the engines.
    engines = re.sub(r"\n {9,}", " ", out.partition("\n\n")[0])
    lines = [re.split(r" {2,}", line, maxsplit=2) for line in engines.splitlines()]
    return {name: (state, description) for name, state, description in lines}


def test_engines_are_listed_with_what_they_need(capsys: pytest.CaptureFixture[str]) -> None:
    """An engine without the key or the address that it needs is not called usable."""
    engines = listed_engines(capsys)
    state, description = engines.pop("diffusers")
    assert state == "usable" or "[diffusers]" in description or "pull" in description
    assert {name: state for name, (state, _) in engines.items()} == {
        "auto": "usable",
        "fal": "needs setup",
        "gpt-image": "needs setup",
        "instant": "usable",
        "local": "usable",
        "recraft": "needs setup",
        "replicate": "needs setup",
        "variations": "needs setup",
    }
    assert "set OPENAI_API_KEY" in engines["gpt-image"][1]
    assert "set OPENAI_BASE_URL" in engines["variations"][1]
    assert all(len(description.split()) > 2 for _, description in engines.values())


@pytest.mark.parametrize(
    ("variable", "value", "usable"),
    [
        ("OPENAI_API_KEY", "sk-test-0123456789", {"gpt-image"}),
        # Only the vendor's server needs a key.
        ("OPENAI_BASE_URL", "http://127.0.0.1:9/v1", {"gpt-image", "variations"}),
        ("OPENAI_BASE_URL", "https://api.openai.com/v1", {"variations"}),
        ("OPENAI_BASE_URL", "ftp://127.0.0.1/v1", set()),
    ],
)
def test_engines_heed_the_environment(
    variable: str,
    value: str,
    usable: set[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An engine is usable if the environment has what it needs, and no key is printed."""
    monkeypatch.setenv(variable, value)
    engines = listed_engines(capsys)
    # It depends on its extra.
    del engines["diffusers"]
    assert {name for name, (state, _) in engines.items() if state == "usable"} == {
        *("auto", "instant", "local"),
        *usable,
    }
    assert "sk-test" not in repr(engines)


def test_listed_engines_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An engine that is made for the list is closed again, and required options are named."""
    declare(tmp_path, "extra", "closing = closing:Closing\ndemanding = closing:Demanding\n")
    (tmp_path / "closing.py").write_text(
        "class Closing:\n"
        '    """Records that it is closed."""\n'
        "    def create_variation(self, request): ...\n"
        "    def close(self): open('closed', 'w').close()\n"
        "class Demanding:\n"
        "    def __init__(self, weights): ...\n"
        "    def create_variation(self, request): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    engines = listed_engines(capsys)
    assert engines["closing"] == ("usable", "Records that it is closed.")
    assert Path("closed").exists()
    assert engines["demanding"] == (
        "needs setup",
        "The engine 'demanding' needs the option 'weights'.",
    )


def test_a_missing_package_names_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An engine that lacks a package is listed with the command to run, and exits with 1."""
    declare(tmp_path, "heavy", "heavy = not_installed_here:Engine [gpu]\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["engines"]) == 0
    assert "heavy       not usable   The engine 'heavy' needs" in capsys.readouterr().out
    assert main(["create", "photo.jpg", "--engine", "heavy"]) == 1
    assert "pip install 'heavy[gpu]'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_do_no_harm(redirection: str) -> None:
    """If standard output or error is closed, the work is done without a traceback."""
    command = f"{sys.executable} -m langchain_image_variation create photo.jpg"
    completed = subprocess.run(
        ["bash", "-c", f"{command} --engine instant {redirection}"], capture_output=True, timeout=60
    )
    assert (completed.returncode, b"Traceback" in completed.stderr) == (0, False)
    assert len(os.listdir("variations")) == 2


@pytest.mark.slow
@pytest.mark.parametrize("streams", ["full error", "broken error", "both broken"])
def test_standard_error_that_cannot_be_written_loses_no_file(streams: str) -> None:
    """Notes that nobody can read are dropped, and the results are saved and printed."""
    if streams == "full error":
        writer = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, writer = os.pipe()
        os.close(reader)
    arguments = ["create", "photo.jpg", "-n", "2", "--engine", "instant"]
    completed = subprocess.run(
        [sys.executable, "-m", "langchain_image_variation", *arguments],
        stdout=writer if streams == "both broken" else subprocess.PIPE,
        stderr=writer,
        timeout=60,
    )
    os.close(writer)
    assert completed.returncode == 0
    assert len(os.listdir("variations")) == 3
    if streams != "both broken":
        assert len(completed.stdout.splitlines()) == 3


@pytest.mark.slow
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("argument", ["engines", "--version", "--help"])
def test_a_full_output_device_is_one_line(argument: str, unbuffered: str) -> None:
    """If standard output is a full device, the exit code is 1, with one line of error."""
    with open("/dev/full", "w") as full:
        completed = subprocess.run(
            [sys.executable, "-m", "langchain_image_variation", argument],
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    assert completed.returncode == 1
    assert (
        completed.stderr == b"image-variation: cannot write the output: No space left on device.\n"
    )


@pytest.mark.slow
def test_an_ascii_terminal_shows_every_name() -> None:
    """A character that the terminal cannot show is escaped and does not end the program."""
    arguments_for_files = ["photo.jpg", "--engine", "instant", "--output-dir", "\u00f6"]
    for arguments in (["--help"], arguments_for_files):
        completed = subprocess.run(
            [sys.executable, "-m", "langchain_image_variation", "create", *arguments],
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
            capture_output=True,
            timeout=60,
        )
        assert (completed.returncode, b"Traceback" in completed.stderr) == (0, False)
    assert b"\\xf6/photo-" in completed.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
@pytest.mark.slow
def test_a_name_that_is_not_utf_8_is_printed_as_it_is() -> None:
    """A program can open the file whose name was printed, even if it is not valid UTF-8."""
    completed = subprocess.run(
        [
            *(os.fsencode(sys.executable), b"-m", b"langchain_image_variation", b"create"),
            *(b"photo.jpg", b"--engine", b"instant", b"-o", b"\xc3\xb6\xfe"),
        ],
        env={**os.environ, "PYTHONUTF8": "1"},
        capture_output=True,
        timeout=60,
    )
    assert completed.returncode == 0, completed.stderr
    paths = completed.stdout.splitlines()
    assert paths[0].startswith(b"\xc3\xb6\xfe/photo-")
    assert all(os.path.isfile(path) for path in paths)


def test_a_bug_in_an_engine_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An exception outside the tree exits with 1, and its text is not shown."""
    declare(tmp_path, "buggy", "buggy = buggy_engine:Engine\nbad = buggy_bad:Engine\n")
    (tmp_path / "buggy_bad.py").write_text("this is no Python\n")
    (tmp_path / "buggy_engine.py").write_text(
        "class Engine:\n"
        "    def create_variation(self, request):\n"
        "        raise RuntimeError('/home/x sk-123')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["create", "photo.jpg", "--engine", "buggy"]) == 1
    assert capsys.readouterr().err == (
        "image-variation: The engine Engine failed with RuntimeError. "
        "Correct it at buggy_engine.py:3, or raise an ImageVariationError there.\n"
    )
    assert main(["engines"]) == 0
    out = capsys.readouterr().out
    assert "bad         not usable   The engine 'bad' cannot be imported: SyntaxError." in out
    assert "local       usable " in out


def test_corrupt_pixels_are_invalid_input(capsys: pytest.CaptureFixture[str]) -> None:
    """An image whose pixels cannot be decoded is invalid input."""
    Path("corrupt.png").write_bytes(corrupt_png())
    assert main(["create", "corrupt.png"]) == 2
    assert "pixels cannot be decompressed" in capsys.readouterr().err


@pytest.mark.slow
def test_a_process_without_warnings_or_traceback() -> None:
    """`python -m` runs the same program, and an error is one line and nothing else."""
    Path("square.png").write_bytes(square_png())
    completed = run("create", "square.png", "--n", "2", "--size", "256x256")
    assert (completed.returncode, len(completed.stdout.splitlines())) == (0, 3)
    failed_run = run("create", "none.png")
    assert (failed_run.returncode, failed_run.stdout) == (2, "")
    assert failed_run.stderr == "image-variation: There is no file 'none.png'; check the path.\n"


@pytest.mark.slow
def test_a_reader_may_stop_early() -> None:
    """If standard output is closed while we write, the program ends quietly."""
    command = [sys.executable, "-m", "langchain_image_variation", "create", "photo.jpg"]
    process = subprocess.Popen(
        [*command, "--json", "--n", "10", "--engine", "local", "--size", "256x256"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr is not None
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 0


def test_nothing_touches_the_network() -> None:
    """A run succeeds although every connection and name lookup is forbidden."""
    code = (
        "import sys\n"
        "def refuse(event, arguments):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.sendto'):\n"
        "        raise RuntimeError(event)\n"
        "sys.addaudithook(refuse)\n"
        "from langchain_image_variation.cli import main\n"
        "sys.exit(main(['create', 'photo.jpg', '--size', '256x256']))\n"
    )
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert completed.returncode == 0, completed.stderr


ENDING_PROGRAM = """\
import atexit, gc, runpy

atexit.register(lambda: print(gc.get_freeze_count() > 0))
runpy.run_module("langchain_image_variation", run_name="__main__", alter_sys=True)
"""
"""The program, which prints at its very end whether the garbage collector leaves all objects."""


def test_the_program_ends_without_collecting_garbage() -> None:
    """A program that has imported much, such as torch, does not take a second to end."""
    command = [sys.executable, "-c", ENDING_PROGRAM, "--version"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "True"


WAITING_IMPORT = """
import runpy, sys, time

class Waiting:
    def find_spec(self, name, path=None, target=None):
        if name == MODULE:
            print("importing", flush=True)
            time.sleep(60)

sys.meta_path.insert(0, Waiting())
runpy.run_module("langchain_image_variation", run_name="__main__", alter_sys=True)
"""
"""The program, which waits when it starts to import a module."""


@pytest.mark.mostly_slow("exceptions")
@pytest.mark.parametrize("module", ["exceptions", "images.png", "images.pixels"])
def test_an_interrupt_during_imports_is_quiet(module: str) -> None:
    """Ctrl-C while the program is still importing shows no traceback."""
    code = WAITING_IMPORT.replace("MODULE", repr(f"langchain_image_variation.{module}"))
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", code, "create", "photo.jpg"]
    with subprocess.Popen(command, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"importing\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in err


@pytest.mark.slow
def test_an_interrupt_leaves_no_incomplete_file() -> None:
    """Ctrl-C during the work exits with 130, one line, and an empty output folder."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "langchain_image_variation", "create"),
            *("photo.jpg", "--n", "10", "--output-dir", "out"),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    # The folder is created just before the work begins.
    while not Path("out").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 130
    assert err.strip().endswith("image-variation: interrupted; no file is half-written.")
    assert "Traceback" not in err
    assert os.listdir("out") == []


def test_pull_names_its_extra() -> None:
    """Without the library of the Hub, `pull` says what to install."""
    code = (
        "import sys; sys.modules['huggingface_hub'] = None; "
        "from langchain_image_variation.cli import main; sys.exit(main(['pull', 'unclip']))"
    )
    completed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert completed.returncode == 1
    assert completed.stderr.startswith(
        "image-variation: This command needs the package 'huggingface_hub', which is not "
        "installed. Run: pip install "
    )
    assert "[diffusers]" in completed.stderr


@pytest.mark.slow
def test_other_commands_do_not_load_diffusers() -> None:
    """A run of another engine imports nothing of `diffusers`, which would make each run slower."""
    code = (
        "import sys; from langchain_image_variation.cli import main; "
        "assert main(['create', 'photo.jpg', '--engine', 'instant', '-q']) == 0; "
        "print([name for name in sys.modules if '.diffusers' in name], file=sys.stderr)"
    )
    completed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert (completed.returncode, completed.stderr) == (0, "[]\n")


@pytest.mark.slow
@pytest.mark.parametrize(("command", "package"), [("serve", "starlette"), ("mcp", "mcp_types")])
def test_all_missing_extras_are_named_at_once(command: str, package: str) -> None:
    """If a command lacks its extra and that of its engine, one install is enough."""
    # As if neither package were installed.
    code = (
        "import sys, importlib.machinery as machinery\n"
        "find_spec = machinery.PathFinder.find_spec\n"
        "machinery.PathFinder.find_spec = lambda name, *rest: "
        f"None if name in ({package!r}, 'diffusers') else find_spec(name, *rest)\n"
        "import langchain_image_variation.cli as cli\n"
        f"sys.exit(cli.main([{command!r}, '--engine', 'diffusers']))"
    )
    completed = subprocess.run(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    extra = "server" if command == "serve" else command
    assert (completed.returncode, completed.stdout) == (1, "")
    assert install_command(f"langchain-image-variation[{extra},diffusers]") in completed.stderr
