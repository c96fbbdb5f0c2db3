"""Measures the speed and memory of batches, and prints the results as Markdown tables.

The first table compares images per second of `image-variation batch` with 1 and 2 workers, of the
engine alone in one process and in two (what the machine can do at that moment), and of `tool.batch`
with a pool of threads. All use the same example photos, each with a different comment, so that
every file is unique. The second table shows the peak memory of a run and of its largest worker for
growing numbers of images with the engine `instant`. Wall time is what a user waits for. CPU time,
summed over all processes, is also meaningful on a busy machine.

    python benchmarks/batch.py --photos 200
    python benchmarks/batch.py --photos 20 --only speed
    python benchmarks/batch.py --only plan
    python benchmarks/batch.py --only cluster --inputs 20000

`plan` extrapolates to a million images: four variations of each of 250,000 sources like the four
example photos. `cluster` needs the extra `ray`, and starts a cluster on this machine alone.
"""

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from langchain_image_variation import (
    CreateImageVariationRequest,
    ImageVariationTool,
    load_engine,
    load_source,
)
from pytest_image_variation.samples import square_png

EXAMPLES = Path(__file__).parent.parent / "examples"
PHOTOS = ("astronaut.png", "chelsea.png", "lake.jpg", "tea-garden.jpg")


@dataclass(frozen=True)
class Cost:
    """The resources that some work took."""

    wall: float
    """Seconds."""
    processor: float
    """CPU seconds of all processes together."""
    peak: float = 0.0
    """Peak memory of the main process, in megabytes."""
    worker: float = 0.0
    """Peak memory of the largest worker, in megabytes."""


def main() -> None:
    """Run the benchmarks, and print the tables."""
    options = _parse_options()
    if options.engine_process:
        print(json.dumps(call_engine_here(options.size, *options.engine_process)))
        return
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors"
    load = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    print(f"{machine}, load {load}, Python {platform.python_version()}\n")
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        if options.only in (None, "speed"):
            show_speed(options.photos, options.size, options.runs)
        if options.only in (None, "memory"):
            show_memory(options.inputs)
        if options.only == "plan":
            show_plan(options.photos, options.runs)
        if options.only == "cluster":
            show_cluster(options.inputs[-1], options.photos, options.size)


def show_speed(photos: int, size: int, runs: int) -> None:
    """Compare a run with the engine alone and with the tool in a pool of threads."""
    make_photos(photos)
    kinds: dict[str, Callable[[int], Cost]] = {
        "engine alone": lambda turn: call_engine(size),
        "engine alone, 2 processes": lambda turn: call_engine(size, 2),
        "batch, 1 worker": lambda turn: run_batch(f"out-1-{turn}", size, 1),
        "batch, 2 workers": lambda turn: run_batch(f"out-2-{turn}", size, 2),
        "batch, everything exists": lambda turn: run_batch(f"out-2-{turn}", size, 2),
        "tool.batch, 2 threads": lambda turn: call_tool(size),
    }
    # Alternate between the kinds, so that other load affects all of them alike.
    costs: dict[str, list[Cost]] = {kind: [] for kind in kinds}
    for turn in range(runs):
        for kind, measure in kinds.items():
            costs[kind].append(measure(turn))
    best = {kind: min(values, key=lambda cost: cost.wall) for kind, values in costs.items()}
    print(f"{photos} photos, one variation of {size} pixels each, best of {runs}:\n")
    print("| | images per second | wall s | CPU s |")
    print("|---|---|---|---|")
    for kind, cost in best.items():
        print(f"| {kind} | {photos / cost.wall:.2f} | {cost.wall:.2f} | {cost.processor:.2f} |")
    engine, two_engines, one, two = (best[kind] for kind in list(kinds)[:4])
    empty = run_minimal_batch()
    print(f"\nStarting and ending a run takes {empty.wall:.2f} s, {empty.processor:.2f} s CPU.")
    print("Overhead of a run with 1 worker over the engine alone:", end=" ")
    print(
        f"wall {one.wall / engine.wall - 1:+.1%}, CPU {one.processor / engine.processor - 1:+.1%};"
    )
    print("without starting and ending,", end=" ")
    print(f"wall {(one.wall - empty.wall) / engine.wall - 1:+.1%},", end=" ")
    print(f"CPU {(one.processor - empty.processor) / engine.processor - 1:+.1%}.")
    print(f"2 workers are {one.wall / two.wall:.2f} times as fast as 1,", end=" ")
    print(f"{(one.wall - empty.wall) / (two.wall - empty.wall):.2f} without starting;", end=" ")
    print(f"two engine processes are {engine.wall / two_engines.wall:.2f} times as fast as one.\n")


