"""Workers of an engine that computes on devices. The devices are names: the engine logs them."""

import os
from pathlib import Path

import pytest

from langchain_image_variation import VariationBatch
from langchain_image_variation.batch.ray.cluster import (
    Cluster,
    Machine,
    WorkerResources,
    choose_resources,
    count_worker_slots,
)
from langchain_image_variation.batch.workers import default_worker_count, start_workers
from langchain_image_variation.cli import main
from langchain_image_variation.engines.processors import processor_count
from langchain_image_variation.exceptions import EngineError
from tests.batch.declared_engines import read_devices
from tests.batch.runs import output_images, read_manifest


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no variable of this machine choose a device or a number of threads."""
    for name in ("CUDA_VISIBLE_DEVICES", "MKL_NUM_THREADS", "NODE", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def slow_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each image take a moment, so that each process gets a source."""
    monkeypatch.setenv("ENGINE_SECONDS", "0.3")


def run_on(monkeypatch: pytest.MonkeyPatch, devices: str, *arguments: str) -> list[list[str]]:
    """Run on a machine with these devices, and return what `read_devices` says of each process."""
    monkeypatch.setenv("ENGINE_DEVICES", devices)
    options = ["--size", "256x256", "--engine", "on_device", "-o", "out", "--jsonl"]
    assert main(["batch", "photos", *options, *arguments]) == 0
    return sorted(read_devices().values())


def was_listed() -> bool:
    """Return whether the devices were listed since the last time, and forget it."""
    log = Path(os.environ["ENGINE_LOG"] + ".listings")
    exists = log.exists()
    log.unlink(missing_ok=True)
    return exists


@pytest.mark.usefixtures("slow_engine")
def test_each_gpu_has_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default, there is one process per device, and each computes on its own."""
    threads = str(max(1, processor_count() // 2))
    assert run_on(monkeypatch, "cuda:0 cuda:1") == [
        ["cuda:0", "None", threads, "None", "None"],
        ["cuda:1", "None", threads, "None", "None"],
    ]
    assert len(read_manifest()) == 5


@pytest.mark.slow
@pytest.mark.usefixtures("slow_engine")
def test_more_workers_share_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """With more processes than devices, some share a device; with one, it chooses itself."""
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    used = run_on(monkeypatch, "xpu:0 xpu:1", "--workers", "4")
    assert [(device, threads) for device, _, threads, *_ in used] == [
        *(("xpu:0", "3"), ("xpu:0", "3"), ("xpu:1", "3"), ("xpu:1", "3"))
    ]
    assert was_listed()
    used = run_on(monkeypatch, "xpu:0 xpu:1", "--workers", "1", "--size", "512x512")
    assert [device for device, *_ in used] == ["auto"]
    assert not was_listed()


@pytest.mark.slow
def test_a_cpu_has_one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU, one process computes with as many threads as its libraries want."""
    assert run_on(monkeypatch, "cpu") == [["auto", "None", "None", "None", "None"]]


@pytest.mark.slow
def test_a_named_device_has_one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the options name a device, only that one is used, and the others are not listed."""
    monkeypatch.setenv("ENGINE_DEVICES", "cuda:0 cuda:1")
    options = {"device": "cuda:1"}
    assert default_worker_count("on_device", options) == 1
    assert default_worker_count("on_device", {"device": "auto"}) == 2
    assert was_listed()
    batch = VariationBatch(Path("out").absolute(), engine="on_device", options=options)
    workers = start_workers(batch, 2)
    futures = [workers.submit({"path": f"photos/{index}.png"}) for index in range(2)]
    assert [future.result(60)[0]["error"] for future in futures] == [None, None]
    workers.close()
    assert {device for device, *_ in read_devices().values()} == {"cuda:1"}
    assert not was_listed()


def test_a_missing_device_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An option that the engine refuses when it is called would fail every source alike."""
    monkeypatch.setenv("ENGINE_DEVICES", "cpu")
    options = ["--size", "256x256", "--engine", "on_device", "--device", "cuda:9", "--jsonl"]
    assert main(["batch", "photos", *options, "-o", "out"]) == 2
    assert "There is no device 'cuda:9'." in capsys.readouterr().err
    assert not Path("out", "manifest.jsonl").exists()


def test_names_do_not_depend_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run can be continued on a machine with other devices."""
    monkeypatch.setenv("ENGINE_DEVICES", "cuda:0 cuda:1")
    made: list[bool] = []
    for options in ({"device": "cuda:1"}, {"device": "cpu", "threads": 2}, {}):
        batch = VariationBatch("out", engine="on_device", options=options, size="256x256")
        rows = batch({"path": [f"photos/{index}.png" for index in range(5)]})
        made += [milliseconds is not None for milliseconds in rows["milliseconds"]]
    assert made == [True] * 5 + [False] * 10
    assert len(output_images()) == 5


def test_engines_without_devices_are_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that does not choose a device has as many workers as before."""
    assert default_worker_count("logged", {}) == processor_count()
    assert default_worker_count("hosted", {}) == 8


def test_an_engine_must_name_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with an engine that lists no devices ends before it writes anything."""
    monkeypatch.setenv("ENGINE_DEVICES", "")
    with pytest.raises(EngineError, match=r"OnDevice.devices must return at least one name"):
        default_worker_count("on_device", {})
    monkeypatch.delenv("ENGINE_DEVICES")
    with pytest.raises(EngineError, match="cannot be listed: KeyError"):
        default_worker_count("on_device", {})


@pytest.mark.parametrize(
    ("cluster", "machines", "worker", "slots"),
    [
        (Cluster(), [{"CPU": 8}, {"CPU": 32}, {"CPU": 0}], WorkerResources(8, 0), 5),
        (Cluster(workers=2), [{"CPU": 8}, {"CPU": 32}], WorkerResources(8, 0), 5),
        (Cluster(workers=10), [{"CPU": 8}, {"CPU": 32}], WorkerResources(4, 0), 10),
        (Cluster(workers=99), [{"CPU": 8}], WorkerResources(1, 0), 8),
        (Cluster(), [{"CPU": 8}, {"CPU": 8, "GPU": 4}], WorkerResources(1, 1), 4),
        (Cluster(gpus=0), [{"CPU": 8, "GPU": 4}], WorkerResources(8, 0), 1),
        (Cluster(gpus=2), [{"CPU": 8, "GPU": 4}], WorkerResources(1, 2), 2),
    ],
)
def test_workers_fit_the_machines(
    cluster: Cluster, machines: list[Machine], worker: WorkerResources, slots: int
) -> None:
    """An engine with devices gets one GPU per worker, or else all processors of a machine."""
    assert choose_resources(cluster, machines, has_devices=True) == worker
    assert count_worker_slots(worker, machines) == slots
    one_processor = choose_resources(cluster, machines, has_devices=False)
    assert one_processor == WorkerResources(1, cluster.gpus or 0)
