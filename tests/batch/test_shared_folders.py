"""Output folders that two users of a machine share, and machines without a home or /tmp."""

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from langchain_image_variation.batch.folder_lock import folder_lock
from langchain_image_variation.batch.ledger import Ledger
from langchain_image_variation.exceptions import OutputError
from langchain_image_variation.files.outputs import OutputFolder
from pytest_image_variation.samples import square_png
from tests.batch.declared_engines import declare_engines
from tests.batch.file_systems import declare_file_systems, shelf_path
from tests.batch.runs import output_images, read_manifest, run_hosted
from tests.other_users import environment_of_other_users, require_other_users

needs_user = pytest.mark.skipif(os.geteuid() == 0, reason="root may write every file")

FIRST_USER, SECOND_USER, GROUP = "54321", "54322", "54320"

_SCRIPT = """
import os, sys
from langchain_image_variation.cli import main
user, group, umask, *arguments = sys.argv[1:]
batch = ["batch", "photos", "--engine", "hosted", "--size", "256x256", "--output-dir"]
# Afterward, all modules are loaded. The user may not be able to read them.
assert main([*batch, f"warm-{user}"]) == 0
os.environ["ENGINE_LOG"] += ".user"
os.setgroups([])
os.setresgid(int(group), int(group), int(group))
os.setresuid(int(user), int(user), int(user))
os.umask(int(umask, 8))
sys.exit(main([*batch, "shared", *arguments]))
"""


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Change to a folder that every user can read, and return its subfolder `shared`."""
    require_other_users()
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    shutil.copytree("photos", folder / "photos")
    (folder / "shared").mkdir()
    monkeypatch.chdir(folder)
    declare_engines(folder / "declared", monkeypatch)
    # Engines log there, as each user.
    (folder / "logs").mkdir()
    (folder / "logs").chmod(0o1777)
    yield folder / "shared"
    shutil.rmtree(folder)


def run_as(user: str, *arguments: str, umask: str) -> "subprocess.CompletedProcess[str]":
    """Run a batch into the shared folder as a user of the group."""
    log = Path("logs", user).absolute()
    return subprocess.run(
        [sys.executable, "-c", _SCRIPT, user, GROUP, umask, *arguments],
        env=environment_of_other_users(ENGINE_LOG=str(log)),
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.slow
def test_group_can_continue_a_batch(shared: Path) -> None:
    """Users of one group continue each other's batch if their umask lets the group write."""
    os.chown(shared, int(FIRST_USER), int(GROUP))
    shared.chmod(0o2775)
    for user, n in ((FIRST_USER, "1"), (SECOND_USER, "2"), (FIRST_USER, "3")):
        result = run_as(user, "--n", n, "--jsonl", "--gallery", umask="002")
        assert result.returncode == 0, result.stderr
        assert "5 made," in result.stderr
    assert len(output_images("shared")) == 15
    owners = {path.stat().st_uid for path in shared.rglob("*.png")}
    assert owners == {int(FIRST_USER), int(SECOND_USER)}


@pytest.mark.slow
def test_other_umask_is_a_clear_error(shared: Path) -> None:
    """If the first user's umask does not let others write, the second user's error says so."""
    os.chown(shared, int(FIRST_USER), int(GROUP))
    shared.chmod(0o2775)
    assert run_as(FIRST_USER, umask="022").returncode == 0
    result = run_as(SECOND_USER, "--n", "2", umask="022")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()[1:]
    assert line == (
        "image-variation: The ledger of the output folder is not writable. Check the "
        "permissions of its folder '.batch', which may belong to another user, or choose another "
        "folder."
    )
    with folder_lock(shared):
        result = run_as(SECOND_USER, umask="022")
    assert "Another run is writing to the folder 'shared'." in result.stderr
    (shared / ".batch").chmod(0o700)
    result = run_as(SECOND_USER, umask="022")
    assert "cannot be locked: Permission denied. Check its permissions" in result.stderr


@pytest.mark.slow
def test_sticky_folder_keeps_files_of_others(shared: Path) -> None:
    """In a folder with the sticky bit, another user's temporary file does not stop a run."""
    shared.chmod(0o1777)
    name = ".0123456789abcdef.part"
    (shared / name).touch()
    result = run_as(FIRST_USER, umask="022")
    assert result.returncode == 0, result.stderr
    assert (shared / name).exists()


@needs_user
def test_unwritable_lock_is_still_seen() -> None:
    """A read-only lock file can be locked, and shows whether another run has locked it."""
    Path("out/.batch").mkdir(parents=True)
    Path("out/.batch/lock").touch(0o444)
    with (
        folder_lock(Path("out")),
        pytest.raises(OutputError, match="Another run is writing"),
        folder_lock(Path("out")),
    ):
        pass


