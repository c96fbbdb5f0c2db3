import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from langchain_image_variation.cli import main
from pytest_image_variation.samples import square_png
from tests.batch.declared_engines import count_made_images, read_devices
from tests.batch.ray.nodes import Nodes
from tests.batch.runs import output_images, read_manifest, run, start_run, wait_until
from tests.batch.test_odd_rows import write_odd_rows

# Ray uses its own deprecated settings. Deprecated calls of this package are still errors.
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
    """Run on the cluster to the end, and return the exit code."""
    options = ["--size", "256x256", "--engine", engine, "--output-dir", out]
    options += ["--allow-storage", "shelf"]
    return main(["batch", *options, "--ray", nodes.address, *sources, *arguments])


def file_states(out: str = "out") -> dict[str, tuple[int, int]]:
    """Return the inode and the mtime of each image, which change if it is written again."""
    paths = [Path(out, path) for path in output_images(out)]
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def test_killed_node_loses_no_image(nodes: Nodes) -> None:
    """After a node is killed, the manifest equals a local run's, and finished images stay."""
    states_at_kill: dict[str, tuple[int, int]] = {}

    def kill() -> None:
        while not Path("out", "images").exists() or len(output_images()) < 10:
            time.sleep(0.05)
        nodes.kill_second()
        states_at_kill.update(file_states())

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    assert cluster_run(nodes, "--n", "3", "--jsonl") == 0
    killer.join()
    nodes.restart_second()
    assert 10 <= len(states_at_kill) < 48
    assert file_states().items() >= states_at_kill.items()
    # Only the images that the lost worker was making are started again.
    counts = count_made_images()
    assert len(counts) == 48
    assert set(counts.values()) <= {1, 2}
    assert sum(counts.values()) <= 48 + 3
    rows = read_manifest()
    Path(os.environ["ENGINE_LOG"]).unlink()
    assert run("photos", "--n", "3", out="whole") == 0
    assert rows == read_manifest("whole")
    assert output_images() == output_images("whole")


def test_run_is_resumed_and_bad_images_are_rows(nodes: Nodes, photos: Path) -> None:
    """A resumed run makes changed and missing images again, and keeps the others."""
    (photos / "16.png").write_bytes(b"not an image")
    rows = ("path,n,seed", "photos/16.png,1,", "photos/01.png,2,9223372036854775797")
    Path("list.csv").write_text("\n".join(rows))
    arguments = ("list.csv", "--jsonl")
    assert cluster_run(nodes, *arguments) == 3
    states, rows_before = file_states(), read_manifest()
    changed_name, missing_name, *_ = sorted(states)
    next(Path("out").rglob(changed_name)).write_bytes(square_png(256))
    next(Path("out").rglob(missing_name)).unlink()
    assert cluster_run(nodes, *arguments) == 3
    assert read_manifest() == rows_before
    rewritten_names = {name for name, state in file_states().items() if states[name] != state}
    assert rewritten_names == {changed_name, missing_name}
    assert run("photos", *arguments, out="whole") == 3
    assert rows_before == read_manifest("whole")
    assert output_images() == output_images("whole")


