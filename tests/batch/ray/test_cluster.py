import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from langchain_image_variation.cli import main
from pytest_image_variation.samples import square_png
from tests.batch.declared import made
from tests.batch.ray.nodes import Nodes
from tests.batch.running import begin, manifest, pictures, run, wait_until

# Ray itself sets what it has deprecated; what we would use of that stays an error.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]


def cluster_run(
    nodes: Nodes,
    *arguments: str,
    out: str = "out",
    engine: str = "logged",
    sources: tuple[str, ...] = ("photos",),
) -> int:
    """Run to the end on the cluster, and return the exit code."""
    like = ["--size", "256x256", "--engine", engine, "--output-dir", out]
    return main(["batch", *like, "--ray", nodes.address, *sources, *arguments])


def stamps(out: str = "out") -> dict[str, tuple[int, int]]:
    """Return what changes of a picture's file if it is written again."""
    found = [Path(out, path) for path in pictures(out)]
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def test_a_node_killed_in_mid_run_loses_no_picture_and_makes_none_twice(nodes: Nodes) -> None:
    """The manifest is that of an undisturbed run here; what stood at the kill stays as it was."""
    stood: dict[str, tuple[int, int]] = {}

    def kill() -> None:
        while not Path("out", "pictures").exists() or len(pictures()) < 10:
            time.sleep(0.05)
        nodes.kill_one()
        stood.update(stamps())

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    assert cluster_run(nodes, "--n", "3", "--jsonl") == 0
    killer.join()
    nodes.start_one()
    assert 10 <= len(stood) < 48
    assert stamps().items() >= stood.items()
    # Only what a lost worker had in hand was begun again.
    begun = made()
    assert len(begun) == 48
    assert set(begun.values()) <= {1, 2}
    assert sum(begun.values()) <= 48 + 3
    rows = manifest()
    Path(os.environ["ENGINE_LOG"]).unlink()
    assert run("photos", "--n", "3", out="whole") == 0
    assert rows == manifest("whole")
    assert pictures() == pictures("whole")


def test_a_run_is_taken_up_and_bad_pictures_are_rows(nodes: Nodes, photos: Path) -> None:
    """A picture that was changed is made anew, and one that is missing; the others stay."""
    (photos / "16.png").write_bytes(b"no picture")
    rows = ("path,n,seed", "photos/16.png,1,", "photos/01.png,2,9223372036854775797")
    Path("list.csv").write_text("\n".join(rows))
    arguments = ("list.csv", "--jsonl")
    assert cluster_run(nodes, *arguments) == 3
    before, first = stamps(), manifest()
    changed, missing, *_ = sorted(before)
    next(Path("out").rglob(changed)).write_bytes(square_png(256))
    next(Path("out").rglob(missing)).unlink()
    assert cluster_run(nodes, *arguments) == 3
    assert manifest() == first
    differing = {name for name, stamp in stamps().items() if before[name] != stamp}
    assert differing == {changed, missing}
    assert run("photos", *arguments, out="whole") == 3
    assert first == manifest("whole")
    assert pictures() == pictures("whole")


