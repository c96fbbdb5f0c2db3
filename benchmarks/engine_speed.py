"""Measures the speed of the local engine against a reference, and prints a Markdown table.

Each row is measured in a new process, so that its peak memory is that of this row alone. Times are
medians, and leave out the first request of the process. They include everything that a user waits
for: decoding, the shared work, the variations, and encoding as PNG. The reference is the method on
which the engine is based: GPNN (arXiv 2103.15545) with exact nearest neighbors over all 7x7
patches, in plain numpy. It runs at 128 pixels, since its work grows with the fourth power of the
side.

    python benchmarks/engine_speed.py --image examples/chelsea.png
"""

import argparse
import itertools
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]

EXAMPLE = Path(__file__).parent.parent / "examples" / "chelsea.png"
REFERENCE_SIDE = 128
SIZES = (256, 512, 1024)


def main() -> None:
    """Run every row and print the table."""
    options = _options()
    if options.row:
        side, n = options.row
        print(json.dumps(measure(options.image, side, n, options.strengths[0], options.runs)))
        return
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors"
    versions = f"Python {platform.python_version()}, numpy {np.__version__}"
    print(f"{machine}, {versions}; {options.image.name}, median of {options.runs} requests\n")
    counts = (1, 4, 10) if options.ten else (1, 4)
    kinds = list(itertools.product(options.strengths, SIZES, counts))
    # These run before the reference, because a child starts with the peak memory of this process.
    rows = [_in_child(options, side, n, strength) for strength, side, n in kinds]
    reference = 0.0 if options.no_reference else _time_reference(options.image)
    print("| strength | size | n | wall s | CPU s | peak MB | times exact GPNN at 128 px |")
    print("|---|---|---|---|---|---|---|")
    for (strength, side, n), row in zip(kinds, rows, strict=True):
        ratio = f"{reference * n / row['wall']:.0f}" if reference else "-"
        times = f"{row['wall']:.2f} | {row['cpu']:.2f} | {row['peak']:.0f} | {ratio}"
        print(f"| {strength} | {side} | {n} | {times} |")
    if reference:
        growth = _work(256) / _work(REFERENCE_SIDE)
        print(f"\nExact GPNN took {reference:.1f} s for one image of {REFERENCE_SIDE} px. The last")
        print("column is how many images the engine makes in that time.")
        print("Since its cost grows with the square of the number of pixels, it would take")
        print(f"about {reference * growth:.0f} s at 256 px.")


def _time_reference(path: Path) -> float:
    image = _image(path, REFERENCE_SIDE)
    start = time.perf_counter()
    exact_gpnn(image)
    return time.perf_counter() - start


def measure(image: Path, side: int, n: int, strength: float, runs: int) -> dict[str, float]:
    """Time the engine in this process.

    Returns:
        Medians of wall and CPU time of a request in seconds ("wall", "cpu"), and the peak resident
        memory of the process in megabytes ("peak").
    """
    from langchain_image_variation.contract import CreateImageVariationRequest
    from langchain_image_variation.engines.local import LocalEngine
    from langchain_image_variation.source import load_source

    source = load_source(image, fit="crop")
    request = CreateImageVariationRequest.model_validate(
        {"image": source.png, "n": n, "size": f"{side}x{side}", "response_format": "b64_json"}
    )
    walls, processors = [], []
    for seed in range(runs + 1):
        engine = LocalEngine(seed=seed, strength=strength)
        wall, processor = time.perf_counter(), time.process_time()
        engine.create_variation(request)
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "wall": float(np.median(walls[1:])),
        "cpu": float(np.median(processors[1:])),
        # Kilobytes on Linux, bytes on macOS.
        "peak": peak / (1024 if sys.platform != "darwin" else 1024 * 1024),
    }


