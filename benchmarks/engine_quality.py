"""Measures the quality of the local engine's variations, and prints a Markdown table.

All metrics compare a variation with its source at 256 pixels, in RGB values of 0 to 255. None of
them needs a trained network.

- SWD: sliced Wasserstein-1 distance between all 7x7x3 patches of the two, along 128 fixed random
  unit vectors, averaged over the scales 1, 1/2, 1/4 and 1/8 (as in GPDM, arXiv 2203.11862). Lower
  is closer. It does not detect slight blur, so read it together with sharpness.
- Coherence: root mean square difference between a patch of the variation and the most similar patch
  of the source, averaged over 300 random patches. 0 means that nothing was invented.
- Completeness: the same from the source to the variation. 0 means that nothing was lost. Both are
  from Simakov et al. 2008, "Summarizing visual data using bidirectional similarity".
- Sharpness: mean gradient length of gray, divided by that of the source. 1 is equally sharp.
- Change: root mean square difference of gray, divided by the standard deviation of the source's
  gray. 0 is a copy, 1.4 an unrelated arrangement of the same grays.
- Diversity: standard deviation of gray across seeds at each pixel, averaged over the pixels and
  divided by the standard deviation of the source's gray (as defined by GPNN, arXiv 2103.15545).

Two controls must miss the bars: a blurred copy, and the engine with completeness turned off.

    python benchmarks/engine_quality.py
"""

import argparse
import itertools
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from langchain_image_variation.engines.local.synthesis import Synthesis

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

EXAMPLES = Path(__file__).parent.parent / "examples"
SIDE = 256
STRENGTHS = (0.15, 0.3, 0.5, 0.7, 0.85, 1.0)
DIRECTIONS = 128
SAMPLES = 300

NEAR_COPY = 0.2
"""A change below this is a near copy."""

BROKEN = 12.0
"""A variation with a completeness above this has lost too much of its source."""


@dataclass(frozen=True)
class Score:
    """The metrics of one variation."""

    swd: float
    coherence: float
    completeness: float
    sharpness: float
    change: float


def main() -> int:
    """Score every image at every strength. Return 1 if a bar is missed."""
    options = _options()
    start = time.perf_counter()
    images = {path.stem: load(path) for path in options.images or _photos()}
    if not options.images:
        images |= {"house (drawn)": drawn_house(), "face (drawn)": drawn_face()}
    print("| strength | SWD | coherence | completeness | sharpness | change | diversity |")
    print("|---|---|---|---|---|---|---|")
    misses: list[str] = []
    changes: dict[str, list[float]] = {name: [] for name in images}
    for strength in STRENGTHS:
        scores, spreads = [], []
        for name, source in images.items():
            variations = make(source, strength, options.seeds)
            judge = Judge(source)
            image_scores = [judge.score(variation) for variation in variations]
            scores += image_scores
            spreads.append(diversity(variations, source))
            changes[name].append(float(np.median([score.change for score in image_scores])))
            misses += _bad_samples(name, strength, image_scores)
        misses += _row(f"{strength}", strength, scores, float(np.median(spreads)))
    for name, rising in changes.items():
        if not all(low < high for low, high in itertools.pairwise(rising)):
            misses.append(f"{name}: change does not rise: {np.round(rising, 2).tolist()}")
    misses += _check_controls(images, options.seeds)
    print(f"\nMedians over {len(images)} images of {options.seeds} seeds each.")
    print(f"{len(misses)} bars missed{':' if misses else '.'}", *misses, sep="\n- ")
    print(f"\n{time.perf_counter() - start:.0f} s")
    return 1 if misses else 0


def _row(label: str, strength: float, scores: list[Score], spread: float) -> list[str]:
    """Print a row of medians, and return the bars that it misses."""
    median = {
        field.name: float(np.median([getattr(score, field.name) for score in scores]))
        for field in fields(Score)
    }
    columns = " | ".join(f"{value:.2f}" for value in [*median.values(), spread])
    print(f"| {label} | {columns} |", flush=True)
    high = strength > 0.7
    misses = [
        f"{label}: SWD above {5.5 if high else 4}" * (median["swd"] > (5.5 if high else 4)),
        f"{label}: completeness above {5 if high else 4}"
        * (median["completeness"] > (5 if high else 4)),
        f"{label}: sharpness below 0.92" * (median["sharpness"] < 0.92),
        f"{label}: diversity below 0.2" * (strength == 0.3 and spread < 0.2),
        f"{label}: diversity below 0.45" * (strength == 1.0 and spread < 0.45),
    ]
    return [text for text in misses if text]


def _bad_samples(name: str, strength: float, scores: list[Score]) -> list[str]:
    copies = sum(score.change < NEAR_COPY for score in scores) if strength >= 0.3 else 0
    broken = sum(score.completeness > BROKEN for score in scores)
    return [f"{name} at {strength}: {copies} near copies"] * (copies > 0) + [
        f"{name} at {strength}: {broken} broken"
    ] * (broken > 0)


def _check_controls(images: dict[str, Bytes], seeds: int) -> list[str]:
    """Print the rows of the controls and the bars that they miss. Return those that miss none."""
    blurred, incomplete = [], []
    for source in images.values():
        judge = Judge(source)
        soft = Image.fromarray(source).filter(ImageFilter.GaussianBlur(1))
        blurred.append(judge.score(np.asarray(soft)))
        variations = make(source, 1.0, min(seeds, 2), complete=False)
        incomplete += [judge.score(variation) for variation in variations]
    first = _row("blurred copy (must miss)", 0.15, blurred, 0.0)
    second = _row("1.0, completeness off (must miss)", 1.0, incomplete, 1.0)
    print("\nThe controls miss:", *first, *second, sep="\n- ")
    controls = ((first, "blurred copy"), (second, "completeness off"))
    return [f"the control '{control}' misses no bar" for missed, control in controls if not missed]


