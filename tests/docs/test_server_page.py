import re
import subprocess
import sys

from tests.docs.pages import table

ENGINE_OPTIONS = {
    *("--base-url", "--engine", "--help", "--light", "--no-light", "--prompt", "--seed"),
    *("--server", "--strength"),
}
"""The options that `serve` shares with `create`, and `--help`."""


def test_table_of_options_is_whole() -> None:
    """The page has each option of `serve`, and no other."""
    command = [sys.executable, "-m", "langchain_image_variation", "serve", "--help"]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    options = set(re.findall(r"^  (?:-h, )?(--[a-z-]+)", printed, re.MULTILINE))
    rows = " ".join(table("docs/server.md", "| option of `serve` | what it does |"))
    documented = set(re.findall(r"--[a-z-]+", rows))
    assert ENGINE_OPTIONS - {"--no-light"} <= options
    assert documented - ENGINE_OPTIONS == options - ENGINE_OPTIONS
