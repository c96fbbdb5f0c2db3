"""What judges would say of a variation, estimated from measures of it.

Each verdict is a logistic regression on a few measures, fitted to the judged variations. Its
threshold is the one at which it says yes as often as the judges do. What the documentation reports
comes from leaving out one photo at a time: the verdicts on a photo's variations come from a fit to
those of all other photos.
"""

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from functools import cache

import numpy as np
from numpy.typing import NDArray

from quality.bends import Bend, bends
from quality.crop import crop
from quality.difference import difference
from quality.judged import FOLDER, Judgement, judgements, majority, variations
from quality.photos import Bytes
from quality.pieces import pieces
from quality.registration import register
from quality.text import text

__all__ = [
    "QUESTIONS",
    "Measures",
    "Question",
    "Verdict",
    "auc",
    "cross_validate",
    "fitted",
    "measure",
    "store",
    "stored_measures",
]

MEASURES = FOLDER / "measures.csv"
"""The measures of the judged variations, in order."""

_RIDGE = 3.0
"""How strongly weights are pulled toward 0."""

_LONG, _VERY_LONG = 40, 50
"""Lines this long, in pixels, count for the largest deviation and the largest turn."""

_KNOWN = 0.6
"""The share of a line that must be found in the variation before it counts."""

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Measures:
    """All measures of one variation. 0 is the same as the source, except for `unique_share`."""

    bend: float
    """How far straight lines and ellipses are bent, as mean by length, in pixels."""
    deviation: float
    """The largest such distance of a long line, with its turn, in pixels."""
    turn: float
    """The largest turn of a long line within the frame, in degrees."""
    steps: float
    """How jagged lines are, as mean by length, in pixels."""
    unexplained_share: float
    torn_share: float
    doubled_share: float
    missing_share: float
    unique_share: float
    cut_length: float
    lost_share: float
    mirrored_text: float
    garbled_text: float
    framing: float
    side: float
    light: float
    arrangement: float


@dataclass(frozen=True)
class Question:
    """Something that judges were asked, and the measures that answer it.

    `answer` is what a judgement says.
    """

    measures: tuple[str, ...]
    answer: Callable[[Judgement], bool]


QUESTIONS = {
    "damaged": Question(
        ("arrangement", "unique_share", "bend", "deviation"),
        lambda judgement: bool(judgement.faults - {"x"}),
    ),
    "edge cuts": Question(("cut_length", "lost_share"), lambda judgement: "x" in judgement.faults),
    "another picture": Question(
        ("framing", "side", "light", "arrangement"), lambda judgement: judgement.another
    ),
}

_FLOORS = {
    "bend": 0.1,
    "deviation": 0.3,
    "cut_length": 0.03,
    "lost_share": 0.05,
    "framing": 0.02,
    "light": 0.02,
    "arrangement": 0.005,
}
"""Added before the logarithm: a measure far below this does not matter. Others have none."""


def measure(source: Bytes, variation: Bytes) -> Measures:
    """Measure a variation of a source, both uint8 (256, 256, 3)."""
    registration = register(source, variation)
    torn = pieces(registration)
    edge = crop(registration)
    words = text(registration)
    change = difference(registration)
    return Measures(
        *_summary(bends(registration)),
        *astuple(torn),
        *astuple(edge),
        *astuple(words),
        *astuple(change),
    )


@dataclass(frozen=True)
class Verdict:
    """A fitted logistic regression with a threshold."""

    question: Question
    center: Doubles
    scale: Doubles
    weights: Doubles
    threshold: float

    def score(self, measures: Measures) -> float:
        """Return the log odds above the threshold: positive means yes."""
        row = (_features(self.question, [measures])[0] - self.center) / self.scale
        return float(row @ self.weights[:-1] + self.weights[-1]) - self.threshold


@cache
def stored_measures() -> tuple[Measures, ...]:
    """Return the measures of the judged variations."""
    with MEASURES.open(encoding="utf-8", newline="") as file:
        return tuple(
            Measures(*(float(row[field.name]) for field in fields(Measures)))
            for row in csv.DictReader(file)
        )


def store(measured: Sequence[Measures]) -> None:
    """Write the measures of the judged variations."""
    with MEASURES.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Measures)], lineterminator="\n")
        writer.writeheader()
        for one in measured:
            writer.writerow({name: f"{value:.5g}" for name, value in asdict(one).items()})


@cache
def fitted(without: str | None = None) -> dict[str, Verdict]:
    """Return the verdict on each question, fitted to the judged variations.

    Args:
        without: A photo whose variations are left out.
    """
    measured, most = stored_measures(), majority(judgements())
    rest = [k for k, variation in enumerate(variations()) if variation.photo != without]
    return {
        name: _fit(
            question,
            [measured[k] for k in rest],
            np.array([question.answer(most[k]) for k in rest]),
        )
        for name, question in QUESTIONS.items()
    }


def cross_validate(question: str) -> tuple[Doubles, NDArray[np.bool_]]:
    """Return scores from fits to the variations of all other photos, and what most judges say."""
    pairs = zip(stored_measures(), variations(), strict=True)
    scores = [fitted(variation.photo)[question].score(measures) for measures, variation in pairs]
    answers = [QUESTIONS[question].answer(one) for one in majority(judgements())]
    return np.array(scores), np.array(answers)


def auc(scores: Doubles, answers: NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve: how often a yes scores higher than a no."""
    yes, no = scores[answers], scores[~answers]
    higher = (yes[:, None] > no[None, :]).mean()
    return float(higher + (yes[:, None] == no[None, :]).mean() / 2)


def _features(question: Question, measured: Sequence[Measures]) -> Doubles:
    columns = []
    for name in question.measures:
        values = np.array([getattr(one, name) for one in measured], dtype=float)
        columns.append(np.log(values + _FLOORS[name]) if name in _FLOORS else values)
    return np.stack(columns, axis=1)


def _fit(question: Question, measured: Sequence[Measures], answers: NDArray[np.bool_]) -> Verdict:
    rows = _features(question, measured)
    center, scale = rows.mean(axis=0), rows.std(axis=0) + 1e-9
    rows = np.hstack([(rows - center) / scale, np.ones((len(rows), 1))])
    weights = np.zeros(rows.shape[1])
    pull = np.diag([_RIDGE] * (rows.shape[1] - 1) + [1e-6])
    for _ in range(30):
        chance = 1 / (1 + np.exp(-rows @ weights))
        slope = rows.T @ (chance - answers) + pull @ weights
        curve = (rows * (chance * (1 - chance))[:, None]).T @ rows + pull
        weights -= np.linalg.solve(curve, slope)
    scores = np.sort(rows @ weights)
    # Between the lowest score of as many as judges call yes, and the next.
    index = len(scores) - int(answers.sum())
    threshold = float(scores[max(index - 1, 0) : index + 1].mean())
    return Verdict(question, center, scale, weights, threshold)


def _summary(every: Sequence[Bend]) -> tuple[float, float, float, float]:
    """Return bend, deviation, turn and steps."""
    kept = [one for one in every if one.found_share > _KNOWN]
    length = max(sum(one.size for one in kept), 60)
    bend = sum(one.size * one.bend for one in kept) / length
    steps = sum(one.size * one.steps for one in kept) / length
    deviations = [
        math.hypot(one.bend, one.size * math.tan(math.radians(min(one.turn, 30))) / math.sqrt(12))
        for one in kept
        if one.size >= _LONG
    ]
    turns = [one.turn for one in kept if one.size >= _VERY_LONG]
    return bend, max(deviations, default=0.0), max(turns, default=0.0), steps
