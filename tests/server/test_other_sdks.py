"""The vendor's SDKs for other languages and their older releases. Each needs to be installed.

`.ci/clients` installs them into the folder that `IMAGE_VARIATION_CLIENTS` names.
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
from tests.server.serving import MoodyEngine, check_image, installed_client, serving

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


def run_client(tmp_path: Path, *command: str | Path) -> dict[str, Any]:
    """Run a client's script, which finds the server in its environment. Return its output."""
    photo = tmp_path / "image.png"
    photo.write_bytes(square_png(64))
    app = create_app(MoodyEngine(), api_key=KEY, store_dir=tmp_path / "store", queue=100)
    with serving(app) as address:
        # An old program finds the server in its environment. 0.28 reads another variable.
        base = {"OPENAI_BASE_URL": f"{address}/v1", "OPENAI_API_BASE": f"{address}/v1"}
        process = subprocess.run(
            [*command, photo],
            env={**os.environ, **base, "OPENAI_API_KEY": KEY},
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert process.returncode == 0, process.stderr
        output: dict[str, Any] = json.loads(process.stdout)
        for n, size, _, images in output["answers"]:
            assert len(images) == n
            for image in images:
                check_image(image, size)
    assert len(output["answers"]) == 12
    return output


def check_errors(output: dict[str, Any], names: tuple[str, ...]) -> None:
    """Check the class of the exception for each status."""
    errors = output["errors"]
    assert {int(status): error[0] for status, error in errors.items()} == dict(
        zip(STATUSES, names, strict=True)
    )
    assert all(int(status) == error[1] for status, error in errors.items())


@pytest.mark.parametrize("release", ["newest", "4"])
def test_the_npm_package_works(tmp_path: Path, release: str) -> None:
    """Each format, number and size works with the npm package, and so do its errors."""
    folder = installed_client(f"node-{release}/node_modules/openai").parents[1]
    node = shutil.which("node") or "node"
    retries = "yes" if release == "newest" else "no"
    output = run_client(tmp_path, node, SCRIPTS / "sdk.mjs", folder, retries)
    check_errors(output, MODERN)
    assert output["errors"]["401"][2] == "invalid_api_key"
    assert output["retried"] == ([1, 1] if retries == "yes" else [])


@pytest.mark.parametrize("release", ["1", "2"])
def test_older_python_sdks_work(tmp_path: Path, release: str) -> None:
    """The last 1.x and 2.x behave like the newest."""
    python = installed_client(f"python-{release}/bin/python")
    output = run_client(tmp_path, python, SCRIPTS / "sdk.py")
    check_errors(output, MODERN)
    assert output["retried"] == [1, 1]


def test_the_python_sdk_before_1_works(tmp_path: Path) -> None:
    """The SDK 0.28 has `openai.Image.create_variation`, and finds the server by itself."""
    python = installed_client("python-0.28/bin/python")
    check_errors(run_client(tmp_path, python, SCRIPTS / "sdk_0.py"), OLD)
