"""Measures the quality of the local engine's variations, and prints two Markdown tables.

The first table measures arrangements. Its metrics compare the patches of a variation with those of
its source, so they would also count what a view leaves out and what a mirror turns around.
Therefore framing, mirror and light are off. Above a strength of 0.6, the engine rearranges sources
that are even: textures and many small things. If an arrangement has too many faults, the engine
falls back to a view. Each row has the number of sources, of their arrangements, and of fallbacks,
which are not measured.

All metrics are measured at 256 pixels, in RGB values of 0 to 255. None of them needs a trained
network.

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
- Diversity: standard deviation of gray across the seeds at each pixel, averaged over the pixels and
  divided by the standard deviation of the source's gray (as defined by GPNN, arXiv 2103.15545).

Change must rise from each strength to the next one at which a source is rearranged. Two controls
must miss the bars: a blurred copy, and arrangements with completeness turned off.

The second table estimates what judges would say of variations that are made with all parts of the
engine: which are intact, which are another picture, and in which the edge of the picture cuts what
it is about. The measures are in `quality/`, and `judge_variations.py` says how well they agree with
judgements. The photos come from the examples and from installed packages:

    pip install scikit-image scikit-learn matplotlib
    python benchmarks/engine_quality.py
"""

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from langchain_image_variation.engines.local import LocalEngine
from langchain_image_variation.engines.local.synthesis import Synthesis
from quality.engine import vary
from quality.opinion import BARS, HIGH, Statement, agreement, opinion
from quality.photos import DRAWINGS, PHOTOS, load, source

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

SIDE = 256
STRENGTHS = (0.7, 0.85, 1.0)
_COLUMNS = ("SWD", "coherence", "completeness", "sharpness", "change", "diversity")
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
    misses: list[str] = []
    if options.only != "opinions":
        misses += compare_patches(options.images, options.seeds)
    if options.only != "patches":
        misses += estimate_opinions(options.images, options.seeds)
    print(f"\n{len(misses)} bars missed{':' if misses else '.'}", *misses, sep="\n- ")
    print(f"\n{time.perf_counter() - start:.0f} s")
    return 1 if misses else 0


def compare_patches(paths: list[Path], seeds: int) -> list[str]:
    """Print the table of patch metrics of arrangements. Return the bars that are missed."""
    images = _images(paths)
    print("| strength | sources | arrangements | fallbacks | " + " | ".join(_COLUMNS) + " |")
    print("|---" * (4 + len(_COLUMNS)) + "|")
    misses: list[str] = []
    changes: dict[str, list[float]] = {name: [] for name in images}
    for strength in STRENGTHS:
        scores: list[Score] = []
        spreads: list[float] = []
        sources = fallbacks = 0
        for name, image in images.items():
            attempts = rearrange(image, strength, seeds)
            arrangements = [one for one in attempts if one is not None]
            fallbacks += len(attempts) - len(arrangements)
            if not arrangements:
                continue
            sources += 1
            judge = Judge(image)
            image_scores = [judge.score(arrangement) for arrangement in arrangements]
            scores += image_scores
            if len(arrangements) > 1:
                spreads.append(diversity(arrangements, image))
            changes[name].append(float(np.median([score.change for score in image_scores])))
            misses += _bad_samples(name, strength, image_scores)
        label = f"{strength} | {sources} | {len(scores)} | {fallbacks}"
        misses += _row(label, strength, scores, spreads)
    for name, rising in changes.items():
        if not all(low < high for low, high in itertools.pairwise(rising)):
            misses.append(f"{name}: change does not rise: {np.round(rising, 2).tolist()}")
    misses += _check_controls(images, seeds)
    print(f"\nMedians over {len(images)} images of {seeds} seeds each, where they are rearranged.")
    return misses


def estimate_opinions(paths: list[Path], seeds: int) -> list[str]:
    """Print what judges would say at the default strength and at a high one. Return misses."""
    images = _images(paths)
    print("\n| strength | variations | intact | another | accepted | edge cuts |")
    print("|---|---|---|---|---|---|")
    default = LocalEngine().strength
    misses = []
    for strength in (default, HIGH):
        opinions = []
        for name, image in images.items():
            for variation in vary(image, strength, 0, seeds):
                # A photo that was judged is measured without what was said of it.
                opinions.append(opinion(image, variation, without=None if paths else name))
        shares = {}
        for statement in get_args(Statement):
            estimate = float(np.mean([getattr(one, statement) for one in opinions]))
            shares[statement] = agreement(statement).correct(estimate)
        # Each share is corrected by itself, so the share of both could exceed its parts.
        shares["accepted"] = min(shares["accepted"], shares["intact"], shares["another"])
        columns = " | ".join(f"{share:.0%}" for share in shares.values())
        print(f"| {strength} | {len(opinions)} | {columns} |", flush=True)
        for bar in BARS:
            if bar.at_default == (strength == default) and agreement(bar.statement).is_enough:
                misses += bar.check(shares[bar.statement], strength)
    print("\nThe shares are corrected for the known rates of hits and false alarms.")
    for bar in BARS:
        one = agreement(bar.statement)
        if not one.is_enough:
            where = default if bar.at_default else HIGH
            print(
                f"Not used as a bar: {bar.statement} {bar.limit} at {where} (area under the curve "
                f"{one.auc:.2f}, kappa {one.kappa:.2f}). Look at the variations."
            )
    return misses


