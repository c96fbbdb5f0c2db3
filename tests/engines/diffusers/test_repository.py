import json
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from langchain_image_variation.cancellation import cancel_after
from langchain_image_variation.engines.diffusers.model_cache import cached_folder
from langchain_image_variation.engines.diffusers.presets import Part
from langchain_image_variation.engines.diffusers.repository import (
    Download,
    find_folders,
    plan_download,
)
from langchain_image_variation.exceptions import (
    AuthenticationError,
    EngineConnectionError,
    EngineError,
    ImageVariationError,
    InvalidRequestError,
    ModelNotDownloadedError,
    ModelNotFoundError,
    OutputError,
    PermissionDeniedError,
    RateLimitError,
)
from tests.cli.program import run_in_terminal
from tests.engines.diffusers.fake_hub import (
    FakeHub,
    Fault,
    HubRepository,
    hub_environment,
    read_files,
    run_fake_hub,
)
from tests.extras import skip_without

skip_without("huggingface_hub")

PART = Part("pipeline", "owner/tiny", "main", ("model_index.json", "unet/*", "vae/*"))
WEIGHTS = random.Random(1).randbytes(24_000_000)
"""More than the 10 MiB that the library collects before it writes or reports anything."""

FILES = {
    "README.md": b"# Tiny",
    "model_index.json": b'{"_class_name": "Tiny"}',
    "unet/config.json": b"{}",
    "unet/diffusion_pytorch_model.safetensors": WEIGHTS,
    "unet/diffusion_pytorch_model.fp16.safetensors": b"half",
    "unet/diffusion_pytorch_model.bin": b"pickle",
    "vae/config.json": b"{}",
    "vae/diffusion_pytorch_model.safetensors": WEIGHTS[:500_000],
    "other/model.safetensors": b"unneeded",
}
NEEDED = {
    "model_index.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """Run a hub with one repository. No token of this machine is sent to it."""
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with run_fake_hub() as hub:
        hub.repositories["owner/tiny"] = HubRepository(FILES)
        yield hub


def plan(hub: FakeHub, cache: Path, *, part: Part = PART, token: str | None = None) -> Download:
    """Plan the download of a part."""
    return plan_download([part], model="tiny", cache_dir=cache, token=token, endpoint=hub.url)


FIND = """
import json
from tests.engines.diffusers.test_repository import PART, find_folders
from langchain_image_variation.exceptions import ImageVariationError
try:
    folders = find_folders([PART], model='tiny', download=True)
    print(json.dumps({name: str(path) for name, path in folders.items()}))
except ImageVariationError as error:
    print(json.dumps([type(error).__name__, error.message]))
"""
"""Finds the folders, downloading what is missing, and prints them or the error."""


def run_find(hub: FakeHub, cache: Path, **env: str) -> "subprocess.Popen[str]":
    """Run `FIND` in a new process."""
    return subprocess.Popen(
        [sys.executable, "-c", FIND],
        env={**os.environ, **hub_environment(hub, cache), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_truncated_file_is_downloaded_again(hub: FakeHub, tmp_path: Path) -> None:
    """A file of the cache that lost its end counts as missing, and a download replaces it."""
    folder = plan(hub, tmp_path).run(lambda done, total: None)["pipeline"]
    assert cached_folder(PART, tmp_path) == folder
    for name in ("unet/diffusion_pytorch_model.safetensors", "model_index.json"):
        os.truncate(folder / name, len(FILES[name]) - 1)
        assert cached_folder(PART, tmp_path) is None
        download = plan(hub, tmp_path)
        assert download.missing_bytes == len(FILES[name])
        assert download.run(lambda done, total: None) == {"pipeline": folder}
        assert (folder / name).read_bytes() == FILES[name]


def test_needed_files_are_downloaded(hub: FakeHub, tmp_path: Path) -> None:
    """The files of the patterns arrive, in the safe format, and nothing else is fetched."""
    download = plan(hub, tmp_path)
    assert download.missing_bytes == sum(len(FILES[path]) for path in NEEDED)
    reports: list[tuple[int, int]] = []
    folders = download.run(lambda done, total: reports.append((done, total)))
    assert read_files(folders["pipeline"]) == {path: FILES[path] for path in NEEDED}
    assert reports == sorted(reports)
    assert reports[-1] == (download.missing_bytes, download.missing_bytes)
    assert len(hub.downloads()) == 2


def test_cached_files_need_no_network(hub: FakeHub, tmp_path: Path) -> None:
    """A complete part is found without any request, and nothing of it is missing."""
    assert cached_folder(PART, tmp_path) is None
    folders = plan(hub, tmp_path).run()
    hub.requests.clear()
    assert cached_folder(PART, tmp_path) == folders["pipeline"]
    assert find_folders([PART], model="tiny", cache_dir=tmp_path) == folders
    assert not hub.requests
    assert plan(hub, tmp_path).missing_bytes == 0
    assert "hf_secret" not in repr(plan_download([], model="tiny", token="hf_secret"))


def test_missing_files_are_not_fetched_unasked(tmp_path: Path) -> None:
    """Without permission to download, a model that is not here is an error with the command."""
    with pytest.raises(ModelNotDownloadedError) as caught:
        find_folders([PART], model="tiny", cache_dir=tmp_path)
    assert caught.value.message == (
        "The model 'tiny' is not on this machine yet. Run `image-variation pull tiny`, or pass "
        "download=True."
    )


def test_the_command_names_the_revision(tmp_path: Path) -> None:
    """The command that an error suggests downloads the revision that was asked for."""
    part = replace(PART, revision="v 1")
    with pytest.raises(ModelNotDownloadedError, match="pull tiny --revision 'v 1'`, or pass"):
        find_folders([part], model="tiny", cache_dir=tmp_path, revision="v 1")


def test_incomplete_part_is_not_found(hub: FakeHub, tmp_path: Path) -> None:
    """A part that lacks a file is not taken for complete."""
    folder = plan(hub, tmp_path).run()["pipeline"]
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    path.resolve().unlink()
    path.unlink()
    assert cached_folder(PART, tmp_path) is None
    download = plan(hub, tmp_path)
    assert download.missing_bytes == 500_000
    assert download.run()["pipeline"] == folder


@pytest.mark.parametrize("end", ["close", "reset"])
def test_broken_connection_is_continued(hub: FakeHub, tmp_path: Path, end: str) -> None:
    """If the connection breaks in the middle of a file, the rest of it is requested."""
    hub.faults = [Fault("/storage/", after=15_000_000, end=end)]
    folders = plan(hub, tmp_path).run()
    assert read_files(folders["pipeline"]).keys() == NEEDED
    ranges = [request.range for request in hub.downloads()]
    assert ranges[0] is None
    assert ranges[1] is not None


def interrupt(done: int, total: int) -> None:
    """Stop a download in its middle, as Ctrl-C does."""
    if done > 12_000_000:
        raise KeyboardInterrupt


def stop_in_the_middle(hub: FakeHub, cache: Path) -> Path:
    """Interrupt a download, and return the incomplete file."""
    with pytest.raises(KeyboardInterrupt):
        plan(hub, cache).run(interrupt)
    hub.requests.clear()
    [partial] = cache.rglob("*.incomplete")
    return partial


def test_interrupted_download_continues(hub: FakeHub, tmp_path: Path) -> None:
    """What has arrived before Ctrl-C is not downloaded again."""
    size = stop_in_the_middle(hub, tmp_path).stat().st_size
    assert 0 < size < len(WEIGHTS)
    download = plan(hub, tmp_path)
    present = size + len(FILES["model_index.json"]) + len(FILES["unet/config.json"])
    assert download.missing_bytes == sum(len(FILES[path]) for path in NEEDED) - present
    reports: list[int] = []
    folders = download.run(lambda done, total: reports.append(done))
    assert hub.downloads()[0].range == f"bytes={size}-"
    assert reports == sorted(reports)
    assert read_files(folders["pipeline"])["unet/diffusion_pytorch_model.safetensors"] == WEIGHTS


def test_cancelled_call_stops_its_download(hub: FakeHub, tmp_path: Path) -> None:
    """A download for a call that was cancelled stops at the next report, and keeps the rest."""
    event = threading.Event()

    def cancel(done: int, total: int) -> None:
        if done > 10_000_000:
            event.set()

    with cancel_after(event), pytest.raises(EngineError, match=r"^The call was cancelled\.$"):
        plan(hub, tmp_path).run(cancel)
    [partial] = tmp_path.rglob("*.incomplete")
    assert 0 < partial.stat().st_size < len(WEIGHTS)
    assert plan(hub, tmp_path).run()


def test_ignored_range_starts_over(hub: FakeHub, tmp_path: Path) -> None:
    """If a server sends the whole file instead of the rest, the file is still right."""
    stop_in_the_middle(hub, tmp_path)
    hub.ignores_ranges = True
    folders = plan(hub, tmp_path).run()
    assert read_files(folders["pipeline"])["unet/diffusion_pytorch_model.safetensors"] == WEIGHTS


def test_too_long_remainder_starts_over(hub: FakeHub, tmp_path: Path) -> None:
    """A kept beginning that is longer than the file, which is a 416, is thrown away."""
    with stop_in_the_middle(hub, tmp_path).open("ab") as partial:
        partial.write(bytes(30_000_000))
    folders = plan(hub, tmp_path).run()
    assert read_files(folders["pipeline"])["unet/diffusion_pytorch_model.safetensors"] == WEIGHTS


def test_corrupt_file_is_refused(hub: FakeHub, tmp_path: Path) -> None:
    """A file with the wrong hash never gets into the cache, and the next attempt is clean."""
    partial = stop_in_the_middle(hub, tmp_path)
    partial.write_bytes(bytes(partial.stat().st_size))
    with pytest.raises(EngineConnectionError, match="arrived corrupt, so it was deleted"):
        plan(hub, tmp_path).run()
    assert plan(hub, tmp_path).run()


def test_token_stays_with_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    """The token goes to the Hub, and not to the host that stores the files."""
    hub.repositories["owner/tiny"].is_gated = True
    hub.accepted_tokens = {"hf_accepted"}
    assert plan(hub, tmp_path, token="hf_accepted").run()
    assert all(request.authorization is None for request in hub.downloads())
    others = [request for request in hub.requests if request not in hub.downloads()]
    assert all(request.authorization == "Bearer hf_accepted" for request in others)


@pytest.mark.parametrize(
    ("token", "repository", "error_class", "message"),
    [
        (
            None,
            HubRepository(FILES, is_gated=True),
            AuthenticationError,
            "The model 'tiny' is gated: its owner wants to know who uses it. Accept its license at "
            "{url}/owner/tiny, then set HF_TOKEN to a token of your account, or run: hf auth "
            "login.",
        ),
        (
            "hf_other",
            HubRepository(FILES, is_gated=True),
            PermissionDeniedError,
            "The model 'tiny' is gated, and your account has no access yet. Accept its license "
            "at {url}/owner/tiny, with the account that the token in HF_TOKEN belongs to.",
        ),
        (
            "hf_expired",
            HubRepository(FILES),
            AuthenticationError,
            "{host} refuses your token. Set HF_TOKEN to a valid one, or run: hf auth login.",
        ),
        (
            None,
            HubRepository(FILES, is_private=True),
            AuthenticationError,
            "The repository 'owner/tiny' does not exist, or is private. Check its name. If it is "
            "private, set HF_TOKEN to a token that may read it, or run: hf auth login.",
        ),
        (
            "hf_other",
            HubRepository(FILES, is_private=True),
            ModelNotFoundError,
            "{host} has no repository 'owner/tiny', or it lacks a file of the model 'tiny'. Check "
            "the name.",
        ),
        (
            None,
            HubRepository(FILES, revisions=("v1.0",)),
            ModelNotFoundError,
            "The repository 'owner/tiny' has no revision 'main'. Its page lists them: "
            "{url}/owner/tiny",
        ),
    ],
    ids=["gated", "gated-token", "bad-token", "private", "private-token", "revision"],
)
def test_refusals_say_what_to_do(
    hub: FakeHub,
    tmp_path: Path,
    token: str | None,
    repository: HubRepository,
    error_class: type[ImageVariationError],
    message: str,
) -> None:
    """If the Hub refuses a repository, the error names the page to visit or the variable to set."""
    hub.repositories["owner/tiny"] = repository
    hub.known_tokens = {"hf_other"}
    with pytest.raises(error_class) as caught:
        plan(hub, tmp_path, token=token).run()
    host = hub.url.removeprefix("http://")
    assert caught.value.message == message.format(url=hub.url, host=host)
    assert type(caught.value) is error_class


@pytest.mark.parametrize(
    ("fault", "error_class", "message"),
    [
        (Fault("/api/", 403), PermissionDeniedError, "does not let you read the repository"),
        (
            Fault("/api/", 429, {"Retry-After": "30"}),
            RateLimitError,
            "gets too many requests from you. Wait, then try again",
        ),
        (Fault("/api/", 500), EngineConnectionError, "failed with HTTP 500 while"),
        (Fault("/api/", 418), EngineError, "answered HTTP 418 when asked for"),
        (Fault("/tree/", 403), EngineConnectionError, "The Hub failed before the model 'tiny'"),
        (Fault("/resolve/", 403, times=99), PermissionDeniedError, "does not let you read"),
        (Fault("/storage/", 403), PermissionDeniedError, "does not let you read"),
        (Fault("/storage/", 500), EngineConnectionError, "HTTP 500 .* Try again later: a download"),
        (Fault("/storage/", 404), ModelNotFoundError, "lacks a file of the model"),
        (Fault("/storage/", 416, times=9), EngineError, "answered HTTP 416"),
    ],
    ids=lambda value: f"{value.path}{value.status}" if isinstance(value, Fault) else "",
)
def test_failures_become_errors_of_the_tree(
    hub: FakeHub,
    tmp_path: Path,
    fault: Fault,
    error_class: type[ImageVariationError],
    message: str,
) -> None:
    """Whatever the Hub answers, and whenever, the error is one of ours and names the host."""
    hub.faults = [fault]
    with pytest.raises(error_class, match=message) as caught:
        plan(hub, tmp_path).run()
    assert type(caught.value) is error_class
    assert str(tmp_path) not in caught.value.message
    retry_after = 30.0 if fault.status == 429 else None
    assert caught.value.retry_after == retry_after
    hub.faults.clear()
    assert plan(hub, tmp_path).run()


def test_pickles_need_a_pinned_revision(hub: FakeHub, tmp_path: Path) -> None:
    """A repository that has only pickles is refused unless its revision is named."""
    files = {path: data for path, data in FILES.items() if not path.endswith("safetensors")}
    hub.repositories["owner/tiny"] = repository = HubRepository(files, ("main", "v2.0"))
    with pytest.raises(InvalidRequestError, match=r"only as pickles.*pass revision\.$"):
        plan(hub, tmp_path)
    for revision in ("v2.0", repository.commit):
        folder = plan(hub, tmp_path, part=replace(PART, revision=revision)).run()["pipeline"]
        assert (folder / "unet/diffusion_pytorch_model.bin").read_bytes() == b"pickle"
        assert cached_folder(replace(PART, revision=revision), tmp_path) == folder


def test_repository_without_the_files_is_named(hub: FakeHub, tmp_path: Path) -> None:
    """A repository that has none of the files of a model is named."""
    hub.repositories["owner/tiny"] = HubRepository({"README.md": b"# Empty"})
    with pytest.raises(InvalidRequestError, match="'owner/tiny' has none of the files"):
        plan(hub, tmp_path)


def test_invalid_name_is_refused(hub: FakeHub, tmp_path: Path) -> None:
    """A name that cannot be one of a repository is an error of the caller."""
    with pytest.raises(ModelNotFoundError, match="is not the name of a repository"):
        plan(hub, tmp_path, part=replace(PART, repository="a/b/c"))


def test_large_model_is_refused_in_advance(hub: FakeHub, tmp_path: Path) -> None:
    """If the disk has too little space, the error says so before anything is downloaded."""
    download = plan(hub, tmp_path)
    [file] = [file for file in download.files["pipeline"] if file.path == "model_index.json"]
    huge_file = type(file)(file.repository, file.commit, "huge", 10**18, "0" * 64)
    huge_download = Download(download.parts, {"pipeline": [huge_file]}, "tiny", "MIT", tmp_path)
    with pytest.raises(OutputError) as caught:
        huge_download.run()
    assert caught.value.message.startswith("The model 'tiny' needs 1000000000.0 GB more, but")
    assert "set HF_HUB_CACHE to another folder" in caught.value.message
    assert not hub.downloads()


def test_unusable_cache_folder_is_an_error(hub: FakeHub, tmp_path: Path) -> None:
    """A cache folder that cannot be created names the variable that moves it, and no path."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError) as caught:
        plan(hub, tmp_path / "file" / "cache").run()
    assert caught.value.message == (
        "The folder for models cannot be written to. Change its permissions, or set HF_HUB_CACHE "
        "to another folder."
    )


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="needs prlimit, of util-linux")
def test_full_disk_keeps_what_has_arrived(hub: FakeHub, tmp_path: Path) -> None:
    """If a file cannot grow further, the error says so, and its beginning is kept."""
    process = subprocess.run(
        ["prlimit", "--fsize=12000000", sys.executable, "-c", RUN_LIMITED, hub.url, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.stdout.startswith("OutputError The files of the model 'tiny' cannot be written")
    [partial] = tmp_path.rglob("*.incomplete")
    assert partial.stat().st_size == 12_000_000


RUN_LIMITED = """
import signal, sys
from pathlib import Path
from tests.engines.diffusers.test_repository import PART, plan_download
from langchain_image_variation.exceptions import ImageVariationError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    plan_download([PART], model="tiny", cache_dir=sys.argv[2], endpoint=sys.argv[1]).run()
except ImageVariationError as error:
    print(type(error).__name__, error.message)
"""


def test_unreachable_hub_is_an_error(hub: FakeHub, tmp_path: Path) -> None:
    """If nothing listens at the Hub's address, the error names the host and the proxy."""
    process = run_find(hub, tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    kind, message = json.loads(process.communicate(timeout=60)[0])
    assert kind == "EngineConnectionError"
    assert message.startswith("127.0.0.1:9 cannot be reached, so the model 'tiny' cannot be")


def test_offline_an_empty_cache_is_an_error(hub: FakeHub, tmp_path: Path) -> None:
    """In offline mode, a model that is not here is an error that names the variable."""
    process = run_find(hub, tmp_path, HF_HUB_OFFLINE="1")
    kind, message = json.loads(process.communicate(timeout=60)[0])
    assert kind == "ModelNotDownloadedError"
    assert message == (
        "The model 'tiny' is not on this machine, and HF_HUB_OFFLINE is set, so it cannot be "
        "downloaded. Unset HF_HUB_OFFLINE, or copy the cache of a machine that has the model."
    )
    assert not hub.requests


def test_offline_half_precision_only_is_an_error(hub: FakeHub, tmp_path: Path) -> None:
    """In offline mode, the error for a model in half precision says which files are missing."""
    plan_download(
        [PART], model="tiny", cache_dir=tmp_path, endpoint=hub.url, prefers_float16=lambda: True
    ).run()
    process = run_find(hub, tmp_path, HF_HUB_OFFLINE="1")
    kind, message = json.loads(process.communicate(timeout=60)[0])
    assert kind == "ModelNotDownloadedError"
    assert message == (
        "The model 'tiny' is on this machine in half precision only, and HF_HUB_OFFLINE is set, so "
        "the other files cannot be downloaded. Run `image-variation pull tiny --dtype float32` on "
        "a machine with a network, and copy its cache. Or use a GPU that computes in float16."
    )


def test_offline_a_complete_cache_is_used(hub: FakeHub, tmp_path: Path) -> None:
    """In offline mode, a model that is here is found."""
    folders = plan(hub, tmp_path).run()
    process = run_find(hub, tmp_path, HF_HUB_OFFLINE="1")
    assert json.loads(process.communicate(timeout=60)[0]) == {
        name: str(folder) for name, folder in folders.items()
    }


def test_python_shows_a_bar_on_a_terminal(hub: FakeHub, tmp_path: Path) -> None:
    """Without a listener, a terminal shows the library's progress bar, unless it is turned off."""
    for variables, has_bar in (({}, True), ({"HF_HUB_DISABLE_PROGRESS_BARS": "1"}, False)):
        env = {**hub_environment(hub, tmp_path / str(has_bar)), **variables}
        code, output = run_in_terminal(["-c", FIND], program=[sys.executable], env=env)
        assert (code, "tiny:   0%|" in output) == (0, has_bar), output


def test_processes_share_one_download(hub: FakeHub, tmp_path: Path) -> None:
    """Two processes that need the same model at once download each large file once."""
    hub.seconds_per_chunk = 0.005
    processes = [run_find(hub, tmp_path) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    [first, second] = [json.loads(output) for output, _ in outputs]
    assert first == second
    assert read_files(Path(first["pipeline"])).keys() == NEEDED
    assert len(hub.downloads()) == 2


def test_threads_share_one_download(hub: FakeHub, tmp_path: Path) -> None:
    """Two threads that need the same model at once download each large file once."""
    hub.seconds_per_chunk = 0.002
    folders: list[dict[str, Path]] = []
    threads = [
        threading.Thread(target=lambda: folders.append(plan(hub, tmp_path).run())) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert folders[0] == folders[1]
    assert len(hub.downloads()) == 2


@pytest.mark.slow
def test_stalled_download_times_out(hub: FakeHub, tmp_path: Path) -> None:
    """If the Hub stops sending, the error comes after the time limit of the Hub's library."""
    hub.faults = [
        Fault("/storage/", after=15_000_000, end="stall"),
        Fault("/storage/", end="stall", times=99),
    ]
    process = run_find(hub, tmp_path, HF_HUB_DOWNLOAD_TIMEOUT="1")
    kind, message = json.loads(process.communicate(timeout=60)[0])
    assert kind == "EngineTimeoutError"
    assert "continues where it stopped" in message
    [partial] = tmp_path.rglob("*.incomplete")
    assert partial.stat().st_size > 10_000_000


def test_an_unwritable_cache_is_found_first(hub: FakeHub, tmp_path: Path) -> None:
    """If the cache cannot be written to, no request is sent."""
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="The folder for models cannot be written to"):
        plan(hub, tmp_path / "file" / "cache")
    assert not hub.requests