def show_memory(inputs: list[int]) -> None:
    """Compare the peak memory of runs with few and many images."""
    print("One variation of 256 pixels each, engine `instant`, 2 workers:\n")
    print("| images | run MB | largest worker MB | wall s | images per second |")
    print("|---|---|---|---|---|")
    for count in inputs:
        folder = Path(f"many-{count}")
        make_tiny(folder, count)
        cost = run_batch(f"out-{count}", 256, 2, photos=str(folder), engine="instant")
        rate = count / cost.wall
        print(f"| {count} | {cost.peak:.1f} | {cost.worker:.1f} | {cost.wall:.2f} | {rate:.0f} |")


def show_plan(photos: int, runs: int) -> None:
    """Extrapolate the cost of a million images from a few."""
    make_photos(photos)
    sources, n, cores = 250_000, 4, 128
    startup = min(run_minimal_batch().processor for _ in range(runs))
    print(f"CPU time of a run with {photos} photos, {n} variations each, without start and end,")
    print(f"best of {runs} runs. The other columns follow from it.\n")
    print(f"| size | strength | seconds per source | core-hours | hours on {cores} cores |", end="")
    print(" files, terabytes | new files per second |")
    print("|---|---|---|---|---|---|---|")
    for size in (256, 512, 1024):
        for strength in ("0.5", "0.8"):
            options = ("--n", str(n), "--strength", strength)
            outs = [f"plan-{size}-{strength}-{turn}" for turn in range(runs)]
            processor = min(run_batch(out, size, 1, *options).processor for out in outs)
            seconds = (processor - startup) / photos
            bytes_written = sum(
                path.stat().st_size for path in Path(outs[0], "images").rglob("*.png")
            )
            hours = sources * seconds / 3600
            print(
                f"| {size} | {strength} | {seconds:.2f} | {hours:.0f} | {hours / cores:.2f} | "
                f"{bytes_written / photos * sources / 1e12:.2f} | {cores * n / seconds:,.0f} |",
                flush=True,
            )
    print()


def show_cluster(tiny: int, photos: int, size: int) -> None:
    """Compare local worker processes with Ray, for a trivial engine and for the real one."""
    make_tiny(Path("tiny-images"), tiny)
    make_photos(photos)
    print("2 workers, one variation each:\n")
    print("| images | workers | wall s | images per second | after the first | repeated, wall s |")
    print("|---|---|---|---|---|---|")
    workloads = [("tiny-images", tiny, 256, "instant"), ("photos", photos, size, "local")]
    for folder, count, side, engine in workloads:
        for workers, options in (("processes", []), ("Ray", ["--ray", "local"])):
            out = f"{folder}-by-{workers}"
            first, second = (
                run_batch(out, side, 2, *options, photos=folder, engine=engine) for _ in range(2)
            )
            times = [path.stat().st_mtime for path in Path(out, "images").rglob("*.png")]
            duration = max(times) - min(times)
            print(
                f"| {count} of {side}, `{engine}` | {workers} | {first.wall:.1f} | "
                f"{count / first.wall:.1f} | {(count - 1) / duration:.1f} | {second.wall:.1f} |",
                flush=True,
            )


