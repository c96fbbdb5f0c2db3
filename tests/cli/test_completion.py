import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from langchain_image_variation.cli import main
from tests.cli.program import call, run

COMPLETE = r"""
eval "$SCRIPT"
complete -p image-variation > /dev/null || exit 9
COMP_WORDS=(image-variation "$@")
COMP_CWORD=$#
COMP_LINE="${COMP_WORDS[*]}"
COMP_POINT=${#COMP_LINE}
command=$(complete -p image-variation)
[[ $command =~ \ -F\ ([^ ]+) ]]
${BASH_REMATCH[1]} image-variation "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\n' "${COMPREPLY[@]}"
"""
"""Completes the last argument as bash does when the user presses the tab key."""


@pytest.fixture(scope="module")
def script() -> str:
    """Return the script for bash."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    completed = call("completion", "bash")
    assert (completed.returncode, completed.stderr) == (0, "")
    return completed.stdout


@pytest.mark.parametrize(
    ("arguments", "candidates"),
    [
        ([""], {"batch", "completion", "create", "engines", "mcp", "pull", "serve"}),
        (["cre"], {"create"}),
        (["create", "--str"], {"--strength"}),
        (["create", "--model", "un"], {"unclip"}),
        (["pull", "ip"], {"ip-adapter", "ip-adapter-xl"}),
        (["create", "--scheduler", ""], {"auto", "model", "dpm-solver++"}),
        (["create", "--device", ""], {"auto", "cpu", "cuda", "mps", "xpu"}),
        (["create", "--dtype", "b"], {"bfloat16"}),
        (["create", "--offload", ""], {"auto", "model", "none", "sequential"}),
        (["create", "--server", ""], {"deepinfra", "lemonade", "stdapi", "xinference"}),
        (["serve", "--model-path", "ph"], {"photos/"}),
        (
            ["create", "--engine", ""],
            {
                "auto",
                "diffusers",
                "fal",
                "gpt-image",
                "instant",
                "local",
                "recraft",
                "replicate",
                "variations",
            },
        ),
        (["create", "photo.jpg", "--size", ""], {"256x256", "512x512", "1024x1024"}),
        (["create", "photo.jpg", "--format", "j"], {"jpeg", "json", "jsonl"}),
        (["create", "ph"], {"photo.jpg", "photos/"}),
        (["create", "--request", "ph"], {"photo.jpg", "photos/"}),
        (["create", "photo.jpg", "-o", "ph"], {"photos/"}),
        (["batch", "ph"], {"photo.jpg", "photos/"}),
        (["serve", "--store-dir", "ph"], {"photos/"}),
        (["mcp", "--root-dir", "ph"], {"photos/"}),
        (["mcp", "--thumbnail", ""], {"each", "none", "sheet"}),
        (["completion", ""], {"bash", "zsh", "fish"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bash_completes_commands(script: str, arguments: list[str], candidates: set[str]) -> None:
    """Bash offers commands, options, their values, files and folders."""
    Path("photos").mkdir()
    completed = subprocess.run(
        ["bash", "--norc", "-c", COMPLETE, "bash", *arguments],
        env={"PATH": "/usr/bin:/bin", "SCRIPT": script},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (completed.returncode, completed.stderr) == (0, "")
    offered = {line.rstrip("/") for line in completed.stdout.splitlines()}
    assert offered == {candidate.rstrip("/") for candidate in candidates}


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The scripts for other shells know the commands and options too."""
    assert main(["completion", shell]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("image-variation", "create", "output-dir", "webp"))


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_can_parse_their_script(shell: str) -> None:
    """If a shell is installed, it can parse its script."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    Path("script").write_bytes(run("completion", shell).stdout)
    subprocess.run([shell, "-n", "script"], check=True, timeout=60)


@pytest.mark.slow
def test_no_other_command_imports_the_completion() -> None:
    """Only `completion` imports the package that writes the scripts."""
    code = (
        "import sys; from langchain_image_variation.cli import main; "
        "main(['engines']); sys.exit('shtab' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
