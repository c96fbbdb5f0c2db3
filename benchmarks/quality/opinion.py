"""The verdicts on a variation together, how well they agree with the judges, and bars for them."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quality.judged import Judgement, judgements, kappa, majority, variations
from quality.photos import Bytes
from quality.verdict import auc, cross_validate, fitted, measure

__all__ = [
    "ANSWERS",
    "BARS",
    "HIGH",
    "Agreement",
    "Bar",
    "Opinion",
    "Statement",
    "agreement",
    "judges_kappa",
    "mean_kappa_of_judges",
    "opinion",
]

Statement = Literal["intact", "another", "accepted", "edge_cuts"]

HIGH = 0.8
"""The strength of the second row of bars."""

LEAST_AGREEMENT = 0.8
"""A statement is used for a bar only if the area under its ROC curve and its kappa reach this."""


@dataclass(frozen=True)
class Opinion:
    """What judges would say of one variation, as far as the measures can tell."""

    intact: bool
    another: bool
    edge_cuts: bool

    @property
    def accepted(self) -> bool:
        """Whether it is intact and another picture."""
        return self.intact and self.another


@dataclass(frozen=True)
class Agreement:
    """How well a statement about unseen photos agrees with what most judges say."""

    auc: float
    """The area under the ROC curve: how often a yes scores higher than a no."""
    kappa: float
    hits: float
    """The share of the judges' yes that it finds."""
    false_alarms: float
    """The share of the judges' no that it calls yes."""

    @property
    def is_enough(self) -> bool:
        """Whether a bar may rest on it."""
        return min(self.auc, self.kappa) >= LEAST_AGREEMENT

    def correct(self, share: float) -> float:
        """Return the share that judges would give, from the share that was estimated.

        Both kinds of mistakes are taken out, as in Rogan and Gladen 1978, "Estimating prevalence
        from the results of a screening test".
        """
        return float(np.clip((share - self.false_alarms) / (self.hits - self.false_alarms), 0, 1))


@dataclass(frozen=True)
class Bar:
    """The least or the most that a share of variations may be."""

    at_default: bool
    """Whether it holds at the default strength. If not, it holds at `HIGH`."""
    statement: Statement
    least: float = 0.0
    most: float = 1.0

    @property
    def limit(self) -> str:
        """The limit in words."""
        return f"at least {self.least:.0%}" if self.least else f"at most {self.most:.0%}"

    def check(self, share: float, strength: float) -> list[str]:
        """Return a line for the report if a share misses this bar."""
        if self.least <= share <= self.most:
            return []
        name = self.statement.replace("_", " ")
        return [f"{strength}: {name} is {share:.0%}, not {self.limit}"]


BARS = (
    Bar(at_default=True, statement="intact", least=0.95),
    Bar(at_default=True, statement="another", least=0.7),
    Bar(at_default=True, statement="accepted", least=0.7),
    Bar(at_default=True, statement="edge_cuts", most=0.05),
    Bar(at_default=False, statement="intact", least=0.75),
)

ANSWERS: dict[Statement, Callable[[Judgement], bool]] = {
    "intact": lambda judgement: judgement.intact,
    "another": lambda judgement: judgement.another,
    "accepted": lambda judgement: judgement.intact and judgement.another,
    "edge_cuts": lambda judgement: "x" in judgement.faults,
}


def opinion(source: Bytes, variation: Bytes, *, without: str | None = None) -> Opinion:
    """Estimate what judges would say.

    Args:
        source: uint8 (256, 256, 3).
        variation: Of the same shape.
        without: A photo whose judged variations are not used for the estimate.
    """
    measures = measure(source, variation)
    says = {name: verdict.score(measures) > 0 for name, verdict in fitted(without).items()}
    return Opinion(
        intact=not says["damaged"] and not says["edge cuts"],
        another=says["another picture"],
        edge_cuts=says["edge cuts"],
    )


@cache
def agreement(statement: Statement, made: str = "") -> Agreement:
    """Compare a statement with the judgements, each photo by a fit to all others.

    Args:
        statement: What is compared.
        made: Only variations whose description of what made them starts with this.
    """
    chosen = np.array([variation.made.startswith(made) for variation in variations()])
    scores = _scores(statement)[chosen]
    answers = np.array([ANSWERS[statement](one) for one in majority(judgements())])[chosen]
    says = scores > 0
    return Agreement(
        auc=auc(scores, answers),
        kappa=kappa(says, answers),
        hits=float(says[answers].mean()),
        false_alarms=float(says[~answers].mean()),
    )


def judges_kappa(one: str, other: str, statement: Statement) -> float:
    """Return Cohen's kappa of two judges."""
    first, second = judgements()[one], judgements()[other]
    answer = ANSWERS[statement]
    return kappa([answer(first[k]) for k in first], [answer(second[k]) for k in first])


@cache
def mean_kappa_of_judges(statement: Statement) -> float:
    """Return the mean kappa of two judges who worked independently.

    Judges a, b and c are one who looked three times, so a alone stands for them.
    """
    independent = [judge for judge in judgements() if judge not in ("b", "c")]
    pairs = itertools.combinations(independent, 2)
    return float(np.mean([judges_kappa(one, other, statement) for one, other in pairs]))


def _scores(statement: Statement) -> NDArray[np.float64]:
    damaged, edge_cuts, another = (
        cross_validate(question)[0] for question in ("damaged", "edge cuts", "another picture")
    )
    intact = -np.maximum(damaged, edge_cuts)
    return {
        "intact": intact,
        "another": another,
        "accepted": np.minimum(intact, another),
        "edge_cuts": edge_cuts,
    }[statement]