def exact_gpnn(
    source: Floats,
    *,
    factor: float = 0.75,
    coarsest: int = 14,
    iterations: int = 10,
    alpha: float = 0.005,
    noise: float = 0.75,
) -> Floats:
    """Create a variation by GPNN as published: exact, complete, and from coarse to fine.

    Args:
        source: float32 (side, side, channels), values -1 to 1.
        factor: The ratio of the sides of adjacent levels.
        coarsest: The smallest side that the coarsest level may have.
        iterations: Rounds of matching and voting per level. The coarsest level has only one.
        alpha: The alpha of equation 1, for mean squared differences.
        noise: Standard deviation of the noise added at the coarsest level.
    """
    sides = [source.shape[0]]
    while sides[-1] * factor >= coarsest:
        sides.append(round(sides[-1] * factor))
    levels = [_resize(source, side) for side in reversed(sides)]
    grains = np.random.default_rng(0).standard_normal(levels[0].shape, dtype=np.float32)
    image = levels[0] + np.float32(noise) * grains
    for index, level in enumerate(levels):
        image = _resize(image, level.shape[0])
        soft = _resize(levels[index - 1], level.shape[0]) if index else level
        for turn in range(iterations if index else 1):
            image = _match_and_vote(image, level if turn else soft, level, alpha)
    return image


def _match_and_vote(image: Floats, keys_of: Floats, values_of: Floats, alpha: float) -> Floats:
    """Replace each patch by the best one of the source by equation 1, and average the overlaps."""
    queries, keys, values = _patches(image), _patches(keys_of), _patches(values_of)
    lengths = np.einsum("ij,ij->i", keys, keys)
    closest = np.full(len(keys), np.inf, dtype=np.float32)
    blocks = [slice(top, top + 1024) for top in range(0, len(queries), 1024)]
    for rows in blocks:
        np.minimum(closest, _distances(queries[rows], keys, lengths).min(axis=0), out=closest)
    weights = 1 / (np.float32(alpha) + closest)
    matches = [
        (_distances(queries[rows], keys, lengths) * weights).argmin(axis=1) for rows in blocks
    ]
    side, _, channels = image.shape
    span = side - 6
    chosen = values[np.concatenate(matches)].reshape(span, span, channels, 7, 7)
    total, votes = np.zeros_like(image), np.zeros((side, side, 1), dtype=np.float32)
    for dy in range(7):
        for dx in range(7):
            total[dy : dy + span, dx : dx + span] += chosen[..., dy, dx]
            votes[dy : dy + span, dx : dx + span] += 1
    return np.asarray(total / votes)


def _distances(queries: Floats, keys: Floats, lengths: Floats) -> Floats:
    """Return the mean squared differences between all queries and all keys."""
    products = queries @ keys.T
    products *= -2
    products += lengths
    products += np.einsum("ij,ij->i", queries, queries)[:, None]
    products /= keys.shape[1]
    return np.asarray(np.maximum(products, 0, out=products))


def _patches(image: Floats) -> Floats:
    windows = sliding_window_view(image, (7, 7), axis=(0, 1))
    return windows.reshape(windows.shape[0] * windows.shape[1], -1)


def _resize(image: Floats, side: int) -> Floats:
    planes = [
        Image.fromarray(np.ascontiguousarray(image[..., channel])).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        for channel in range(image.shape[2])
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=2)


def _work(side: int, factor: float = 0.75, coarsest: int = 14) -> float:
    """Return how many distances exact GPNN computes in one round of all levels."""
    total = 0.0
    while side >= coarsest:
        total += float(side - 6) ** 4
        side = round(side * factor)
    return total


def _image(image: Path, side: int) -> Floats:
    with Image.open(image) as opened:
        rgb = opened.convert("RGB")
    edge = min(rgb.size)
    left, top = (rgb.width - edge) // 2, (rgb.height - edge) // 2
    square = rgb.resize(
        (side, side), Image.Resampling.LANCZOS, box=(left, top, left + edge, top + edge)
    )
    return (np.asarray(square, dtype=np.float32) / np.float32(127.5)) - 1


def _in_child(options: argparse.Namespace, side: int, n: int, strength: float) -> dict[str, float]:
    command = [sys.executable, __file__, "--row", str(side), str(n), "--image", str(options.image)]
    command += ["--strengths", str(strength), "--runs", str(options.runs)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    row: dict[str, float] = json.loads(done.stdout)
    return row


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--image", type=Path, default=EXAMPLE, help="a photo")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.35, 0.8])
    parser.add_argument(
        "--runs", type=int, default=5, help="number of requests per row, not counting the first one"
    )
    parser.add_argument("--ten", action="store_true", help="n = 10 too")
    parser.add_argument("--no-reference", action="store_true", help="skip the slow reference")
    parser.add_argument("--row", type=int, nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
