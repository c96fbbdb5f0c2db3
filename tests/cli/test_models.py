import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from langchain_image_variation.cli import main
from langchain_image_variation.engines.diffusers.presets import DEFAULT_PRESET, PRESETS
from tests.cli.program import PROGRAM, run, run_in_terminal, screen
from tests.engines.diffusers.fake_hub import (
    FakeHub,
    Fault,
    HubRepository,
    hub_environment,
    run_fake_hub,
)
from tests.extras import skip_without

skip_without("huggingface_hub")

NAME = DEFAULT_PRESET.parts[0].repository
WEIGHTS = random.Random(1).randbytes(12_000_000)
FILES = {
    "model_index.json": b'{"_class_name": "StableDiffusionImageVariationPipeline"}',
    "unet/config.json": b"{}",
    "unet/diffusion_pytorch_model.safetensors": WEIGHTS,
}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    """Run a hub that has the default model."""
    with run_fake_hub() as hub:
        hub.repositories[NAME] = HubRepository(FILES, ("main", DEFAULT_PRESET.parts[0].revision))
        yield hub


@pytest.fixture
def env(hub: FakeHub, tmp_path: Path) -> dict[str, str]:
    """Return the variables of a user whose Hub is the fake one, and who has no token."""
    return hub_environment(hub, tmp_path / "cache")


def test_pull_announces_the_download(hub: FakeHub, env: dict[str, str]) -> None:
    """`pull` says how much it downloads, from where and under which license, and what is next."""
    completed = run("pull", "sd-variations", env=env)
    assert (completed.returncode, completed.stdout) == (0, b"")
    assert completed.stderr.decode().splitlines() == [
        f"Downloading the model 'sd-variations': 12.0 MB from {hub.url}/{NAME}. License: "
        f"{DEFAULT_PRESET.license}, {DEFAULT_PRESET.license_url}. If you interrupt this, the next "
        "run continues.",
        "The model 'sd-variations' is complete. To use it: image-variation create PHOTO --engine "
        "diffusers --model sd-variations",
    ]
    requests = len(hub.downloads())
    completed = run("pull", "sd-variations", env=env)
    assert completed.stderr.decode().splitlines() == [
        "The model 'sd-variations' was already here and is up to date. To use it: image-variation "
        "create PHOTO --engine diffusers --model sd-variations"
    ]
    assert len(hub.downloads()) == requests


def test_pull_gets_the_files_of_a_dtype(hub: FakeHub, env: dict[str, str]) -> None:
    """`pull --dtype float16` downloads the smaller files, and `--dtype float32` then the others."""
    halved_name = "unet/diffusion_pytorch_model.fp16.safetensors"
    hub.repositories["owner/mine"] = HubRepository({**FILES, halved_name: WEIGHTS[:6_000_000]})
    for dtype, size in (("float16", "6.0 MB"), ("float32", "12.0 MB")):
        completed = run("pull", "owner/mine", "--dtype", dtype, env=env)
        assert f"'owner/mine': {size} from".encode() in completed.stderr
    completed = run("pull", "owner/mine", "--dtype", "float16", env=env)
    assert b"was already here" in completed.stderr
    assert len(hub.downloads()) == 2


def test_offline_needs_the_files_of_the_dtype(hub: FakeHub, env: dict[str, str]) -> None:
    """Offline, a command that needs other files than those of `pull --dtype float16` says so."""
    halved_name = "unet/diffusion_pytorch_model.fp16.safetensors"
    hub.repositories["owner/mine"] = HubRepository({**FILES, halved_name: WEIGHTS[:6_000_000]})
    run("pull", "owner/mine", "--revision", "main", "--dtype", "float16", env=env)
    arguments = ("owner/mine", "--revision", "main", "--dtype", "float32")
    completed = run("pull", *arguments, env={**env, "HF_HUB_OFFLINE": "1"})
    assert completed.returncode == 1
    assert completed.stderr.decode() == (
        "image-variation: The model 'owner/mine' is on this machine in half precision only, and "
        "HF_HUB_OFFLINE is set, so the other files cannot be downloaded. Run `image-variation pull "
        "owner/mine --revision main --dtype float32` on a machine with a network, and copy its "
        "cache. Or use a GPU that computes in float16.\n"
    )


def test_pull_says_how_to_use_a_revision(hub: FakeHub, env: dict[str, str]) -> None:
    """The command that `pull` suggests uses the revision that was downloaded."""
    hub.repositories["owner/mine"] = HubRepository(FILES, ("main", "v1"))
    completed = run("pull", "owner/mine", "--revision", "v1", env=env)
    assert completed.stderr.decode().endswith(
        "create PHOTO --engine diffusers --model owner/mine --revision v1\n"
    )


def test_pull_hides_its_retries(hub: FakeHub, env: dict[str, str]) -> None:
    """If the connection breaks and is made again, the output is the same."""
    hub.faults = [Fault("/storage/", after=11_000_000)]
    completed = run("pull", "sd-variations", env=env)
    assert completed.returncode == 0
    assert len(hub.downloads()) == 2
    assert len(completed.stderr.decode().splitlines()) == 2


def test_pull_gets_a_new_revision(hub: FakeHub, env: dict[str, str]) -> None:
    """If a branch has moved since the last `pull`, the changed files are downloaded."""
    hub.repositories["owner/mine"] = HubRepository(FILES)
    assert run("pull", "owner/mine", "--quiet", env=env).stderr == b""
    hub.repositories["owner/mine"] = HubRepository({**FILES, "unet/config.json": b"{} "})
    completed = run("pull", "owner/mine", env=env)
    assert b"Downloading the model 'owner/mine': 3 bytes from" in completed.stderr
    assert len(hub.downloads()) == 1


