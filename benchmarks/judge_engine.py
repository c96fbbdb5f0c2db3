"""Lets you judge variations of your photos by the local engine, and prints the shares.

    python benchmarks/judge_engine.py sheets FOLDER PHOTO PHOTO ... --judge ann --judge bob
    python benchmarks/judge_engine.py results FOLDER

The first command makes variations of each photo: two at the default strength and one at 0.8, with
other seeds for each photo. For each judge, it writes a folder with sheets, an empty form and
instructions, each in another order. Let the judges fill in their forms, each without looking at
those of others.

The second command prints what most judges say: the shares that are intact, another picture, both,
and cut by the edge. It also prints how well the judges agree with each other, and how well the
measures of engine_quality.py agree with them. It returns 1 if a bar is missed. Use photos that the
engine was not tuned with.
"""

import argparse
import csv
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args
from zlib import crc32

import numpy as np

from quality.engine import DEFAULT_STRENGTH, vary
from quality.judged import Judgement, kappa, majority
from quality.opinion import ANSWERS, BARS, HIGH, Statement, opinion
from quality.photos import Bytes, load
from quality.sheets import read_form, write_sheets

COUNTS = {DEFAULT_STRENGTH: 2, HIGH: 1}
"""How many variations of each photo to make at each strength."""

_LIST, _JUDGE = "variations.csv", "judge-"


@dataclass(frozen=True)
class Pair:
    """A variation and where it comes from."""

    photo: str
    strength: float
    seed: int
    source: Bytes
    variation: Bytes


def main() -> int:
    """Run the command that the arguments name. Return 1 if a bar is missed."""
    options = _options()
    if options.command == "sheets":
        write(options.folder, options.judges, options.photos)
        return 0
    misses = print_results(options.folder)
    print(f"\n{len(misses)} bars missed{':' if misses else '.'}", *misses, sep="\n- ")
    return 1 if misses else 0


def write(folder: Path, judges: Sequence[str], photos: Sequence[Path]) -> None:
    """Make the variations, and write them and a folder for each judge."""
    pairs = []
    for index, photo in enumerate(photos):
        source = load(photo)
        for strength, count in COUNTS.items():
            first = index * count
            for number, variation in enumerate(vary(source, strength, first, count)):
                pairs.append(Pair(photo.stem, strength, first + number, source, variation))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LIST).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("photo", "strength", "seed"))
        writer.writerows((pair.photo, pair.strength, pair.seed) for pair in pairs)
    np.savez_compressed(
        folder / "pixels.npz",
        sources=np.stack([pair.source for pair in pairs]),
        variations=np.stack([pair.variation for pair in pairs]),
    )
    for judge in judges:
        chosen = (pairs[item] for item in order(judge, len(pairs)))
        write_sheets(folder / f"{_JUDGE}{judge}", [(one.source, one.variation) for one in chosen])


def order(judge: str, count: int) -> list[int]:
    """Return the order in which a judge sees the variations."""
    shuffled = np.random.default_rng(crc32(judge.encode())).permutation(count)
    return [int(item) for item in shuffled]


def read(folder: Path) -> tuple[list[Pair], dict[str, dict[int, Judgement]]]:
    """Return the variations, and each judge's judgements by the number of the variation."""
    with (folder / _LIST).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with np.load(folder / "pixels.npz") as pixels:
        pictures = zip(rows, pixels["sources"], pixels["variations"], strict=True)
        pairs = [
            Pair(row["photo"], float(row["strength"]), int(row["seed"]), source, variation)
            for row, source, variation in pictures
        ]
    by_judge = {}
    for path in sorted(folder.glob(f"{_JUDGE}*")):
        judge = path.name.removeprefix(_JUDGE)
        form = read_form(path, len(pairs))
        by_judge[judge] = dict(zip(order(judge, len(pairs)), form, strict=True))
    return pairs, by_judge


def print_results(folder: Path) -> list[str]:
    """Print shares and agreement. Return the bars that are missed."""
    pairs, by_judge = read(folder)
    every = range(len(pairs))
    opinions = {judge: [by_judge[judge][item] for item in every] for judge in by_judge}
    opinions["most"] = majority(by_judge)
    print("| strength | judge | variations | intact | another | accepted | edge cuts |")
    print("|---|---|---|---|---|---|---|")
    misses = []
    for strength, judge in itertools.product(COUNTS, opinions):
        chosen = [opinions[judge][item] for item in every if pairs[item].strength == strength]
        shares = {
            statement: float(np.mean([ANSWERS[statement](one) for one in chosen]))
            for statement in get_args(Statement)
        }
        columns = " | ".join(f"{share:.0%}" for share in shares.values())
        print(f"| {strength} | {judge} | {len(chosen)} | {columns} |")
        if judge == "most":
            for bar in BARS:
                if bar.at_default == (strength == DEFAULT_STRENGTH):
                    misses += bar.check(shares[bar.statement], strength)
    print_agreement(pairs, opinions)
    print("\nWhat most judges call spoiled, or the same picture:\n")
    for pair, one in zip(pairs, opinions["most"], strict=True):
        if not (one.intact and one.another):
            faults = ", ".join(sorted(one.faults)) or "intact"
            another = "another picture" if one.another else "the same picture"
            print(f"- {pair.photo} at {pair.strength}, seed {pair.seed}: {faults}; {another}")
    return misses


def print_agreement(pairs: Sequence[Pair], opinions: dict[str, list[Judgement]]) -> None:
    """Print the kappa of each two judges, and that of the measures with most of them."""
    judges = [judge for judge in opinions if judge != "most"]
    print(f"\n| who | {' | '.join(get_args(Statement))} |\n|---|---|---|---|---|")
    for one, other in itertools.combinations(judges, 2):
        print_kappas(f"{one}, {other}", opinions[one], opinions[other])
    measured = [opinion(pair.source, pair.variation) for pair in pairs]
    says = [Judgement(m.intact, m.another, frozenset("x" * m.edge_cuts)) for m in measured]
    print_kappas("measures, most", says, opinions["most"])


def print_kappas(who: str, first: Sequence[Judgement], second: Sequence[Judgement]) -> None:
    """Print a row with Cohen's kappa of each statement."""
    columns = (
        kappa([ANSWERS[name](a) for a in first], [ANSWERS[name](b) for b in second])
        for name in get_args(Statement)
    )
    print(f"| {who} | {' | '.join(f'{value:.2f}' for value in columns)} |", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    sheets = commands.add_parser("sheets")
    sheets.add_argument("folder", type=Path)
    sheets.add_argument("photos", type=Path, nargs="+")
    sheets.add_argument("--judge", dest="judges", action="append", required=True)
    results = commands.add_parser("results")
    results.add_argument("folder", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
