"""Measures how long hostile image files keep the decoders busy, and prints a Markdown table.

Each file of `hostile_files.py` is loaded in a new process, by `load_source` or, as a result of a
server, by `decode_result`. `expected` is the time for an honest file with as many pixels and bytes:
the seconds per megapixel of a plain image, and the seconds per megabyte of noise, in the same
format. For a refused file, the cost is that of refusing it.

    python benchmarks/decoding.py
    python benchmarks/decoding.py --megabytes 63
    python benchmarks/decoding.py --only tiff
"""

import argparse
import io
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from PIL import Image

from hostile_files import ATTACKS


class Cost(NamedTuple):
    """What loading a file cost."""

    outcome: str
    seconds: float
    """Seconds of CPU time."""
    peak: float
    """The growth of the peak memory, in megabytes."""


def main() -> None:
    """Load every file and print the table."""
    options = _options()
    length = int(options.megabytes * 2**20)
    if options.file:
        print(json.dumps(_load(options.file, length)))
        return
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors\n")
    print("| file | KB | megapixels | outcome | s | expected | ratio | MB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    names = [name for name in ATTACKS if name.startswith(options.only)]
    rates = {
        format: _rates(format, options.timeout)
        for format in dict.fromkeys(name.partition(":")[0] for name in names)
    }
    for name in names:
        width, height = ATTACKS[name].size
        size, megapixels = len(ATTACKS[name].build(length)), width * height / 1e6
        per_megapixel, per_megabyte = rates[name.partition(":")[0]]
        expected = per_megapixel * megapixels + per_megabyte * size / 2**20
        cost = _measure(name, options.megabytes, options.timeout)
        print(
            f"| {name} | {size / 1024:,.0f} | {megapixels:.2f} | {cost.outcome} "
            f"| {cost.seconds:.2f} | {expected:.2f} | {cost.seconds / max(expected, 0.01):.1f} "
            f"| {cost.peak:.0f} |",
            flush=True,
        )


def _rates(format: str, timeout: float) -> tuple[float, float]:
    """Return the seconds that a format takes per megapixel and per megabyte."""
    plain = _measure(f"{format}: plain", 0, timeout).seconds / (4096 * 4096 / 1e6)
    noise = _measure(f"{format}: noise", 0, timeout).seconds
    megabytes = len(_honest_file(f"{format}: noise")) / 2**20
    return plain, max(0.0, noise - plain * 2048 * 2048 / 1e6) / megabytes


def _honest_file(name: str) -> bytes:
    format, _, kind = name.partition(": ")
    buffer = io.BytesIO()
    image = Image.new("L", (4096, 4096), 90)
    if kind == "noise":
        image = Image.effect_noise((2048, 2048), 90)
    image.save(buffer, format.upper())
    return buffer.getvalue()


def _measure(name: str, megabytes: float, timeout: float) -> Cost:
    """Load a file in a new process."""
    command = [sys.executable, __file__, "--file", name, "--megabytes", str(megabytes)]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return Cost("not finished", timeout, float("nan"))
    return Cost(*json.loads(run.stdout))


def _load(name: str, length: int) -> Cost:
    from langchain_image_variation.exceptions import ImageVariationError
    from langchain_image_variation.images.pixels import decode_result
    from langchain_image_variation.source import load_source

    attack = ATTACKS.get(name)
    data = attack.build(length) if attack is not None else _honest_file(name)
    decode: Callable[[bytes], object] = load_source
    if attack is not None and attack.is_result:
        decode = decode_result
    # Modules that are imported on first use take time and memory too.
    load_source(Image.new("RGB", (40, 30)))
    peak, start = _peak(), time.process_time()
    try:
        decode(data)
        outcome = "loaded"
    except ImageVariationError:
        outcome = "refused"
    return Cost(outcome, time.process_time() - start, _peak() - peak)


def _peak() -> float:
    # Kilobytes on Linux, bytes on macOS.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--megabytes", type=float, default=4, help="the length of the files")
    parser.add_argument("--only", default="", help="only files whose name starts with this")
    parser.add_argument("--timeout", type=float, default=60, help="seconds per file")
    parser.add_argument("--file", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