@needs_user
def test_permission_errors_name_the_remedy(photos: Path) -> None:
    """If the output folder or a subfolder is read-only, the error is about permissions."""
    Path("out").mkdir(0o555)
    assert run_hosted("photos") == 2
    Path("other/images").mkdir(parents=True)
    Path("other/images").chmod(0o555)
    with pytest.raises(OutputError, match=r"Permission denied\. Check the permissions"):
        OutputFolder("other").write_all({"images/ab/1.png": b""})


@pytest.mark.parametrize("umask", [0o002, 0o027, 0o077])
def test_files_have_the_permissions_of_the_umask(umask: int) -> None:
    """Every file and folder of a run has the permissions that the umask allows."""
    previous_umask = os.umask(umask)
    try:
        assert run_hosted("photos", "--jsonl", "--gallery") == 0
    finally:
        os.umask(previous_umask)
    for path in Path("out").rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o777 if path.is_dir() else 0o666) & ~umask, path


def test_lock_of_a_removed_file_is_not_taken() -> None:
    """A lock is on the file that now has the name, not on one that has been removed."""
    with folder_lock(Path(".")):
        Path(".batch/lock").unlink()
        with folder_lock(Path(".")):
            assert Path(".batch/lock").exists()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["refused", "lacking", "logged"])
def test_failed_start_leaves_nothing(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that fails before its first source leaves no files. A later one does no damage."""
    if engine == "logged":
        monkeypatch.setattr(sys, "executable", shutil.which("false"))
    assert run_hosted("photos", "--engine", engine, "--jsonl") == 1
    assert [path.name for path in Path().glob("out/*")] == []
    Path("empty").mkdir()
    assert run_hosted("empty") == 2
    assert not Path("out/.batch").exists()
    assert run_hosted("photos") == 0
    rows = read_manifest()
    assert run_hosted("photos", "--engine", "refused") == 1
    assert read_manifest() == rows
    with Ledger(Path("out")) as ledger:
        assert not ledger.is_empty()


@pytest.mark.slow
def test_failed_start_at_a_url_leaves_nothing(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run at a URL that fails before its first source leaves no files either."""
    declare_file_systems(tmp_path_factory.mktemp("shelf"), monkeypatch)
    out = "shelf://kept/out"
    assert run_hosted("photos", "--engine", "refused", out=out) == 1
    assert [path for path in shelf_path(out).rglob("*") if path.is_file()] == []


_NO_FOLDERS = """
import os, sys, tempfile
from langchain_image_variation.cli import main
# What a machine without any writable temporary folder looks like.
tempfile._candidate_tempdir_list = lambda: ["/nowhere"]
sys.exit(main(sys.argv[1:]))
"""
_JUMPING_CLOCK = """
import itertools, sys, time
from langchain_image_variation.cli import main
# The clock alternates between 1970, now and 2099.
times = itertools.cycle([0.0, time.time(), 4e9])
time.time = lambda: next(times)
time.time_ns = lambda: int(next(times) * 1e9)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("home", "script"),
    [(None, _NO_FOLDERS), ("/proc", _NO_FOLDERS), ("/nowhere", _JUMPING_CLOCK)],
    ids=["no-home-or-tmp", "read-only-home", "clock"],
)
def test_run_needs_no_home_tmp_or_clock(home: str | None, script: str) -> None:
    """A run into a folder needs no home folder, temporary folder or steady clock."""
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    if home is not None:
        environment["HOME"] = home
    arguments = ["batch", "photos", "--engine", "logged", "--size", "256x256", "--gallery"]
    for n in ("1", "2"):
        result = subprocess.run(
            [sys.executable, "-c", script, *arguments, "--output-dir", "out", "--n", n, "--jsonl"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert result.returncode == 0, result.stderr
        assert "5 made," in result.stderr
    assert len(output_images()) == 10


@pytest.mark.slow
@pytest.mark.parametrize("script", [_NO_FOLDERS, _JUMPING_CLOCK], ids=["tmp", "clock"])
def test_one_image_needs_no_home_tmp_or_clock(script: str) -> None:
    """`create` needs no home folder, temporary folder or steady clock either."""
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    arguments = ["create", "photos/0.png", "--engine", "instant", "--output-dir", "out"]
    result = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert len(list(Path("out").glob("0-*-1.png"))) == 1


def test_missing_tmp_is_an_error_at_urls(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A manifest at a URL needs a temporary folder, and the error says how to set one."""
    declare_file_systems(tmp_path_factory.mktemp("shelf"), monkeypatch)
    shelf_path("shelf://kept").mkdir(parents=True)
    shelf_path("shelf://kept/list.jsonl").write_text(json.dumps({"path": "a.png"}))
    shelf_path("shelf://kept/a.png").write_bytes(square_png())
    monkeypatch.setattr(tempfile, "tempdir", "nowhere")
    assert run_hosted("shelf://kept/list.jsonl") == 1
    err = capsys.readouterr().err
    assert err == (
        "image-variation: A manifest at a URL needs a folder for temporary files (No such file or "
        "directory). Set TMPDIR to a folder that you can write to.\n"
    )