def test_a_source_that_kills_its_process_is_a_row(
    nodes: Nodes, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The actor lives on, and the run ends by itself."""
    for picture in sorted(photos.iterdir())[2:]:
        picture.unlink()
    assert cluster_run(nodes, engine="dying") == 3
    assert "EngineError: 2, for example: The worker's process ended" in capsys.readouterr().err
    assert cluster_run(nodes, engine="refused") == 1
    assert capsys.readouterr().err.splitlines()[-1] == "image-variation: The key is wrong."


def test_a_worker_that_fails_too_often_waits_for_no_word(nodes: Nodes, photos: Path) -> None:
    """It ends by itself, so that --max-failures is passed by no more than each worker has."""
    for picture in photos.iterdir():
        picture.write_text("no picture")
    assert cluster_run(nodes, "--max-failures", "1") == 3
    assert 1 <= len(manifest()) <= 2


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:99999"])
def test_a_cluster_that_is_not_there_is_told_at_once(
    nodes: Nodes, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names the option, and no address."""
    assert cluster_run(nodes, "--ray", address) == 1
    err = capsys.readouterr().err
    assert "cannot be reached" in err
    assert "--ray" in err
    assert address not in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_finishes_what_is_in_hand(
    nodes: Nodes, number: signal.Signals, code: int
) -> None:
    """The manifest has what was made, and the message says how to go on."""
    process = begin("photos", "--n", "10", "--ray", nodes.address)
    wait_until(lambda: len(made()) > 20, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Run the same command again to continue" in err
    assert "Traceback" not in err
    assert 20 <= len(manifest()) == len(pictures()) < 160
    assert set(made().values()) == {1}


def places() -> set[str]:
    """Return which processes made pictures on the third node since this was asked, and their GPUs.

    Returns:
        Of each its number, its node and the GPUs that it saw.
    """
    log = Path(os.environ["ENGINE_LOG"] + ".places")
    found = set(log.read_text().splitlines())
    log.unlink()
    return found


def test_workers_with_gpus_run_where_these_are(
    nodes: Nodes, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two share one and see it, all of the work is theirs, and more than there is is told."""
    with nodes.one_with_gpu():
        assert cluster_run(nodes, "--gpus", "0.5") == 0
        assert [place.split()[1:] for place in places()] == [["third", "0"]] * 2
        capsys.readouterr()
        assert cluster_run(nodes, "--gpus", "2", "--workers", "1") == 1
        assert capsys.readouterr().err == (
            "image-variation: No machine of the cluster has room for a worker with 2 GPUs and a "
            "processor; the largest has 1 GPUs. Ask for less with --gpus, or add a machine.\n"
        )
        assert example(nodes, "--engine", "logged", "--gpus", "0.5")
        assert {place.partition(" ")[2] for place in places()} == {"third 0"}


def test_calls_of_an_engine_that_asks_a_server_are_made_at_once(nodes: Nodes) -> None:
    """By each worker as many as on one machine, without processes."""
    assert cluster_run(nodes, engine="hosted") == 0
    _, most = Path(os.environ["ENGINE_LOG"] + ".most").read_text().split()
    assert int(most) == 8
    assert (len(pictures()), set(made().values())) == (16, {1})


def test_a_machine_that_does_not_share_the_folder_ends_the_run(
    nodes: Nodes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even one that has a folder of that name, in which a run was under way when it was lost."""
    Path("out").mkdir()
    with nodes.one_that_does_not_see(tmp_path / "out"):
        assert cluster_run(nodes, "--n", "10") == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "image-variation: A machine of the cluster does not see the output folder; name one that "
        "all of them share."
    )


def example(nodes: Nodes, *arguments: str) -> list[dict[str, Any]]:
    """Run the example, and return the rows that it wrote."""
    script = Path(__file__).parents[3] / "examples" / "ray_batch.py"
    command = [sys.executable, str(script), "photos", "example", *arguments]
    environment = {**os.environ, "RAY_ADDRESS": nodes.address}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = pyarrow.parquet.read_table("example/rows").to_pylist()
    return rows


def test_the_example_runs_and_runs_again(nodes: Nodes, photos: Path) -> None:
    """Ray Data calls the class itself; whole numbers stay whole where a column lacks some."""
    (photos / "00.png").write_bytes(b"no picture")
    rows = example(nodes)
    failed = [row for row in rows if row["error"] is not None]
    assert [row["index"] for row in failed] == [None]
    assert {row["output_path"] for row in rows if row not in failed} == pictures("example").keys()
    assert all(row["seed"] == int(row["source_sha256"][:8], 16) for row in rows if row["index"])
    before = stamps("example")
    assert len(example(nodes)) == len(rows)
    assert stamps("example") == before
