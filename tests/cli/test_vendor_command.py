"""`create` against the vendor's command `openai images create-variation`."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from langchain_image_variation.server import create_app
from pytest_image_variation.samples import square_png
from tests.cli.program import PROGRAM, call, run
from tests.server.serving import serving


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the image a.png."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.png").write_bytes(square_png(8))
    monkeypatch.chdir(folder)
    return folder


def create(
    *arguments: str, stdin: str = "", engine: str = "instant"
) -> subprocess.CompletedProcess[str]:
    """Run `create` in this process, with this text on standard input."""
    return call("create", *arguments, "--engine", engine, input=stdin.encode())


def test_a_format_prints_the_response(folder: Path) -> None:
    """`--format json`, `jsonl`, `yaml` and `raw` print the response and write no file."""
    texts = {
        style: create("a.png", "--size", "256x256", "--format", style).stdout
        for style in ("json", "jsonl", "yaml", "raw")
    }
    contents = {
        style: yaml.safe_load(text) if style == "yaml" else json.loads(text)
        for style, text in texts.items()
    }
    assert len(texts["jsonl"].splitlines()) == 1
    assert texts["yaml"].startswith("created: ")
    assert set(contents["raw"]) == {"created", "data"}
    assert set(contents["json"]) - {"note"} == {"created", "data", "engine", "model"}
    assert contents["json"]["data"] == contents["jsonl"]["data"] == contents["yaml"]["data"]
    assert contents["json"]["engine"] == contents["yaml"]["engine"] == "instant"
    assert os.listdir(folder) == ["a.png"]


def test_null_is_absent(folder: Path) -> None:
    """The text `null` for a nullable option means that it was not passed."""
    nulls = ["--n", "null", "--size", "null", "--model", "null", "--response-format", "null"]
    result = create("a.png", *nulls, "--no-sheet")
    assert (result.returncode, len(result.stdout.splitlines())) == (0, 1)
    again = create("a.png", "--n", "nil")
    assert (again.returncode, "must be a whole number, got 'nil'" in again.stderr) == (2, True)


@pytest.mark.parametrize("words", [["--image", "a.png"], ["--image=a.png"], ["-n", "2", "--image"]])
def test_the_image_needs_no_option(folder: Path, words: list[str]) -> None:
    """The error for the vendor's option `--image` says how `create` takes the image."""
    result = create(*words)
    assert result.returncode == 2
    assert "--image" in result.stderr and "; name the image without an option;" in result.stderr
    serve = call("serve", "--image", "a.png")
    assert "without an option" not in serve.stderr


@pytest.mark.parametrize("value", ["url", "b64_json"])
def test_response_format_needs_a_response(folder: Path, value: str) -> None:
    """`--response-format` without a printed response is an error."""
    result = create("a.png", "--response-format", value)
    assert result.returncode == 2
    assert "--response-format applies only to a printed response. Add --json" in result.stderr
    printed = create("a.png", "--response-format", value, "--format", "raw")
    assert list(json.loads(printed.stdout)["data"][0]) == [value]


REQUESTS = {
    "YAML": "image: a.png\nn: 2\nsize: 256x256\nmodel: null\n",
    "JSON": '{"image": "a.png", "n": 2, "user": "me"}',
}


@pytest.mark.mostly_slow("YAML")
@pytest.mark.parametrize("kind", REQUESTS)
def test_a_request_in_a_pipe(folder: Path, kind: str) -> None:
    """Without an image, the program reads the request from a pipe, as YAML or JSON."""
    text = REQUESTS[kind].encode()
    piped = run("create", "--no-sheet", "--engine", "instant", input=text)
    assert (piped.returncode, len(piped.stdout.splitlines())) == (0, 2)


