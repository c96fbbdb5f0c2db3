import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from langchain_image_variation.engines.diffusers.presets import DEFAULT_PRESET
from langchain_image_variation.exceptions import ModelNotDownloadedError
from tests.cli.program import PROGRAM, run_in_terminal, screen
from tests.cli.program import run as run_program
from tests.engines.diffusers.calls import LAKE, make_engine, make_request
from tests.engines.diffusers.conftest import MakeTinyModel
from tests.engines.diffusers.fake_hub import (
    FakeHub,
    HubRepository,
    hub_environment,
    read_files,
    run_fake_hub,
)
from tests.extras import skip_without
from tests.server.ports import free_port

skip_without("torch")

ENGINE = ("--engine", "diffusers", "--device", "cpu", "--steps", "2", "--seed", "7")
ANNOUNCEMENT = "Downloading the model 'sd-variations': "


def run(*arguments: str, env: dict[str, str]) -> "subprocess.CompletedProcess[bytes]":
    """Run the program. Libraries of the extra may warn."""
    return run_program(*arguments, env=env, timeout=600, warnings="default")


@pytest.fixture
def hub(tiny_model: MakeTinyModel) -> Iterator[FakeHub]:
    """Run a hub that has a tiny model of the default preset."""
    part = DEFAULT_PRESET.parts[0]
    with run_fake_hub() as hub:
        files = read_files(tiny_model(DEFAULT_PRESET.name))
        hub.repositories[part.repository] = HubRepository(files, (part.revision,))
        yield hub


@pytest.fixture
def env(hub: FakeHub, tmp_path: Path) -> dict[str, str]:
    """Return the variables of a user whose Hub is the fake one."""
    return {**hub_environment(hub, tmp_path / "cache"), "OMP_NUM_THREADS": "1"}


def test_create_downloads_and_says_so(hub: FakeHub, env: dict[str, str], tmp_path: Path) -> None:
    """`create` downloads what is missing, says so first, and needs no network afterwards."""
    arguments = ["create", str(LAKE), *ENGINE, "--size", "256x256", "--no-sheet"]
    first = run(*arguments, "-o", str(tmp_path / "first"), env=env)
    assert first.returncode == 0, first.stderr
    assert first.stderr.decode().startswith(ANNOUNCEMENT)
    requests = len(hub.requests)
    offline = {**env, "HF_HUB_OFFLINE": "1"}
    second = run(*arguments, "-o", str(tmp_path / "second"), env=offline)
    assert second.returncode == 0, second.stderr
    assert ANNOUNCEMENT not in second.stderr.decode()
    assert len(hub.requests) == requests
    [path] = (tmp_path / "first").iterdir()
    # The name has the hash of the pixels.
    assert [path.name for path in (tmp_path / "second").iterdir()] == [path.name]


def test_create_takes_a_folder(tiny_model: MakeTinyModel, tmp_path: Path) -> None:
    """--model-path uses a model in a folder, without any download."""
    folder = tiny_model(DEFAULT_PRESET.name)
    completed = run(
        *("create", str(LAKE), *ENGINE, "--size", "256x256", "-o", str(tmp_path)),
        *("--model-path", os.path.relpath(folder)),
        env={"HF_HUB_OFFLINE": "1"},
    )
    assert completed.returncode == 0, completed.stderr
    assert len(list(tmp_path.glob("lake-*-1.png"))) == 1


def test_a_failed_download_makes_nothing(hub: FakeHub, env: dict[str, str], tmp_path: Path) -> None:
    """If the model cannot be downloaded, the error is one line for all images."""
    hub.repositories[DEFAULT_PRESET.parts[0].repository].is_gated = True
    arguments = ("create", str(LAKE), str(LAKE), *ENGINE, "-q", "-o", str(tmp_path))
    completed = run(*arguments, env=env)
    assert (completed.returncode, completed.stdout) == (1, b"")
    [line] = completed.stderr.decode().splitlines()
    assert line.startswith("image-variation: The model 'sd-variations' is gated:")


