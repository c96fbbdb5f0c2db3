import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from langchain_image_variation.cli import main
from langchain_image_variation.exceptions import install_command
from tests.extras import skip_without

MISTAKES = [
    ("--root-dir nowhere", 2, "There is no folder 'nowhere'."),
    ("--output-dir ../elsewhere", 2, "--output-dir must be inside --root-dir."),
    ("--engine nothing", 2, "There is no engine 'nothing'."),
    (
        "--engine instant --engine instant",
        2,
        "Two engines have the name 'instant'. Name each engine once",
    ),
    ("--engine instant --strength 0.2", 2, "The engine 'instant' has no option --strength"),
    (
        "--engine instant --engine local --base-url http://x",
        2,
        "None of the engines instant, local has the option --base-url.",
    ),
    (
        "--engine variations --engine gpt-image --base-url http://x",
        2,
        "The engines variations and gpt-image cannot share the option --base-url.",
    ),
    (
        "--engine replicate --engine gpt-image --max-billed-calls 5",
        2,
        "--max-billed-calls does not limit gpt-image, which a model could choose. Leave that "
        "engine out.",
    ),
    ("--port 8001", 2, "--port needs --http."),
    ("--expose prompt", 2, "LocalEngine has no prompt that a request can set"),
    ("--max-n 11", 2, "--max-n must be a whole number from 1 to 10, got 11."),
    ("--max-results 0", 2, "--max-results must be a whole number of at least 1, got 0."),
    ("--max-thumbnail-base64 9", 2, "--max-thumbnail-base64 must be a whole number of at least"),
    ("--thumbnail huge", 2, "argument --thumbnail: must be one of none, sheet, each, got"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), MISTAKES, ids=range(len(MISTAKES)))
def test_a_wrong_option_is_explained(
    arguments: str,
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A mistake ends the command before it serves, with one line on standard error."""
    skip_without("mcp_types")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    assert main(["mcp", *arguments.split()]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1 and message in err
    assert not (tmp_path / "variations").exists()


def test_a_short_token_is_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A token that is easy to guess ends the command, and is not printed."""
    skip_without("mcp_types")
    monkeypatch.setenv("IMAGE_VARIATION_MCP_TOKEN", "hunter2")
    assert main(["mcp", "--http", "--port", "0", "--engine", "instant"]) == 2
    err = capsys.readouterr().err
    problem = "IMAGE_VARIATION_MCP_TOKEN must have at least 16 visible ASCII characters."
    assert f"{problem} Unset it to get a random token." in err
    assert "hunter2" not in err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no sh")
@pytest.mark.slow
@pytest.mark.parametrize("redirection", ["<&-", ">&-"])
def test_a_closed_stream_is_explained(redirection: str, tmp_path: Path) -> None:
    """Without a stream to its host, the command says in one line that it needs both."""
    skip_without("mcp_types")
    command = [sys.executable, "-m", "langchain_image_variation", "mcp", "--engine", "instant"]
    completed = subprocess.run(
        ["sh", "-c", f"{shlex.join(command)} {redirection}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert (completed.returncode, completed.stdout, completed.stderr) == (
        2,
        "",
        "image-variation: Standard input or output is closed, but a host talks to this command by "
        "both. Start it from a host, or pass --http to serve over HTTP.\n",
    )


@pytest.mark.slow
def test_an_old_library_is_named(tmp_path: Path) -> None:
    """With release 1 of the library, the command says which version it needs."""
    (tmp_path / "mcp" / "server").mkdir(parents=True)
    for folder in ("mcp", "mcp/server"):
        (tmp_path / folder / "__init__.py").write_text("")
    (tmp_path / "mcp-1.30.0.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: mcp\nVersion: 1.30.0\n"
    (tmp_path / "mcp-1.30.0.dist-info" / "METADATA").write_text(metadata)
    # Release 1 has no package `mcp_types`.
    code = (
        "import sys; sys.modules['mcp_types'] = None; import langchain_image_variation as package\n"
        "assert 'ImageVariationMCPServer' not in dir(package)\n"
        "import langchain_image_variation.cli as cli; sys.exit(cli.main(['mcp']))"
    )
    completed = subprocess.run(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert (completed.returncode, completed.stdout) == (1, "")
    assert "needs mcp 2.2 or later, but 1.30.0 is installed." in completed.stderr
    assert "use another virtual environment." in completed.stderr


@pytest.mark.slow
def test_the_missing_extra_is_named() -> None:
    """Without the library, the command says how to install it."""
    code = "import sys; sys.modules['mcp'] = None; import langchain_image_variation.cli as cli\n"
    completed = subprocess.run(
        [sys.executable, "-c", f"{code}sys.exit(cli.main(['mcp']))"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (completed.returncode, completed.stdout) == (1, "")
    assert "needs the package 'mcp" in completed.stderr
    assert install_command("langchain-image-variation[mcp]") in completed.stderr
