"""Tests of the judgements and of the verdicts that are fitted to them."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from quality.judged import FAULTS, judgements, kappa, majority, variations
from quality.opinion import BARS, Agreement, Statement, agreement, mean_kappa_of_judges
from quality.photos import source
from quality.verdict import auc, measure, stored_measures

ROOT = Path(__file__).parents[2]


def test_kappa_and_area_of_known_answers() -> None:
    """Kappa is 1 for equal answers and 0 for chance; the area is the share of ordered pairs."""
    assert kappa([True, False, True], [True, False, True]) == 1
    assert kappa([True, True, False, False], [True, False, True, False]) == 0
    answers = np.array([False, True, False, True])
    assert auc(np.array([0.0, 1, 2, 3]), answers) == 0.75
    assert auc(np.array([1.0, 1, 1, 1]), answers) == 0.5


def test_every_variation_has_three_judgements() -> None:
    """At least 120 variations are judged by at least three judges, and both answers are common."""
    by_judge = judgements()
    assert len(by_judge) >= 3
    assert len(variations()) >= 120
    for opinions in by_judge.values():
        assert sorted(opinions) == list(range(len(variations())))
        assert all(one.faults <= set(FAULTS) for one in opinions.values())
        assert all(one.intact != bool(one.faults) for one in opinions.values())
    most = majority(by_judge)
    for answers in ([one.intact for one in most], [one.another for one in most]):
        assert 0.25 < np.mean(answers) < 0.75


def test_bars_rest_on_agreement() -> None:
    """Of unseen photos, "another picture" agrees well enough for a bar, and all rank well."""
    assert agreement("another").is_enough
    for bar in BARS:
        assert agreement(bar.statement).auc > 0.75, bar


def test_the_documented_agreement_is_current() -> None:
    """docs/performance.md shows the agreement that the judgements and measures give."""
    names: dict[Statement, str] = {
        "another": "another picture",
        "intact": "intact",
        "accepted": "both",
        "edge_cuts": "the edge cuts",
    }
    page = (ROOT / "docs" / "performance.md").read_text("utf-8")
    for statement, name in names.items():
        one = agreement(statement)
        kappas = f"{one.kappa:.2f} | {mean_kappa_of_judges(statement):.2f}"
        rates = f"{one.auc:.2f} | {kappas} | {one.hits:.0%} | {one.false_alarms:.0%}"
        assert f"| {name} | {rates} | {'yes' if one.is_enough else 'no'} |" in page


def test_mistakes_are_taken_out_of_a_share() -> None:
    """A share is corrected by the rates of hits and false alarms, and stays between 0 and 1."""
    known = Agreement(auc=0.9, kappa=0.6, hits=0.8, false_alarms=0.1)
    assert known.correct(0.8 * 0.7 + 0.1 * 0.3) == pytest.approx(0.7)
    assert known.correct(0.02) == 0
    assert not known.is_enough


def test_a_bar_names_what_is_missed() -> None:
    """A share outside a bar is reported with the bar, and one inside is not."""
    bar = BARS[0]
    assert bar.check(0.96, 0.5) == []
    assert bar.check(0.9, 0.5) == ["0.5: intact is 90%, not at least 95%"]


@pytest.mark.slow
def test_the_stored_measures_are_current() -> None:
    """Measuring a judged variation again gives the stored measures."""
    index = next(k for k, one in enumerate(variations()) if one.photo == "house (drawn)")
    judged = variations()[index]
    again = dataclasses.asdict(measure(source(judged.photo), judged.pixels))
    stored = dataclasses.asdict(stored_measures()[index])
    assert again == pytest.approx(stored, rel=0.1, abs=0.02)


@pytest.mark.slow
def test_the_agreement_is_printed() -> None:
    """The command prints the agreement of judges, measures and verdicts."""
    script = ROOT / "benchmarks" / "judge_variations.py"
    command = [sys.executable, str(script), "agreement"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "| judges | intact | another | accepted | edge_cuts |" in printed
    assert "| statement | area under the curve | kappa | kappa of two judges |" in printed
