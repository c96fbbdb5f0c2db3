"""How fast bulk runs are, and how much memory they need: run me, I print Markdown tables.

Pictures a second of `image-variation batch` with 1 and 2 workers, of the bare engine called in a
loop by one process and by two at once, which is what the machine can give at that moment, and of
`tool.batch` with a pool of threads. All vary the same photos, the examples, each with another
comment in its file, so that none is made once for all. Then the peak memory of a run's own process
and of its largest worker over more and more pictures with the engine `instant`. Wall time is what a
user waits for; CPU time, of all processes, is what is left of it on a machine that others use too.

    python benchmarks/batch.py --photos 200
    python benchmarks/batch.py --photos 20 --only speed
    python benchmarks/batch.py --only plan
    python benchmarks/batch.py --only cluster --inputs 20000

The plan is that of a million pictures: what four of each of 250,000 sources take, were they like
the four photos. The last needs the extra `ray`: it starts a cluster of this machine alone.
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
class Spent:
    """What some work took."""

    wall: float
    """Seconds."""
    processor: float
    """Seconds of all processes together."""
    peak: float = 0.0
    """Of the run's own process, in megabytes."""
    worker: float = 0.0
    """Of its largest worker, in megabytes."""


def main() -> None:
    """Measure, and print the tables."""
    options = _options()
    if options.bare:
        print(json.dumps(bare_here(options.size, *options.bare)))
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
    """Compare a run with the engine itself and with the tool in a pool of threads."""
    make_photos(photos)
    kinds: dict[str, Callable[[int], Spent]] = {
        "bare engine in a loop": lambda turn: bare(size),
        "two such processes": lambda turn: bare(size, 2),
        "batch, 1 worker": lambda turn: batch(f"out-1-{turn}", size, 1),
        "batch, 2 workers": lambda turn: batch(f"out-2-{turn}", size, 2),
        "batch, all there": lambda turn: batch(f"out-2-{turn}", size, 2),
        "tool.batch, 2 threads": lambda turn: tool_batch(size),
    }
    # In turns, so that what else the machine does hits all of them alike.
    spent: dict[str, list[Spent]] = {kind: [] for kind in kinds}
    for turn in range(runs):
        for kind, measure in kinds.items():
            spent[kind].append(measure(turn))
    best = {kind: min(found, key=lambda one: one.wall) for kind, found in spent.items()}
    print(f"{photos} photos, one picture of {size} pixels each, best of {runs}:\n")
    print("| | pictures a second | wall s | CPU s |")
    print("|---|---|---|---|")
    for kind, one in best.items():
        print(f"| {kind} | {photos / one.wall:.2f} | {one.wall:.2f} | {one.processor:.2f} |")
    engine, two_engines, one, two = (best[kind] for kind in list(kinds)[:4])
    started = batch_of_nothing()
    print(f"\nStarting and ending a run takes {started.wall:.2f} s, {started.processor:.2f} s CPU.")
    print("Overhead of a run with 1 worker over the bare engine:", end=" ")
    print(
        f"wall {one.wall / engine.wall - 1:+.1%}, CPU {one.processor / engine.processor - 1:+.1%};"
    )
    print("without starting and ending,", end=" ")
    print(f"wall {(one.wall - started.wall) / engine.wall - 1:+.1%},", end=" ")
    print(f"CPU {(one.processor - started.processor) / engine.processor - 1:+.1%}.")
    print(f"2 workers are {one.wall / two.wall:.2f} times as fast as 1,", end=" ")
    print(f"{(one.wall - started.wall) / (two.wall - started.wall):.2f} without starting;", end=" ")
    print(f"two bare processes {engine.wall / two_engines.wall:.2f} times as fast as one.\n")


def show_memory(inputs: list[int]) -> None:
    """Compare the peak memory of runs over few and many pictures."""
    print("One picture of 256 pixels each, engine `instant`, 2 workers:\n")
    print("| pictures | run MB | largest worker MB | wall s | pictures a second |")
    print("|---|---|---|---|---|")
    for count in inputs:
        folder = Path(f"many-{count}")
        make_tiny(folder, count)
        spent = batch(f"out-{count}", 256, 2, photos=str(folder), engine="instant")
        rate = count / spent.wall
        print(
            f"| {count} | {spent.peak:.1f} | {spent.worker:.1f} | {spent.wall:.2f} | {rate:.0f} |"
        )


def show_plan(photos: int, runs: int) -> None:
    """Say what a million pictures would take, by what a few do."""
    make_photos(photos)
    sources, n, cores = 250_000, 4, 128
    started = min(batch_of_nothing().processor for _ in range(runs))
    print(f"CPU time of a run over {photos} photos, {n} of each, without start and end, the least")
    print(f"of {runs} runs; the rest follows from it.\n")
    print(f"| size | strength | seconds a source | core-hours | hours on {cores} cores |", end="")
    print(" files, terabytes | file creations a second |")
    print("|---|---|---|---|---|---|---|")
    for size in (256, 512, 1024):
        for strength in ("0.5", "0.8"):
            options = ("--n", str(n), "--strength", strength)
            outs = [f"plan-{size}-{strength}-{turn}" for turn in range(runs)]
            spent = min(batch(out, size, 1, *options).processor for out in outs)
            seconds = (spent - started) / photos
            written = sum(path.stat().st_size for path in Path(outs[0], "images").rglob("*.png"))
            hours = sources * seconds / 3600
            print(
                f"| {size} | {strength} | {seconds:.2f} | {hours:.0f} | {hours / cores:.2f} | "
                f"{written / photos * sources / 1e12:.2f} | {cores * n / seconds:,.0f} |",
                flush=True,
            )
    print()