def _images(paths: list[Path]) -> dict[str, Bytes]:
    """Return these photos by name, or those that are installed and the drawings."""
    return {path.stem: load(path) for path in paths} or dict(_installed())


def _installed() -> Iterator[tuple[str, Bytes]]:
    """Yield the photos and drawings whose packages are installed."""
    for name in (*PHOTOS, *DRAWINGS):
        try:
            yield name, source(name)
        except ModuleNotFoundError as error:
            print(f"Without {name}: {error}", file=sys.stderr)


def _row(label: str, strength: float, scores: list[Score], spreads: list[float]) -> list[str]:
    """Print a row of medians, and return the bars that it misses.

    Args:
        label: The first columns.
        strength: Which bars apply.
        scores: The metrics of all images.
        spreads: The diversity of each source. If empty, its bar does not apply.
    """
    if not scores:
        print(f"| {label} |" + " - |" * len(_COLUMNS), flush=True)
        return [f"{strength}: no arrangement to measure"]
    median = {
        field.name: float(np.median([getattr(score, field.name) for score in scores]))
        for field in fields(Score)
    }
    columns = " | ".join(f"{value:.2f}" for value in median.values())
    spread = float(np.median(spreads)) if spreads else None
    print(f"| {label} | {columns} | {'-' if spread is None else f'{spread:.2f}'} |", flush=True)
    high = strength > 0.7
    # Textures are so even that without completeness, too, it is only 0.58.
    most_swd, most_lost = 0.5, 5 if high else 4
    least_spread = 0.45 if strength == 1.0 else 0.2
    misses = [
        f"SWD above {most_swd}" * (median["swd"] > most_swd),
        f"completeness above {most_lost}" * (median["completeness"] > most_lost),
        "sharpness below 0.92" * (median["sharpness"] < 0.92),
        f"diversity below {least_spread}" * (spread is not None and spread < least_spread),
    ]
    return [f"{strength}: {text}" for text in misses if text]


def _bad_samples(name: str, strength: float, scores: list[Score]) -> list[str]:
    copies = sum(score.change < NEAR_COPY for score in scores)
    broken = sum(score.completeness > BROKEN for score in scores)
    return [f"{name} at {strength}: {copies} near copies"] * (copies > 0) + [
        f"{name} at {strength}: {broken} broken"
    ] * (broken > 0)


def _check_controls(images: dict[str, Bytes], seeds: int) -> list[str]:
    """Print the rows of the controls and the bars that they miss. Return those that miss none."""
    blurred, incomplete = [], []
    for image in images.values():
        judge = Judge(image)
        soft = Image.fromarray(image).filter(ImageFilter.GaussianBlur(1))
        blurred.append(judge.score(np.asarray(soft)))
        arrangements = rearrange(image, 1.0, min(seeds, 2), complete=False)
        incomplete += [judge.score(one) for one in arrangements if one is not None]
    number = len(images)
    first = _row(f"blurred copy (must miss) | {number} | - | -", 0.7, blurred, [])
    label = f"1.0, completeness off (must miss) | {number} | {len(incomplete)} | -"
    second = _row(label, 1.0, incomplete, [])
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


def rearrange(
    source: Bytes, strength: float, seeds: int, *, complete: bool = True
) -> list[Bytes | None]:
    """Rearrange a source with the seeds 0, 1, 2, and so on.

    Returns:
        An arrangement for each seed, or None where the engine falls back to a view. If the engine
        does not rearrange this source at this strength, the list is empty.
    """
    synthesis = Synthesis(source, strength, framing=False, mirror=False, complete=complete)
    if not synthesis.may_rearrange:
        return []
    return [synthesis.rearrange(seed) for seed in range(seeds)]


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


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "images", type=Path, nargs="*", help="photos to use instead of the usual ones"
    )
    parser.add_argument("--seeds", type=int, default=5, help="number of variations of each image")
    parser.add_argument(
        "--only", choices=("patches", "opinions"), help="the one table to make; the default is both"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