class Judge:
    """Scores variations of one source.

    Args:
        source: uint8 (256, 256, 3).
    """

    def __init__(self, source: Bytes) -> None:
        draws = np.random.default_rng(0).standard_normal((147, DIRECTIONS))
        self._directions = (draws / np.linalg.norm(draws, axis=0)).astype(np.float32)
        self._source = source
        self._slices = self._sort_projections(source)

    def score(self, variation: Bytes) -> Score:
        """Return all metrics of a variation, uint8 (256, 256, 3)."""
        slices = zip(self._slices, self._sort_projections(variation), strict=True)
        change = np.sqrt(np.mean((gray(variation) - gray(self._source)) ** 2))
        return Score(
            swd=float(np.mean([np.abs(one - other).mean() for one, other in slices])),
            coherence=_closest(variation, self._source),
            completeness=_closest(self._source, variation),
            sharpness=_gradient(variation) / _gradient(self._source),
            change=float(change) / max(float(gray(self._source).std()), 1e-6),
        )

    def _sort_projections(self, image: Bytes) -> list[Floats]:
        original = Image.fromarray(image)
        levels = [
            original.resize((SIDE // step, SIDE // step), Image.Resampling.LANCZOS)
            for step in (1, 2, 4, 8)
        ]
        return [np.sort(_patches(np.asarray(one)) @ self._directions, axis=0) for one in levels]


def diversity(variations: list[Bytes], source: Bytes) -> float:
    """Return the spread of several variations, divided by the spread of their source."""
    grays = np.stack([gray(variation) for variation in variations])
    return float(grays.std(axis=0).mean()) / max(float(gray(source).std()), 1e-6)


def gray(image: Bytes) -> Floats:
    """Return the luma of an image, 0 to 255."""
    return np.asarray(image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32))


def make(source: Bytes, strength: float, seeds: int, *, complete: bool = True) -> list[Bytes]:
    """Create variations with the seeds 0, 1, 2, and so on."""
    synthesis = Synthesis(source, strength, complete=complete)
    return [synthesis.draw(seed) for seed in range(seeds)]


def load(path: Path) -> Bytes:
    """Read the center square of a photo at 256 pixels."""
    with Image.open(path) as opened:
        rgb = opened.convert("RGB")
    edge = min(rgb.size)
    left, top = (rgb.width - edge) // 2, (rgb.height - edge) // 2
    box = (left, top, left + edge, top + edge)
    return np.asarray(rgb.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box=box))


def drawn_house() -> Bytes:
    """Draw a flat house with outlines, a sun and a fence."""
    image = Image.new("RGB", (1024, 1024), (200, 225, 250))
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 717, 1024, 1024), (120, 180, 90))
    pen.ellipse((737, 82, 922, 266), (250, 210, 60), (0, 0, 0), 10)
    pen.rectangle((205, 461, 563, 819), (200, 90, 80), (0, 0, 0), 10)
    pen.polygon(((154, 461), (384, 256), (614, 461)), (110, 60, 50), (0, 0, 0), 10)
    pen.rectangle((266, 532, 348, 635), (240, 240, 180), (0, 0, 0), 8)
    pen.rectangle((430, 594, 512, 819), (90, 60, 40), (0, 0, 0), 8)
    for post in range(635, 973, 61):
        pen.line((post, 635, post, 758), (90, 60, 30), 13)
    pen.line((614, 676, 973, 676), (90, 60, 30), 13)
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def drawn_face() -> Bytes:
    """Draw a face in black lines on white, in a frame."""
    image = Image.new("RGB", (1024, 1024), "white")
    pen = ImageDraw.Draw(image)
    pen.rectangle((51, 51, 973, 973), None, (0, 0, 0), 12)
    pen.ellipse((205, 154, 819, 870), None, (0, 0, 0), 17)
    for center in (379, 645):
        pen.ellipse((center - 72, 389, center + 72, 492), None, (0, 0, 0), 12)
        pen.ellipse((center - 20, 420, center + 20, 461), (0, 0, 0))
    pen.line((512, 471, 471, 614, 543, 614), (0, 0, 0), 11)
    pen.arc((369, 594, 655, 758), 20, 160, (0, 0, 0), 12)
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def _closest(image: Bytes, other: Bytes) -> float:
    everything = _patches(image)
    chosen = np.random.default_rng(1).integers(0, len(everything), SAMPLES)
    queries, keys = everything[chosen], _patches(other)
    squares = np.einsum("ij,ij->i", keys, keys)[None, :] - 2 * (queries @ keys.T)
    best = squares.min(axis=1) + np.einsum("ij,ij->i", queries, queries)
    return float(np.sqrt(np.maximum(best, 0) / queries.shape[1]).mean())


def _gradient(image: Bytes) -> float:
    luma = gray(image)
    down, across = np.diff(luma, axis=0)[:, :-1], np.diff(luma, axis=1)[:-1]
    return max(float(np.hypot(down, across).mean()), 1e-6)


def _patches(image: Bytes) -> Floats:
    windows = sliding_window_view(image.astype(np.float32), (7, 7), axis=(0, 1))
    return windows.reshape(windows.shape[0] * windows.shape[1], -1)


def _photos() -> list[Path]:
    photos = [path for path in EXAMPLES.iterdir() if path.suffix in (".png", ".jpg")]
    return sorted(path for path in photos if "sheet" not in path.stem)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "images", type=Path, nargs="*", help="photos to use instead of the examples"
    )
    parser.add_argument("--seeds", type=int, default=5, help="number of variations of each image")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