def test_source_that_kills_its_worker_is_a_row(
    nodes: Nodes, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A source that kills its worker becomes a row; the actor survives, and the run goes on."""
    for photo in sorted(photos.iterdir())[2:]:
        photo.unlink()
    assert cluster_run(nodes, engine="dying") == 3
    names = capsys.readouterr().err.splitlines()[1:]
    assert sorted(line.partition(" died ")[0] for line in names) == [
        f"  photos/0{index}.png: The worker process" for index in range(2)
    ]
    assert cluster_run(nodes, engine="refused") == 1
    assert capsys.readouterr().err.splitlines()[-1] == "image-variation: The key is wrong."


def test_odd_rows_do_not_end_a_run(nodes: Nodes) -> None:
    """Odd rows get the same errors as on one machine, and are in the same list."""
    errors = write_odd_rows()
    options = ("--jsonl", "--allow-storage", "smb://nas")
    assert cluster_run(nodes, *options, sources=("list.jsonl",)) == 3
    *rows, good_row = read_manifest()
    assert good_row["error"] is None
    assert all(error in row["error"] for row, error in zip(rows, errors.values(), strict=True))
    assert run("list.jsonl", *options, out="whole") == 3
    assert read_manifest() == read_manifest("whole")
    lists = [Path(out, "failed.jsonl").read_text() for out in ("out", "whole")]
    assert lists[0] == lists[1]


def test_worker_stops_itself_at_max_failures(nodes: Nodes, photos: Path) -> None:
    """A worker stops after its own --max-failures failures, without waiting for the run."""
    for photo in photos.iterdir():
        photo.write_text("not an image")
    assert cluster_run(nodes, "--max-failures", "1") == 3
    assert 1 <= len(read_manifest()) <= 2


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:99999"])
def test_unreachable_cluster_is_an_error(
    nodes: Nodes, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error for an unreachable cluster names the option, but not the address."""
    assert cluster_run(nodes, "--ray", address) == 1
    err = capsys.readouterr().err
    assert "cannot be reached" in err
    assert "--ray" in err
    assert address not in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupt_finishes_started_sources(
    nodes: Nodes, number: signal.Signals, code: int
) -> None:
    """After an interrupt, the manifest lists the images so far, and a message says what to do."""
    process = start_run("photos", "--n", "10", "--ray", nodes.address)
    wait_until(lambda: len(count_made_images()) > 20, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Run the same command again to continue" in err
    assert "Traceback" not in err
    assert 20 <= len(read_manifest()) == len(output_images()) < 160
    assert set(count_made_images().values()) == {1}


def read_node_log() -> set[str]:
    """Return and clear the log of the processes that made images on the third node.

    Returns:
        The process id, the name of the node, and the GPUs that the process saw.
    """
    log = Path(os.environ["ENGINE_LOG"] + ".nodes")
    lines = set(log.read_text().splitlines())
    log.unlink()
    return lines


def test_workers_run_on_machines_with_gpus(
    nodes: Nodes, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two workers share a GPU and see it, and requesting more GPUs than exist is an error."""
    with nodes.extra_node(num_cpus=2, num_gpus=1):
        assert cluster_run(nodes, "--gpus", "0.5") == 0
        assert [line.split()[1:] for line in read_node_log()] == [["third", "0"]] * 2
        capsys.readouterr()
        assert cluster_run(nodes, "--gpus", "2", "--workers", "1") == 1
        assert capsys.readouterr().err == (
            "image-variation: No machine of the cluster has room for a worker with one processor "
            "and 2 GPUs; the most on one machine is 1. Lower --gpus, or add a machine.\n"
        )
        assert run_example(nodes, "--engine", "logged", "--gpus", "0.5")
        assert {line.partition(" ")[2] for line in read_node_log()} == {"third 0"}


def test_engines_with_devices_get_a_gpu_each(nodes: Nodes) -> None:
    """By default, only machines with GPUs make the images, with one worker per GPU."""
    with nodes.extra_node(num_cpus=4, num_gpus=1):
        assert cluster_run(nodes, engine="on_device") == 0
        assert list(read_devices().values()) == [["auto", "None", "1", "0", "third"]]
        assert cluster_run(nodes, "--gpus", "0.5", "--size", "512x512", engine="on_device") == 0
        assert list(read_devices().values()) == [["auto", "None", "1", "0", "third"]] * 2
    assert len(read_manifest()) == 16


def test_engines_with_devices_get_whole_machines(nodes: Nodes) -> None:
    """Without GPUs, each worker has as many processors as the smallest machine."""
    assert cluster_run(nodes, engine="on_device") == 0
    assert list(read_devices().values()) == [["auto", "None", "1", "None", "None"]] * 2


def test_hosted_engines_get_concurrent_calls(nodes: Nodes) -> None:
    """Each worker calls a hosted engine as often as one machine would, without processes."""
    assert cluster_run(nodes, engine="hosted") == 0
    _, calls = Path(os.environ["ENGINE_LOG"] + ".calls").read_text().split()
    assert int(calls) == 8
    assert (len(output_images()), set(count_made_images().values())) == (16, {1})


def test_machine_without_the_folder_ends_the_run(
    nodes: Nodes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A machine with another folder of the same name, even one with old files, ends the run."""
    Path("out").mkdir()
    with nodes.extra_node_without(tmp_path / "out"):
        assert cluster_run(nodes, "--n", "10") == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "image-variation: A machine of the cluster does not see the output folder. Choose a folder "
        "that all machines share."
    )


def run_example(nodes: Nodes, *arguments: str) -> list[dict[str, Any]]:
    """Run the example, and return the rows that it wrote."""
    script = Path(__file__).parents[3] / "examples" / "ray_batch.py"
    command = [sys.executable, str(script), "photos", "example", *arguments]
    environment = {**os.environ, "RAY_ADDRESS": nodes.address}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90)
    assert result.returncode == 0, result.stderr
    tables = [pyarrow.parquet.read_table(path) for path in Path("example/rows").iterdir()]
    # Workers finish in any order, and a file without errors has a column `error` without a type.
    table = pyarrow.concat_tables(tables, promote_options="default")
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def test_example_can_be_repeated(nodes: Nodes, photos: Path) -> None:
    """The Ray Data example can be repeated, and integers stay integers despite missing values."""
    (photos / "00.png").write_bytes(b"not an image")
    rows = run_example(nodes)
    error_rows = [row for row in rows if row["error"] is not None]
    assert [row["index"] for row in error_rows] == [None]
    assert {row["output_path"] for row in rows if row not in error_rows} == output_images(
        "example"
    ).keys()
    assert all(row["seed"] == int(row["source_sha256"][:8], 16) for row in rows if row["index"])
    states = file_states("example")
    assert len(run_example(nodes)) == len(rows)
    assert file_states("example") == states
