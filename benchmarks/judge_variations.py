"""Lets you judge the variations that the measures of engine_quality.py are compared with.

    python benchmarks/judge_variations.py sheets FOLDER --judge NAME --seed 7
    python benchmarks/judge_variations.py record FOLDER --judge NAME --seed 7
    python benchmarks/judge_variations.py agreement
    python benchmarks/judge_variations.py measure

The first command writes sheets of numbered pairs, an empty form, and instructions for how to fill
it in. It shows what this judge has not judged yet, in an order that the seed shuffles. The second
command adds a form to the judgements. The third prints how well the judges agree with each other,
and the measures with the judges. The fourth measures the judged variations again, which is
necessary after a change to the measures. Judge without looking at other judgements, and each time
in another order.
"""

import argparse
import csv
import itertools
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import get_args

import numpy as np

from quality.judged import FAULTS, JUDGEMENTS, Judgement, judgements, majority, variations
from quality.opinion import ANSWERS, Statement, agreement, judges_kappa, mean_kappa_of_judges
from quality.photos import source
from quality.sheets import read_form, write_sheets
from quality.verdict import (
    QUESTIONS,
    Measures,
    auc,
    measure,
    store,
    stored_measures,
)

KINDS = ("bending and patches", "crop", "composing prototype")
"""How the descriptions of what made the variations start."""


def main() -> int:
    """Run the command that the arguments name."""
    options = _options()
    if options.command == "sheets":
        chosen = (variations()[item] for item in shuffled(options.judge, options.seed))
        write_sheets(options.folder, [(source(one.photo), one.pixels) for one in chosen])
    elif options.command == "record":
        record(options.folder, options.judge, options.seed)
    elif options.command == "measure":
        store([measure(source(one.photo), one.pixels) for one in variations()])
    else:
        print_agreement()
        print_measures()
    return 0


def record(folder: Path, judge: str, seed: int) -> None:
    """Add the judgements of a form that was filled in for the same judge and seed.

    Raises:
        ValueError: If a row is missing or not filled in properly.
    """
    order = shuffled(judge, seed)
    rows = []
    for item, opinion in zip(order, read_form(folder, len(order)), strict=True):
        faults = "".join(letter for letter in FAULTS if letter in opinion.faults)
        rows.append((judge, item, int(opinion.intact), int(opinion.another), faults))
    with JUDGEMENTS.open("a", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(sorted(rows))


def print_agreement() -> None:
    """Print how often judges gave each answer, and Cohen's kappa of each two of them."""
    by_judge = judgements()
    columns = " | ".join(get_args(Statement))
    print(f"| judge | {columns} |\n|---|---|---|---|---|")
    for judge, opinions in by_judge.items():
        print_counts(judge, list(opinions.values()))
    print_counts("most", majority(by_judge))
    print(f"\nKappa of each two judges:\n\n| judges | {columns} |\n|---|---|---|---|---|")
    for one, other in itertools.combinations(by_judge, 2):
        kappas = (judges_kappa(one, other, statement) for statement in get_args(Statement))
        print(f"| {one}, {other} | {' | '.join(f'{value:.2f}' for value in kappas)} |")


def print_counts(judge: str, opinions: Sequence[Judgement]) -> None:
    """Print a row with how often each statement was said."""
    counts = (sum(ANSWERS[name](one) for one in opinions) for name in get_args(Statement))
    print(f"| {judge} | {' | '.join(map(str, counts))} |")


def print_measures() -> None:
    """Print how well measures and statements agree with what most judges say."""
    most = majority(judgements())
    answers = {
        name: [one.answer(judgement) for judgement in most] for name, one in QUESTIONS.items()
    }
    answers["spoiled"] = [not opinion.intact for opinion in most]
    print("\nArea under the ROC curve of each measure alone:\n")
    print(f"| measure | {' | '.join(answers)} |\n|---|{'---|' * len(answers)}")
    for field in fields(Measures):
        values = np.array([getattr(one, field.name) for one in stored_measures()])
        areas = (auc(values, np.array(column)) for column in answers.values())
        print(f"| {field.name} | {' | '.join(f'{area:.2f}' for area in areas)} |")
    print("\nStatements, each on the variations of a photo from a fit to those of all others:\n")
    print("| statement | area under the curve | kappa | kappa of two judges | hits ", end="")
    print("| false alarms | used for bars |\n|---|---|---|---|---|---|---|")
    for statement in get_args(Statement):
        one, bound = agreement(statement), mean_kappa_of_judges(statement)
        rates = f"{one.kappa:.2f} | {bound:.2f} | {one.hits:.0%} | {one.false_alarms:.0%}"
        print(f"| {statement} | {one.auc:.2f} | {rates} | {'yes' if one.is_enough else 'no'} |")
    print("\nThe kappa of two judges shows how clear the question is.")
    print("\nThe same within each kind of variation, as area under the curve and kappa:\n")
    print("| made by | intact | another |\n|---|---|---|")
    for kind in KINDS:
        intact, another = agreement("intact", kind), agreement("another", kind)
        print(f"| {kind} | {intact.auc:.2f}, {intact.kappa:.2f} ", end="")
        print(f"| {another.auc:.2f}, {another.kappa:.2f} |")


def shuffled(judge: str, seed: int) -> list[int]:
    """Return what a judge has not judged yet, in the order of a seed."""
    judged = judgements().get(judge, {})
    order = np.random.default_rng(seed).permutation(len(variations()))
    return [int(item) for item in order if int(item) not in judged]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("sheets", "record"):
        command = commands.add_parser(name)
        command.add_argument("folder", type=Path)
        command.add_argument("--judge", required=True)
        command.add_argument("--seed", type=int, required=True)
    commands.add_parser("agreement")
    commands.add_parser("measure")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
