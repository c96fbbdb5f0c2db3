import argparse
import ast
import re
from functools import cache
from pathlib import Path

import pytest

from langchain_image_variation import cli
from langchain_image_variation.cli import main
from langchain_image_variation.cli.messages import name_options
from tests.http.raw_server import raw_server, response

PACKAGE = Path(cli.__file__).parent.parent

ROOMS = ("batch", "cli", "contract", "engines", "files", "hosted", "http", "images", "output")
"""The rooms whose errors a command can meet, and `source` and `server`."""

PYTHON_NAME = re.compile(r"\b[a-z]+(?:_[a-z]+)+\b|\b[a-z]+='|\b[A-Za-z]+\(")

ONLY_IN_PYTHON = {
    "extra_body": "an argument of a call",
    "extra_fields": "a parameter without an option",
    "extra_headers": "an argument of a call",
    "extra_input": "a parameter without an option",
    "file_name": "a tuple of the SDK",
    "http_client": "a parameter without an option",
    "input_fidelity": "a parameter without an option",
    "load_source": "an object of another type",
    "load_source(": "an object of another type",
    "max_replicas": "a setting of Ray Serve",
    "min_replicas": "a setting of Ray Serve",
    "result_urls": "a parameter without an option",
    "fit='": "a PIL image is never passed on the command line",
    "create_app": "an answer of the server, for its operator",
    "image(": "an object of another type",
    "CreateImageVariationRequest(": "an object that is not a request",
    "call_engine": "an object that is not a response",
    "call_engine(": "an object that is not a response",
    "cors_origins": "an answer to a web page, whose author may not run the server",
    "create_variation": "an error for the author of an engine",
    "decode_png": "an error for the author of an engine",
    "create_variation(": "an error for the author of an engine",
    "encode_png": "an error for the author of an engine",
    "encode_png(": "an error for the author of an engine",
    "from_content(": "an error for the author of an engine",
    "from_pngs": "an error for the author of an engine",
    "from_pngs(": "an error for the author of an engine",
    "from_single_file": "a function of diffusers, which no command replaces",
    "load_engine": "an object that is not an engine",
    "load_engine(": "an object that is not an engine",
    "max_n": "an error for the author of an engine",
    "model_dump(": "an error for the author of an engine",
    "response_format": "an error for the author of an engine",
    "save_pretrained": "a function of diffusers, which no command replaces",
    "time(": "an error for the author of an engine",
    "int(": "an error for the author of an engine",
    "ImagesResponse(": "an error for the author of an engine",
    "set_start_method": "a program that forks, for its author",
    "variation_kind": "an error for the author of an engine",
    "X(": "an object that is not an engine",
}
"""Names in messages that no command can cause, or that no option replaces, with reasons."""


def messages() -> list[str]:
    """Return each string in the package that is a sentence with a name of Python."""
    texts: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room not in (*ROOMS, "source", "server") or path.name == "messages.py":
            continue
        tree = ast.parse(path.read_text("utf-8"))
        nodes = list(ast.walk(tree))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        strings = [node for node in nodes if isinstance(node, ast.Constant | ast.JoinedStr)]
        texts.update(_text(node) for node in strings if id(node) not in docstrings)
    sentence = re.compile(r"\w[^<>]* [^<>]*[.?]|\w+ must .*")
    return sorted(text for text in texts if PYTHON_NAME.search(text) and sentence.fullmatch(text))


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values
        )
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


@cache
def arguments_of(*command: str) -> argparse.Namespace:
    """Return the parsed arguments of a command."""
    return cli._parse(command)


def test_messages_name_no_parameter_of_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a message on the command line, each parameter is an option of one of the commands."""
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    commands = (("create", "x"), ("batch", "x"), ("serve",), ("mcp",))
    texts = messages()
    assert len(texts) > 50
    for text in texts:
        lines = [name_options(text, arguments_of(*command)) for command in commands]
        names = [set(PYTHON_NAME.findall(line)) - set(ONLY_IN_PYTHON) for line in lines]
        assert set() in names, lines


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("n must be 1 to 10.", "--n must be 1 to 10."),
        ("is base_url right?", "is --base-url right?"),
        ("Run `pull unclip`, or pass download=True.", "Run `pull unclip`."),
        ("fit='crop' or fit='pad' would do.", "--fit crop or --fit pad would do."),
        ("at most 1 variation per call, got n=4.", "at most 1 variation per call, got --n 4."),
        (
            "The option safety=False turns the checker off; mirror=True mirrors.",
            "The option --no-safety turns the checker off; --mirror mirrors.",
        ),
        ("ask for response_format 'b64_json'.", "ask for --response-format 'b64_json'."),
        (
            "The model 'n' has no size, and names seed.",
            "The model 'n' has no size, and names seed.",
        ),
        ("The server names model and n.", "The server names model and n."),
        ("It has no option 'seed'.", "It has no option --seed."),
        (
            "return from_pngs(pngs, response_format=request.response_format).",
            "return from_pngs(pngs, response_format=request.response_format).",
        ),
        ("base_url.png: it is empty.", "base_url.png: it is empty."),
        ("See https://x.example/base_url-x?n=1", "See https://x.example/base_url-x?n=1"),
    ],
)
def test_parameters_become_options(message: str, line: str) -> None:
    """Parameters become options, and words that only look like parameters stay."""
    assert name_options(message, arguments_of("create", "x")) == line


def test_the_environment_is_named_if_it_set_the_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names the variable that holds a wrong value, or the option if it was passed."""
    monkeypatch.setenv("OPENAI_BASE_URL", "ftp://one.example")
    command = ["create", "photo.jpg", "--engine", "variations"]
    assert main(command) == 2
    assert "image-variation: OPENAI_BASE_URL must be an http" in capsys.readouterr().err
    assert main([*command, "--base-url", "ftp://two.example"]) == 2
    assert "image-variation: --base-url must be an http" in capsys.readouterr().err
    monkeypatch.setenv("OPENAI_API_KEY", "\u00e9")
    assert main(["create", "photo.jpg", "--engine", "gpt-image"]) == 1
    assert "image-variation: OPENAI_API_KEY must consist of" in capsys.readouterr().err


