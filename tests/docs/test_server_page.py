import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from langchain_image_variation.cli.engine_options import add_engine
from pytest_image_variation.samples import square_png
from tests.docs.pages import find_page, table
from tests.extras import skip_without
from tests.server.serving import serving


def _engine_options() -> set[str]:
    parser = argparse.ArgumentParser()
    add_engine(parser)
    names = [name for action in parser._actions for name in action.option_strings]
    return {name for name in names if name.startswith("--")}


ENGINE_OPTIONS = _engine_options()
"""The options that `serve` shares with `create`, and `--help`."""


def test_table_of_options_is_complete() -> None:
    """The page of the server lists each option of `serve`, and no other."""
    command = [sys.executable, "-m", "langchain_image_variation", "serve", "--help"]
    help_text = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=True
    ).stdout
    options = set(re.findall(r"^  (?:-h, )?(--[a-z-]+)", help_text, re.MULTILINE))
    rows = " ".join(table("docs/server.md", "| option of `serve` | what it does |"))
    documented_options = set(re.findall(r"--[a-z-]+", rows))
    switched_off = {option for option in ENGINE_OPTIONS if option.startswith("--no-")}
    assert ENGINE_OPTIONS - switched_off <= options
    assert documented_options - ENGINE_OPTIONS == options - ENGINE_OPTIONS


def test_mounted_app_gives_urls_that_work(checkout: Path) -> None:
    """The app that the page mounts in FastAPI answers with URLs below its path."""
    skip_without("fastapi")
    page = find_page("docs/deploy.md")
    block = next(block for block in page.blocks if "app.mount" in block.text)
    names: dict[str, Any] = {}
    exec(block.text.replace('"local"', '"instant"'), names)
    form: dict[str, Any] = {
        "files": {"image": ("image.png", square_png(64))},
        "data": {"size": "256x256"},
    }
    with serving(names["app"]) as address, httpx.Client(trust_env=False) as client:
        response = client.post(f"{address}/img/v1/images/variations", **form)
        url = response.json()["data"][0]["url"]
        assert url.startswith(f"{address}/img/files/")
        assert client.get(url).headers["content-type"] == "image/png"
