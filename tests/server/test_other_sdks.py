"""The vendor's SDKs of other languages and other times, each where it is installed.

`.ci/clients` says how: it installs them into the folder that `IMAGE_VARIATION_CLIENTS` names.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from langchain_image_variation.server import create_app
from pytest_image_variation.samples import square_png
from tests.server.serving import Moody, check_picture, installed, serving

pytestmark = pytest.mark.slow
KEY = "sk-right"
SCRIPTS = Path(__file__).with_name("clients")
STATUSES = (400, 401, 404, 429, 500)
MODERN = (
    "BadRequestError",
    "AuthenticationError",
    "NotFoundError",
    "RateLimitError",
    "InternalServerError",
)
OLD = (
    "InvalidRequestError",
    "AuthenticationError",
    "InvalidRequestError",
    "RateLimitError",
    "APIError",
)


def asked(tmp_path: Path, *command: str | Path) -> dict[str, Any]:
    """Run a client's script, told of a server by its environment, and return what it printed."""
    photo = tmp_path / "image.png"
    photo.write_bytes(square_png(64))
    app = create_app(Moody(), api_key=KEY, store_dir=tmp_path / "store", queue=100)
    with serving(app) as address:
        # Nothing else tells an old program where the server is; 0.28 reads a name of its own.
        base = {"OPENAI_BASE_URL": f"{address}/v1", "OPENAI_API_BASE": f"{address}/v1"}
        done = subprocess.run(
            [*command, photo],
            env={**os.environ, **base, "OPENAI_API_KEY": KEY},
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        printed: dict[str, Any] = json.loads(done.stdout)
        for n, size, _, pictures in printed["answers"]:
            assert len(pictures) == n
            for picture in pictures:
                check_picture(picture, size)
    assert len(printed["answers"]) == 12
    return printed


def check_errors(printed: dict[str, Any], names: tuple[str, ...]) -> None:
    """Check the class that stands for each status."""
    errors = printed["errors"]
    assert {int(status): error[0] for status, error in errors.items()} == dict(
        zip(STATUSES, names, strict=True)
    )
    assert all(int(status) == error[1] for status, error in errors.items())


@pytest.mark.parametrize("release", ["newest", "4"])
def test_the_npm_package(tmp_path: Path, release: str) -> None:
    """Every form, number and size; its own errors; the newest tries again after 429 and 500."""
    folder = installed(f"node-{release}/node_modules/openai").parents[1]
    node = shutil.which("node") or "node"
    retries = "yes" if release == "newest" else "no"
    printed = asked(tmp_path, node, SCRIPTS / "sdk.mjs", folder, retries)
    check_errors(printed, MODERN)
    assert printed["errors"]["401"][2] == "invalid_api_key"
    assert printed["retried"] == ([1, 1] if retries == "yes" else [])


@pytest.mark.parametrize("release", ["1", "2"])
def test_older_python_sdks(tmp_path: Path, release: str) -> None:
    """The last 1.x and 2.x do as the newest does."""
    python = installed(f"python-{release}/bin/python")
    printed = asked(tmp_path, python, SCRIPTS / "sdk.py")
    check_errors(printed, MODERN)
    assert printed["retried"] == [1, 1]


def test_the_python_sdk_before_1(tmp_path: Path) -> None:
    """0.28, told by its environment alone, which `openai.Image.create_variation` belongs to."""
    python = installed("python-0.28/bin/python")
    check_errors(asked(tmp_path, python, SCRIPTS / "sdk_0.py"), OLD)
