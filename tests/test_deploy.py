"""The files of `examples/deploy/`: a Containerfile and a manifest for Kubernetes."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from langchain_image_variation.cli.serve import add_serve
from langchain_image_variation.server import create_app
from pytest_image_variation.samples import square_png
from tests.server.serving import serving
from tests.server.test_url_store import KEY, on_server

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "examples" / "deploy"
PREFIX = "/opt/image-variation"
"""The virtual environment in the image."""
IMAGE_ADDRESS = "http://127.0.0.1:8000"
"""The server's address inside the container."""


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Containerfile, and what follows each."""
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / "Containerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.partition(" ")[2]) for line in lines if line]


def last(name: str) -> str:
    """Return what follows the last instruction of a name."""
    return [value for key, value in instructions() if key == name][-1]


def manifest() -> dict[str, Any]:
    """Return the resources of the manifest by kind."""
    resources = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    return {resource["kind"]: resource for resource in resources}


def container() -> dict[str, Any]:
    """Return the container of the manifest."""
    (only,) = manifest()["Deployment"]["spec"]["template"]["spec"]["containers"]
    return dict(only)


def test_the_image_is_not_run_by_root() -> None:
    """The image starts the server, as a user that Kubernetes knows is not root."""
    assert int(last("USER")) > 0
    assert json.loads(last("ENTRYPOINT"))[:2] == ["image-variation", "serve"]


def test_the_manifest_fits_the_server() -> None:
    """The manifest passes options that `serve` has, and the probes use the port of the image."""
    parser = argparse.ArgumentParser()
    add_serve(parser)
    options = parser.parse_args([*json.loads(last("ENTRYPOINT"))[2:], *container()["args"]])
    assert options.store_url.startswith("s3://")
    (port,) = container()["ports"]
    assert port["containerPort"] == options.port == int(last("EXPOSE"))
    labels = manifest()["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert manifest()["Service"]["spec"]["selector"].items() <= labels.items()
    budget = manifest()["PodDisruptionBudget"]["spec"]
    assert budget["selector"]["matchLabels"].items() <= labels.items()
    assert 0 < budget["minAvailable"] < manifest()["Deployment"]["spec"]["replicas"]


def test_the_health_check_uses_no_proxy(tmp_path: Path) -> None:
    """The image's health check calls the server itself, even if the environment names a proxy."""
    _, *arguments = json.loads(last("HEALTHCHECK").partition(" CMD ")[2])
    with serving(create_app("instant", store_dir=tmp_path)) as address:
        done = subprocess.run(
            [sys.executable, *arguments[:-1], arguments[-1].replace(IMAGE_ADDRESS, address)],
            env={**os.environ, "http_proxy": "http://127.0.0.1:9", "no_proxy": ""},
            timeout=60,
        )
    assert done.returncode == 0


@pytest.mark.slow
def test_the_linters_find_nothing() -> None:
    """Hadolint and kubernetes-validate, with its strict schemas, find no fault."""
    pytest.importorskip("kubernetes_validate")
    scripts = Path(sys.executable).parent
    commands: tuple[list[str | Path], ...] = (
        [scripts / "hadolint", DEPLOY / "Containerfile"],
        [scripts / "kubernetes-validate", "--strict", DEPLOY / "kubernetes.yaml"],
    )
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Run the image's entry point with nothing else in the environment, and yield its address."""
    command = json.loads(last("ENTRYPOINT"))
    command[command.index("--port") + 1] = "0"
    command[command.index("--host") + 1] = "127.0.0.1"
    scripts = folder / PREFIX[1:] / "bin"
    environment = {
        "PATH": f"{scripts}:{os.defpath}",
        "HOME": str(folder / "nowhere"),
        "IMAGE_VARIATION_SIGNING_KEY": KEY,
    }
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [scripts / command[0], *command[1:], *arguments],
        env=environment,
        stdout=pipe,
        cwd="/",
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            first_line = process.stdout.readline()
            yield process, first_line.partition(" at ")[2].partition("/v1.")[0]
        finally:
            process.kill()


@pytest.mark.slow
def test_the_steps_of_the_image_work(tmp_path: Path) -> None:
    """The Containerfile's steps make an environment in which two servers share a store."""
    # Like the linters, this needs a package index, which only the gate requires.
    pytest.importorskip("kubernetes_validate")
    source = tmp_path / "src"
    source.mkdir()
    for name, value in instructions():
        *names, target = value.split()
        if name == "COPY" and not value.startswith("--from"):
            for each in names:
                path = source / (each if target == "./" else target)
                copy = shutil.copytree if (ROOT / each).is_dir() else shutil.copy
                copy(ROOT / each, path)
        elif name == "RUN" and PREFIX in value:
            subprocess.run(
                value.replace(PREFIX, f"{tmp_path}{PREFIX}"),
                shell=True,
                cwd=source,
                env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
                check=True,
                timeout=600,
            )
    shutil.rmtree(source)
    store = f"--store-url=file://{tmp_path}/store"
    kept = [
        option for option in container()["args"] if not re.match("--(store|public)-url", option)
    ]
    with (
        running(tmp_path, *kept, store) as (first, address),
        running(tmp_path, *kept, store) as (second, other_address),
    ):
        check = json.loads(last("HEALTHCHECK").partition(" CMD ")[2])
        scripts = tmp_path / PREFIX[1:] / "bin"
        code = check[-1].replace(IMAGE_ADDRESS, address)
        assert subprocess.run([scripts / check[0], check[1], code], timeout=60).returncode == 0
        answer = httpx.post(
            f"{address}/v1/images/variations", files={"image": square_png(64)}, timeout=60
        )
        (entry,) = answer.json()["data"]
        assert httpx.get(on_server(other_address, entry["url"])).status_code == 200
        for process in (first, second):
            process.terminate()
            assert process.wait(60) == 0
        done = subprocess.run([scripts / check[0], check[1], code], stderr=subprocess.DEVNULL)
        assert done.returncode != 0