@pytest.mark.parametrize("text", REQUESTS.values(), ids=REQUESTS)
def test_a_request_on_standard_input(folder: Path, text: str) -> None:
    """An option has precedence over the request on standard input."""
    result = create("--no-sheet", "-n", "1", stdin=text)
    assert (result.returncode, len(result.stdout.splitlines())) == (0, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the following arguments are required: PHOTO"),
        (" \n", "the following arguments are required: PHOTO"),
        ("{", "it is not one document"),
        ("\x00", "it is not one document"),
        ("a.png", "it has no fields"),
        ("[1]", "it has no fields"),
        (
            "mask: b.png\nimage: a.png",
            "'mask' in standard input is not a field of the request.",
        ),
        (
            "strength: 1\nimage: a.png",
            "is an option, not a field of the request. Pass --strength",
        ),
        ("image: a.png\nmax_billed_calls: 1", "Pass --max-billed-calls on the command line."),
        ("n: 2", '"image" must be the path of an image'),
        ("image: '-'", '"image" must be the path of an image'),
        ("image: [a.png]", '"image" in standard input must be text'),
        ("image: a.png\nn: two", '"n" in standard input must be a whole number from 1 to 10, got'),
        ("image: a.png\nn: true", '"n" in standard input must be a whole number from 1 to 10'),
        ("image: a.png\nsize: 1x1", "must be one of 256x256, 512x512, 1024x1024, got '1x1'."),
        ("image: a.png\nresponse_format: url", '"response_format" of the request applies only to'),
        ("image: a.png\nresponse_format: url", "Add --json, or --format json"),
        ("image: !!python/name:os.system a", "it is not one document"),
        ("n: !!int ''", "it is not one document"),
        ("n: !!bool x", "it is not one document"),
        ("n: !!timestamp x", "it is not one document"),
        ("n: 1\n---\nn: 2", "it is not one document"),
        ("a" * 70_000, "it has more than 65,536 bytes"),
    ],
)
def test_invalid_input_is_not_a_request(folder: Path, text: str, message: str) -> None:
    """If standard input is not a request, one line says why, and nothing is made."""
    result = create(stdin=text)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert os.listdir(folder) == ["a.png"]


def test_a_mistake_in_a_request_names_its_file(folder: Path) -> None:
    """A wrong field is not called an option, and no other image is suggested."""
    (folder / "bad.yaml").write_text("image: a.png\nn: two\n")
    assert create("--request", "bad.yaml").stderr == (
        "image-variation: \"n\" in the file 'bad.yaml' must be a whole number from 1 to 10, got "
        "'two'.\n"
    )


def test_an_image_leaves_standard_input_alone(folder: Path) -> None:
    """If an image is named, standard input is not read."""
    result = create("a.png", "--no-sheet", stdin="image: a.png\nn: 2\n")
    assert (result.returncode, len(result.stdout.splitlines())) == (0, 1)


def run_create(folder: Path, *arguments: str, input: str) -> subprocess.CompletedProcess[str]:
    """Run `create` in its own process, with a file that has this text as standard input."""
    path = folder / "input.txt"
    path.write_text(input)
    fixed = ["--engine", "instant", "--size", "256x256", "--no-sheet", "-o", "out"]
    with path.open("rb") as stdin:
        return subprocess.run(
            [*PROGRAM, "create", *arguments, *fixed],
            cwd=folder,
            stdin=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )


@pytest.mark.parametrize("text", ["n: 3\nmodel: null\n", '{"n": 3, "image": "missing.png"}'])
def test_a_request_and_an_image(folder: Path, text: str) -> None:
    """`--request -` reads the request too if an image is named, which takes precedence."""
    result = create("a.png", "--request", "-", "--no-sheet", stdin=text)
    assert (result.returncode, len(result.stdout.splitlines())) == (0, 3), result.stderr
    one = create("a.png", "--request", "-", "-n", "1", "--no-sheet", stdin=text)
    assert (one.returncode, len(one.stdout.splitlines())) == (0, 1)


def test_a_request_in_a_file(folder: Path) -> None:
    """`--request FILE` reads the request from a file. Standard input may then be the image."""
    (folder / "request.yaml").write_text("image: a.png\nn: 2\n")
    result = create("--request", "request.yaml", "--no-sheet")
    assert (result.returncode, len(result.stdout.splitlines())) == (0, 2), result.stderr
    fixed = ["create", "-", "--request", "request.yaml", "--engine", "instant", "--no-sheet"]
    piped = call(*fixed, input=(folder / "a.png").read_bytes())
    assert (piped.returncode, len(piped.stdout.splitlines())) == (0, 2), piped.stderr
    (folder / "request.yaml").write_text("image: '-'\n")
    fixed.remove("-")
    named = call(*fixed, input=(folder / "a.png").read_bytes())
    assert (named.returncode, len(named.stdout.splitlines())) == (0, 1), named.stderr