def test_pull_shows_a_bar(hub: FakeHub, env: dict[str, str]) -> None:
    """In a terminal, a bar shows how much has arrived, and it is removed at the end."""
    hub.seconds_per_chunk = 0.005
    code, output = run_in_terminal(["pull", "sd-variations"], env=env, columns=100)
    assert code == 0
    assert re.search(r"sd-variations: +\d+%\|.+\| [\d.]+M/12\.0M \[", output)
    assert not [line for line in screen(output) if "%|" in line]


def test_interrupted_pull_continues(hub: FakeHub, env: dict[str, str], tmp_path: Path) -> None:
    """Ctrl-C ends a download at once with code 130, and the next run continues it."""
    hub.seconds_per_chunk = 0.02
    process = subprocess.Popen(
        [*PROGRAM, "pull", "sd-variations"],
        env={**os.environ, **env},
        stderr=subprocess.PIPE,
        text=True,
    )
    cache = tmp_path / "cache"
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in cache.rglob("*.incomplete")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "image-variation: interrupted; no file is half-written."
    hub.seconds_per_chunk = 0
    completed = run("pull", "sd-variations", env=env)
    assert completed.returncode == 0
    assert b"'sd-variations': 1.5 MB from" in completed.stderr
    assert hub.downloads()[-1].range == "bytes=10485760-"


@pytest.mark.slow
def test_one_interrupt_ends_a_stalled_pull(hub: FakeHub, env: dict[str, str]) -> None:
    """One Ctrl-C ends `pull` while the Hub stalls within a small file."""
    path = f"/{NAME}/resolve/{hub.repositories[NAME].commit}/unet/config.json"
    # A HEAD request comes first.
    hub.faults = [Fault(path, after=1, end="stall", times=2)]
    with subprocess.Popen(
        [*PROGRAM, "pull", "sd-variations"],
        env={**os.environ, **env, "HF_HUB_DOWNLOAD_TIMEOUT": "600"},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            deadline = time.monotonic() + 60
            while ("GET", path) not in [(each.method, each.path) for each in hub.requests]:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    assert err.splitlines()[-1] == "image-variation: interrupted; no file is half-written."


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("magic",), 2, "model must be one of sd-variations, unclip"),
        (("owner/missing",), 1, "The repository 'owner/missing' does not exist, or is private."),
        (("sd-variations", "--revision", "v9"), 2, f"'{NAME}' has no revision 'v9'."),
        (("owner/pickles",), 2, "Name a commit that you trust: pass --revision."),
        (("owner/gated",), 1, "then set HF_TOKEN to a token of your account"),
        (("owner/text",), 2, "'owner/text' is a StableDiffusion3Pipeline, which cannot make"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_pull_explains_failures(
    hub: FakeHub, env: dict[str, str], arguments: tuple[str, ...], code: int, message: str
) -> None:
    """A model that cannot be downloaded is one line that says what to do."""
    pickles = {path.replace("safetensors", "bin"): data for path, data in FILES.items()}
    hub.repositories["owner/pickles"] = HubRepository(pickles)
    hub.repositories["owner/gated"] = HubRepository(FILES, is_gated=True)
    text = {"model_index.json": b'{"_class_name": "StableDiffusion3Pipeline"}'}
    hub.repositories["owner/text"] = HubRepository(text)
    completed = run("pull", *arguments, env=env)
    assert (completed.returncode, completed.stdout) == (code, b"")
    [line] = completed.stderr.decode().splitlines()
    assert message in line


def test_engines_lists_the_models(env: dict[str, str]) -> None:
    """`engines` says of each preset whether it is here, without the network."""
    before = run("engines", env=env).stdout.decode()
    assert run("pull", "sd-variations", "-q", env=env).returncode == 0
    after = run("engines", env={**env, "HF_HUB_OFFLINE": "1"}).stdout.decode()
    assert max(map(len, after.splitlines())) <= 100
    memory = "estimated memory: 4.0 GB on a GPU, 1.5 GB with --offload sequential, 7.5 GB on a CPU"
    rest = f"{memory}; license: {DEFAULT_PRESET.license}."
    assert f"sd-variations not downloaded, at least 3.8 GB; {rest}" in " ".join(before.split())
    facts = " ".join(after.split())
    assert f"sd-variations downloaded; {rest}" in facts
    for preset in PRESETS.values():
        row = facts.partition(f"{preset.name} ")[2].partition("; license: ")
        assert "estimated memory: " in row[0]
        assert row[2].startswith(preset.license)
    assert "not for commercial use; accept the license at https://huggingface.co/" in facts


def test_a_model_is_for_engines_that_load_one(capsys: pytest.CaptureFixture[str]) -> None:
    """--model-path is refused with an engine that loads no model, and next to --model."""
    assert main(["create", "photo.jpg", "--model-path", "."]) == 2
    assert capsys.readouterr().err == (
        "image-variation: The engine 'local' loads no model, so --model-path cannot be used with "
        "it. Add --engine diffusers.\n"
    )
    assert main(["create", "photo.jpg", "--model-path", ".", "--model", "unclip"]) == 2
    assert "Pass --model or --model-path, not both." in capsys.readouterr().err
    assert main(["create", "photo.jpg", "--engine", "diffusers", "--model-path", ""]) == 2
    assert "--model-path must name a folder, got ''." in capsys.readouterr().err