def test_the_announcement_has_its_own_line(
    hub: FakeHub, env: dict[str, str], tmp_path: Path
) -> None:
    """On a terminal, the announcement does not continue the line of the progress bar."""
    hub.repositories[DEFAULT_PRESET.parts[0].repository].is_gated = True
    arguments = ("create", str(LAKE), *ENGINE, "-o", str(tmp_path))
    code, output = run_in_terminal(arguments, env=env, columns=1000)
    assert code == 1
    assert any(line.startswith(ANNOUNCEMENT) for line in screen(output))


@pytest.mark.slow
def test_batch_downloads_before_it_works(hub: FakeHub, env: dict[str, str], tmp_path: Path) -> None:
    """`batch` downloads the model once, before its workers start."""
    for name in ("one.jpg", "two.jpg"):
        (tmp_path / name).write_bytes(LAKE.read_bytes())
    completed = run(
        *("batch", str(tmp_path / "one.jpg"), str(tmp_path / "two.jpg"), *ENGINE),
        *("--size", "256x256", "--workers", "2", "-o", str(tmp_path / "out")),
        env=env,
    )
    assert completed.returncode == 0, completed.stderr
    assert completed.stderr.decode().startswith(ANNOUNCEMENT)
    paths = [request.path for request in hub.downloads()]
    assert len(paths) == len(set(paths))


@pytest.mark.slow
def test_serve_downloads_before_it_listens(hub: FakeHub, env: dict[str, str]) -> None:
    """`serve` downloads the model before it listens, so that no request waits for that."""
    with subprocess.Popen(
        [*PROGRAM, "serve", *ENGINE, "--port", "0"],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            assert process.stderr.readline().startswith(ANNOUNCEMENT)
            assert process.stdout.readline().startswith("Serving image variations at")
            assert hub.downloads()
        finally:
            process.kill()


@pytest.mark.slow
def test_engines_says_that_the_model_is_missing(hub: FakeHub, env: dict[str, str]) -> None:
    """`engines` calls diffusers usable only if its default model is here."""

    def row() -> str:
        text = run("engines", env=env).stdout.decode()
        return " ".join(text[text.index("\ndiffusers ") : text.index("\nfal ")].split())

    assert row() == (
        "diffusers needs setup Its model 'sd-variations' is not on this machine. Run: "
        "image-variation pull sd-variations. It downloads at least 3.8 GB."
    )
    assert not hub.downloads()
    assert run("pull", "sd-variations", env=env).returncode == 0
    assert row().startswith("diffusers usable Makes new images of the same subject")


@pytest.mark.slow
@pytest.mark.parametrize("is_reachable", [True, False])
def test_mcp_names_the_command_that_downloads(
    hub: FakeHub, env: dict[str, str], is_reachable: bool
) -> None:
    """`mcp` downloads nothing, and names `pull` whether or not the Hub can be reached."""
    skip_without("mcp_types")
    if not is_reachable:
        env = {**env, "HF_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    part = DEFAULT_PRESET.parts[0]
    arguments = ("--engine", "diffusers", "--revision", part.revision)
    completed = run("mcp", *arguments, env=env)
    assert (completed.returncode, completed.stdout) == (1, b"")
    assert completed.stderr.decode() == (
        "image-variation: The model 'sd-variations' is not on this machine. Run: image-variation "
        f"pull sd-variations --revision {part.revision}\n"
    )
    assert not hub.downloads()


def test_python_downloads_nothing_unasked(tmp_path: Path) -> None:
    """A call of an engine whose model is not here is an error that names the command."""
    engine = make_engine("sd-variations", cache_dir=tmp_path)
    with pytest.raises(ModelNotDownloadedError) as caught:
        engine.create_variation(make_request())
    assert caught.value.hint == "Run `image-variation pull sd-variations`, or pass download=True."


@pytest.mark.slow
def test_python_downloads_with_permission(hub: FakeHub, env: dict[str, str]) -> None:
    """With `download=True`, the first call downloads the model."""
    code = (
        "from tests.engines.diffusers.calls import make_engine, make_request\n"
        "engine = make_engine('sd-variations', download=True)\n"
        "print(engine.create_variation(make_request()).model)"
    )
    completed = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert completed.stdout == "sd-variations\n", completed.stderr
    assert hub.downloads()