@pytest.mark.parametrize(
    ("arguments", "text", "message"),
    [
        (["a.png", "--request", "-"], "", "from standard input, which is empty. Pipe or redirect"),
        (["-", "--request", "-"], "n: 2", "Standard input cannot be both the request and an image"),
        (["a.png", "--request", "-"], "n: [", "Standard input is not a request: it is not one"),
        (["--request", "n.yaml"], "", "The file 'n.yaml' is not a request: \"image\" must be the"),
        (["--request", "none.yaml"], "", "there is no file 'none.yaml'; check the path."),
        (["a.png", "--request", "."], "", "the file '.' cannot be read: Is a directory"),
        (["a.png", "--request", "a\0"], "", "cannot be read: its name is invalid"),
    ],
)
def test_requests_that_cannot_be_read(
    folder: Path, arguments: list[str], text: str, message: str
) -> None:
    """If `--request` names no request, one line says why, and nothing is made."""
    (folder / "n.yaml").write_text("n: 2\n")
    result = create(*arguments, stdin=text)
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert message in result.stderr
    assert sorted(os.listdir(folder)) == ["a.png", "n.yaml"]


@pytest.mark.parametrize("text", ["image: a.png\nn: 2\n", '{"n": 2}'])
def test_an_unread_request_is_an_error(folder: Path, text: str) -> None:
    """A file with a request as standard input is refused, not ignored, if an image is named."""
    refused = run_create(folder, "a.png", input=text)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "Add --request - to use both, or leave out the image." in refused.stderr
    read = run_create(folder, "a.png", "--request", "-", input=text)
    assert (read.returncode, len(read.stdout.splitlines())) == (0, 2)


@pytest.mark.parametrize(
    "text",
    ["", "a.png\nb.png\n", "prompt: a cat\n", "\0", "a: " * 50_000],
    ids=["empty", "names", "other fields", "binary", "large"],
)
def test_another_file_as_standard_input_is_ignored(folder: Path, text: str) -> None:
    """If an image is named, a file without a request may be standard input."""
    result = run_create(folder, "a.png", input=text)
    assert (result.returncode, len(result.stdout.splitlines())) == (0, 1), result.stderr


def test_a_loop_over_requests_goes_on(folder: Path) -> None:
    """A loop may have read from a file whose last line is a request, which stays the loop's."""
    (folder / "list.jsonl").write_text('{"image": "a.png"}\n' * 2)
    loop = "while read line; do " + " ".join(PROGRAM)
    loop += " create a.png --engine instant --size 256x256 --no-sheet; done < list.jsonl"
    result = subprocess.run(
        ["bash", "-c", loop], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert (result.returncode, len(result.stdout.splitlines())) == (0, 2), result.stderr


@pytest.mark.slow
def test_a_loop_keeps_its_standard_input(folder: Path) -> None:
    """With an image, standard input is left alone, so that a shell's loop can read it."""
    loop = "while read name; do " + " ".join(PROGRAM)
    loop += ' create "$name" --engine instant --size 256x256 --no-sheet; done'
    result = subprocess.run(
        ["bash", "-c", loop],
        cwd=folder,
        input="a.png\na.png\n",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, len(result.stdout.splitlines())) == (0, 2)


def test_a_key_is_for_hosted_engines(folder: Path) -> None:
    """`--api-key` is the key of a hosted engine. Other engines refuse it."""
    app = create_app("instant", api_key="sk-right", store_dir=folder / "store")
    with serving(app) as url:
        address = ["a.png", "--base-url", f"{url}/v1", "--no-sheet", "--size", "256x256"]
        right = create(*address, "--api-key", "sk-right", engine="variations")
        wrong = create(*address, "--api-key", "sk-wrong", engine="variations")
    assert right.returncode == 0, right.stderr
    assert (wrong.returncode, "sk-wrong" in wrong.stderr) == (1, False)
    local = create("a.png", "--api-key", "sk-right")
    assert local.returncode == 2
    assert "has no option" in local.stderr and "sk-right" not in local.stderr
