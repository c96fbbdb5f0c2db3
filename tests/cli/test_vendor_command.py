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
    assert (again.returncode, "invalid int value: 'nil'" in again.stderr) == (2, True)


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
        ("{", "it is neither YAML nor JSON"),
        ("\x00", "it is neither YAML nor JSON"),
        ("a.png", "it has no fields"),
        ("[1]", "it has no fields"),
        ("prompt: a cat\nimage: a.png", "'prompt' is not a field of the request"),
        ("n: 2", '"image" must be the path of an image'),
        ("image: '-'", '"image" must be the path of an image'),
        ("image: [a.png]", '"image" must be text'),
        ("image: a.png\nn: two", "--n must be a whole number from 1 to 10, got 'two'"),
        ("image: a.png\nn: true", "--n must be a whole number from 1 to 10"),
        ("image: a.png\nsize: 1x1", '"size" must be one of 256x256, 512x512, 1024x1024'),
        ("image: a.png\nresponse_format: url", "Add --json, or --format json"),
        ("image: !!python/name:os.system a", "it is neither YAML nor JSON"),
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


def test_an_image_leaves_standard_input_alone(folder: Path) -> None:
    """With an image, a request on standard input does not count."""
    result = create("a.png", "--no-sheet", stdin="image: a.png\nn: 2\n")
    assert (result.returncode, len(result.stdout.splitlines())) == (0, 1)


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