def make_tiny(folder: Path, count: int) -> None:
    """Write unique images that take almost no time to process."""
    folder.mkdir()
    for index in range(count):
        with Image.new("RGB", (32, 32), (index % 256, index // 256, 7)) as image:
            image.save(folder / f"{index:06}.png")


def make_photos(count: int) -> None:
    """Write unique photos to the folder `photos`."""
    Path("photos").mkdir()
    for index in range(count):
        with Image.open(EXAMPLES / PHOTOS[index % len(PHOTOS)]) as image:
            image.convert("RGB").save(f"photos/{index:04}.jpg", quality=92, comment=str(index))


def call_engine(size: int, processes: int = 1) -> Cost:
    """Call the engine in new processes, each with one thread like the workers of a run."""
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    children = [
        subprocess.Popen(
            [
                sys.executable,
                __file__,
                "--engine-process",
                str(index),
                str(processes),
                "--size",
                str(size),
            ],
            stdout=subprocess.PIPE,
            env={**os.environ, **threads},
        )
        for index in range(processes)
    ]
    times = [json.loads(process.communicate()[0]) for process in children]
    return Cost(max(wall for wall, _ in times), sum(processor for _, processor in times))


def call_engine_here(size: int, first: int, step: int) -> tuple[float, float]:
    """Call the engine for one photo after the other, and write the images.

    Args:
        size: The size of the variations, in pixels.
        first: The index of the first photo.
        step: The distance between the indices of two photos.
    """
    engine = load_engine("local", threads=1)
    start, processor = time.perf_counter(), time.process_time()
    photos = sorted(Path("photos").iterdir())
    # Some photos take longer than others, so a regular order would favor one process.
    random.Random(0).shuffle(photos)
    for photo in photos[first::step]:
        request = CreateImageVariationRequest.model_validate(
            {
                "image": load_source(photo).png,
                "size": f"{size}x{size}",
                "response_format": "b64_json",
            }
        )
        (image,) = engine.create_variation(request).data
        Path(f"engine-{first}.png").write_bytes(image.read())
    return time.perf_counter() - start, time.process_time() - processor


def call_tool(size: int) -> Cost:
    """Call the tool from LangChain's pool of two threads."""
    tool = ImageVariationTool(
        root_dir=".",
        engine=load_engine("local", threads=1),
        output_dir=tempfile.mkdtemp(dir="."),
    )
    calls = [
        {"image": str(photo), "n": 1, "size": f"{size}x{size}"}
        for photo in sorted(Path("photos").iterdir())
    ]
    start, processor = time.perf_counter(), time.process_time()
    tool.batch(list(calls), config={"max_concurrency": 2})
    return Cost(time.perf_counter() - start, time.process_time() - processor)


def run_minimal_batch() -> Cost:
    """Run a batch with a single tiny image, which measures starting and ending a run."""
    Path("tiny").mkdir(exist_ok=True)
    Path("tiny/1.png").write_bytes(square_png(32))
    return run_batch(tempfile.mkdtemp(dir="."), 256, 1, photos="tiny", engine="instant")


def run_batch(
    out: str,
    size: int,
    workers: int,
    *options: str,
    photos: str = "photos",
    engine: str = "local",
) -> Cost:
    """Run `image-variation batch`."""
    command = [sys.executable, "-m", "langchain_image_variation", "batch", photos]
    command += ["--size", f"{size}x{size}", "--engine", engine, "--workers", str(workers), *options]
    # The CPU time of a child includes the time of the children that it has waited for.
    start_usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--output-dir", out], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    monitor = _MemoryMonitor(process.pid)
    code = process.wait()
    wall = time.perf_counter() - start
    monitor.done.set()
    if code:
        raise SystemExit(f"The run failed with exit code {code}.")
    end_usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = end_usage.ru_utime + end_usage.ru_stime
    processor -= start_usage.ru_utime + start_usage.ru_stime
    return Cost(wall, processor, monitor.main_peak, monitor.worker_peak)


class _MemoryMonitor(threading.Thread):
    """Records the peak memory of a run's processes while it lives. Works on Linux only."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.main_peak = 0.0
        self._child_peaks: dict[str, float] = {}
        self.done = threading.Event()
        self._process = process
        self.start()

    @property
    def worker_peak(self) -> float:
        return max(self._child_peaks.values(), default=0.0)

    def run(self) -> None:
        while not self.done.wait(0.02):
            self.main_peak = max(self.main_peak, _read_peak(self._process))
            children = Path(f"/proc/{self._process}/task").glob("*/children")
            for path in children:
                try:
                    child_ids = path.read_text().split()
                except OSError:
                    continue
                # Keep only the latest value: before exec, a child has the peak of its parent.
                self._child_peaks |= {
                    child: peak for child in child_ids if (peak := _read_peak(int(child)))
                }


def _read_peak(process: int) -> float:
    """Return the peak resident memory of a process in megabytes, or 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    sizes = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(sizes[0]) / 1024 if sizes else 0.0


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--size", type=int, default=256, choices=(256, 512, 1024))
    parser.add_argument(
        "--runs", type=int, default=3, help="how many times to measure; the best is shown"
    )
    parser.add_argument("--inputs", type=int, nargs="+", default=[200, 5000])
    parser.add_argument("--only", choices=("speed", "memory", "plan", "cluster"))
    parser.add_argument("--engine-process", type=int, nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