def test_a_server_that_refuses_is_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    """Advice about a server names the option for its address."""
    with raw_server(response(404, b"")) as server:
        arguments = ["--engine", "variations", "--base-url", server.base_url]
        assert main(["create", "photo.jpg", *arguments]) == 1
    assert "check --base-url, which usually ends in /v1" in capsys.readouterr().err


@pytest.mark.slow
def test_the_summary_of_a_batch_names_options(capsys: pytest.CaptureFixture[str]) -> None:
    """An image that fails in a batch has the same message as in `create`."""
    assert main(["batch", "photo.jpg", "--fit", "strict", "--jsonl", "--workers", "1"]) == 3
    assert "photo.jpg: image is not a PNG file" in (err := capsys.readouterr().err)
    assert "--fit crop, --fit pad or --fit keep would convert it." in err


def test_a_batch_names_the_option_that_allows_a_store(capsys: pytest.CaptureFixture[str]) -> None:
    """The summary names the option, and not what Python would need."""
    Path("rows.jsonl").write_text('{"path": "webhdfs://host/1.png"}\n')
    assert main(["batch", "rows.jsonl", "--jsonl", "--workers", "1"]) == 3
    message = " ".join(capsys.readouterr().err.split())
    assert "If you trust this kind, allow it: --allow-storage webhdfs. " in f"{message} "
    assert "Python" not in message


def test_a_batch_does_not_write_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    """`-o -` is refused for a batch, and makes no folder of that name."""
    assert main(["batch", "photo.jpg", "-o", "-", "--jsonl"]) == 2
    assert "batch writes files; pass a folder or a URL to -o." in capsys.readouterr().err
    assert not Path("-").exists()


def test_an_unusable_store_is_named_as_typed(capsys: pytest.CaptureFixture[str]) -> None:
    """The error of `serve` names the folder of the store as typed, and the option once."""
    pytest.importorskip("uvicorn")
    assert main(["serve", "--engine", "instant", "--store-dir", "photo.jpg/store"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("image-variation: The folder 'photo.jpg/store' cannot be used to store")
    assert err.endswith(" Choose another one with --store-dir.\n")


COMMANDS = ("create", "batch", "serve", "mcp", "engines", "completion")

MISTAKES = [
    ("create photo.jpg --colour red", "create: unrecognized arguments: --colour red; see"),
    ("create photo.jpg --strenght 1", "--strenght 1; did you mean --strength?; see"),
    ("create photo.jpg --out x", "--out x; did you mean --output-dir?; see"),
    ("create photo.jpg --qualty=9", "--qualty=9; did you mean --quality?; see"),
    ("create", "create: the following arguments are required: PHOTO; see"),
    ("creat photo.jpg", "there is no command 'creat'; did you mean create?; see"),
    ("photo.jpg -n 2", "'photo.jpg'; did you mean image-variation create photo.jpg?; see"),
    ("vary photo.jpg", "(choose from create, batch, serve, mcp, engines, pull, completion); see"),
    ("--seed 7 create photo.jpg", "--seed comes before the command; options go after it; see"),
    ("create photo.jpg -x", "create: unrecognized arguments: -x; see"),
    ("batch photo.jpg --galery", "--galery; did you mean --gallery?; see"),
    ("serve --hots 0.0.0.0", "serve: unrecognized arguments: --hots 0.0.0.0; did you mean --host?"),
    ("engines --all", "engines: unrecognized arguments: --all; see"),
    ("completion", "completion: the following arguments are required: shell; see"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[a for a, _ in MISTAKES])
def test_a_mistake_points_to_the_help_of_its_command(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line points to the command's own help, and names the option that was probably meant."""
    assert main(arguments.split()) == 2
    out, err = capsys.readouterr()
    first_word = arguments.split()[0]
    command = f"{first_word} " if first_word in COMMANDS else ""
    assert message in err
    assert err.endswith(f"; see image-variation {command}--help\n")
    assert (out, err.count("\n")) == ("", 1)