def show_cluster(tiny: int, photos: int, size: int) -> None:
    """Compare runs by processes with those through Ray, with work that costs nothing and some."""
    make_tiny(Path("tiny-pictures"), tiny)
    make_photos(photos)
    print("2 workers, one picture each:\n")
    print("| pictures | by | wall s | pictures a second | after the first | all there, wall s |")
    print("|---|---|---|---|---|---|")
    work = [("tiny-pictures", tiny, 256, "instant"), ("photos", photos, size, "local")]
    for folder, count, side, engine in work:
        for by, options in (("processes", []), ("Ray", ["--ray", "local"])):
            out = f"{folder}-by-{by}"
            spent, again = (
                batch(out, side, 2, *options, photos=folder, engine=engine) for _ in range(2)
            )
            written = [path.stat().st_mtime for path in Path(out, "images").rglob("*.png")]
            working = max(written) - min(written)
            print(
                f"| {count} of {side}, `{engine}` | {by} | {spent.wall:.1f} | "
                f"{count / spent.wall:.1f} | {(count - 1) / working:.1f} | {again.wall:.1f} |",
                flush=True,
            )


def make_tiny(folder: Path, count: int) -> None:
    """Write pictures that take no time, none the same as another."""
    folder.mkdir()
    for index in range(count):
        with Image.new("RGB", (32, 32), (index % 256, index // 256, 7)) as image:
            image.save(folder / f"{index:06}.png")


def make_photos(count: int) -> None:
    """Write photos into the folder `photos`, none the same as another."""
    Path("photos").mkdir()
    for index in range(count):
        with Image.open(EXAMPLES / PHOTOS[index % len(PHOTOS)]) as image:
            image.convert("RGB").save(f"photos/{index:04}.jpg", quality=92, comment=str(index))


def bare(size: int, processes: int = 1) -> Spent:
    """Call the engine in processes of their own, with one thread as those of a run have."""
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    started = [
        subprocess.Popen(
            [sys.executable, __file__, "--bare", str(index), str(processes), "--size", str(size)],
            stdout=subprocess.PIPE,
            env={**os.environ, **threads},
        )
        for index in range(processes)
    ]
    spent = [json.loads(process.communicate()[0]) for process in started]
    return Spent(max(wall for wall, _ in spent), sum(processor for _, processor in spent))


def bare_here(size: int, first: int, step: int) -> tuple[float, float]:
    """Call the engine for one photo after the other, and write no more than the files.

    Args:
        size: Of the pictures, in pixels.
        first: The first photo to take.
        step: From one photo to the next.
    """
    engine = load_engine("local", threads=1)
    start, processor = time.perf_counter(), time.process_time()
    photos = sorted(Path("photos").iterdir())
    # Some photos take longer than others, in the order in which they were written.
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
        Path(f"bare-{first}.png").write_bytes(image.read())
    return time.perf_counter() - start, time.process_time() - processor


def tool_batch(size: int) -> Spent:
    """Let LangChain call the tool in a pool of two threads."""
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
    return Spent(time.perf_counter() - start, time.process_time() - processor)


def batch_of_nothing() -> Spent:
    """Start and end a run over a single tiny picture that takes no time."""
    Path("tiny").mkdir(exist_ok=True)
    Path("tiny/1.png").write_bytes(square_png(32))
    return batch(tempfile.mkdtemp(dir="."), 256, 1, photos="tiny", engine="instant")


def batch(
    out: str,
    size: int,
    workers: int,
    *options: str,
    photos: str = "photos",
    engine: str = "local",
) -> Spent:
    """Run the command line."""
    command = [sys.executable, "-m", "langchain_image_variation", "batch", photos]
    command += ["--size", f"{size}x{size}", "--engine", engine, "--workers", str(workers), *options]
    # CPU time of a process that has ended holds that of those that it waited for.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--output-dir", out], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    peaks = _Peaks(process.pid)
    code = process.wait()
    wall = time.perf_counter() - start
    peaks.done.set()
    if code:
        raise SystemExit(f"A run ended with {code}.")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Spent(wall, processor, peaks.own, peaks.worker)


class _Peaks(threading.Thread):
    """Looks, as long as a run lives, at the peak memory of its processes; on Linux only."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.own = 0.0
        self._of: dict[str, float] = {}
        self.done = threading.Event()
        self._process = process
        self.start()

    @property
    def worker(self) -> float:
        return max(self._of.values(), default=0.0)

    def run(self) -> None:
        while not self.done.wait(0.02):
            self.own = max(self.own, _peak(self._process))
            children = Path(f"/proc/{self._process}/task").glob("*/children")
            for listed in children:
                try:
                    found = listed.read_text().split()
                except OSError:
                    continue
                # The latest alone: until it runs its own program, a child has its parent's peak.
                self._of |= {child: peak for child in found if (peak := _peak(int(child)))}


def _peak(process: int) -> float:
    """Return the peak resident memory of a process in megabytes, or 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(found[0]) / 1024 if found else 0.0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--size", type=int, default=256, choices=(256, 512, 1024))
    parser.add_argument("--runs", type=int, default=3, help="of which the best is shown")
    parser.add_argument("--inputs", type=int, nargs="+", default=[200, 5000])
    parser.add_argument("--only", choices=("speed", "memory", "plan", "cluster"))
    parser.add_argument("--bare", type=int, nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
