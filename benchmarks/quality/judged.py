"""The judged variations: 168 variations, and what each judge said of them.

- variations.webp: the variations, 256 x 256 pixels each, 12 in a row. Each has a margin of 8 pixels
  that repeats its border, so that no color bleeds into its neighbor. The file keeps pixels because
  the engines that made them change.
- variations.json: in the same order, the photo or drawing of each, and what made it.
- judgements.csv: what the judges said. All are vision models. Judges a, b and c are one that looked
  at the sheets three times, each time in another order, and as c with a stricter eye. So they agree
  more than three people would. Judges d and e had seen only the sheets and the instructions. To add
  another judge, see `judge_variations.py`.
"""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from quality.photos import SIDE, Bytes

__all__ = [
    "FAULTS",
    "JUDGEMENTS",
    "Judgement",
    "Variation",
    "judgements",
    "kappa",
    "majority",
    "variations",
]

FOLDER = Path(__file__).parent / "judged"
COLUMNS = 12
MARGIN = 8
JUDGEMENTS = FOLDER / "judgements.csv"

FAULTS = {
    "b": "a straight line, or a regular shape such as a circle, is bent or broken",
    "c": "an object is cut or torn inside the picture",
    "d": "something is there twice, or a part of it is",
    "f": "a face is distorted",
    "t": "text is garbled or mirrored",
    "x": "the edge of the picture cuts what it is about",
    "s": "smears, or jagged joints",
}


@dataclass(frozen=True)
class Variation:
    """A variation: its pixels, the name of its photo, and what made it."""

    pixels: Bytes
    photo: str
    made: str


@dataclass(frozen=True)
class Judgement:
    """What one judge says of one variation, or what most say."""

    intact: bool
    another: bool
    faults: frozenset[str]


@cache
def variations() -> tuple[Variation, ...]:
    """Return the judged variations in order."""
    rows = json.loads((FOLDER / "variations.json").read_text("utf-8"))
    with Image.open(FOLDER / "variations.webp") as opened:
        sheet = np.asarray(opened.convert("RGB"))
    result = []
    for index, row in enumerate(rows):
        cell = SIDE + 2 * MARGIN
        top, left = index // COLUMNS * cell + MARGIN, index % COLUMNS * cell + MARGIN
        pixels = sheet[top : top + SIDE, left : left + SIDE]
        result.append(Variation(pixels, row["photo"], row["made"]))
    return tuple(result)


def judgements() -> dict[str, dict[int, Judgement]]:
    """Return each judge's judgements by the number of the variation."""
    result: dict[str, dict[int, Judgement]] = {}
    with JUDGEMENTS.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            result.setdefault(row["judge"], {})[int(row["item"])] = Judgement(
                row["intact"] == "1", row["another"] == "1", frozenset(row["faults"])
            )
    return result


def majority(by_judge: dict[str, dict[int, Judgement]]) -> list[Judgement]:
    """Return what most judges say of each variation. A fault counts if most judges name it."""
    result = []
    for item in sorted(next(iter(by_judge.values()))):
        opinions = [one[item] for one in by_judge.values()]
        faults = (
            fault for fault in FAULTS if median(fault in one.faults for one in opinions) > 0.5
        )
        intact = median(one.intact for one in opinions) > 0.5
        another = median(one.another for one in opinions) > 0.5
        result.append(Judgement(intact, another, frozenset(faults)))
    return result


def kappa(
    first: Sequence[bool] | NDArray[np.bool_], second: Sequence[bool] | NDArray[np.bool_]
) -> float:
    """Return Cohen's kappa: 1 is full agreement, 0 is what chance would give."""
    one, other = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    agreed = float((one == other).mean())
    chance = float(one.mean() * other.mean() + (1 - one.mean()) * (1 - other.mean()))
    return 1.0 if chance == 1 else (agreed - chance) / (1 - chance)
