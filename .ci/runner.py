"""Runs named steps, and prints a summary of their results."""

import argparse
import os
import re
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from types import FrameType

from environments import OTHER_STEPS, gaps, note_unchecked, outcomes, skips, work

STEPS: dict[str, Callable[[], None]] = {}
MAIN_RUN = ("tests", "slow")
"""The steps with all tests, of which some need what only other steps install."""
NOTES_SKIPS = (*MAIN_RUN, "browser", "interfaces", "diffusers", "ray", "s3", "deploy")
"""The steps whose skipped tests the summary lists as not checked."""


def step(check: Callable[[], None]) -> Callable[[], None]:
    """Add a step with its function's name. The docstring is its line in `--list`."""
    STEPS[check.__name__.replace("_", "-")] = check
    return check


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog=".ci/run", description="Check the project.")
    parser.add_argument("steps", nargs="*", metavar="STEP", help="a step to run (default: all)")
    parser.add_argument("--list", action="store_true", help="list the steps and exit")
    options = parser.parse_args()
    if unknown := [name for name in options.steps if name not in STEPS]:
        parser.error(f"unknown step {unknown[0]!r}; --list shows all steps")
    return options


def handle_signals() -> None:
    """Turn signals into exceptions, so that the gate removes its files before it exits."""

    def leave(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        # Background jobs and nohup ignore these signals, and children inherit that. Tests send
        # them, so install a handler, which children do not inherit.
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
        elif number != signal.SIGINT:
            signal.signal(number, leave)


def passes(name: str) -> bool:
    """Run a step, print why if it fails, and return whether it passed."""
    print(f"\n== {name}: {STEPS[name].__doc__}", flush=True)
    try:
        STEPS[name]()
    except Exception:
        print(f"\nThe step {name} failed:", flush=True)
        traceback.print_exc(file=sys.stdout)
        return False
    return True


def main() -> int:
    """Run the steps in the order of `--list`, and return 1 if one of them failed.

    Raises:
        KeyboardInterrupt: On SIGINT. The summary names the interrupted step.
        SystemExit: On SIGTERM or SIGHUP, or if the command line is wrong.
    """
    options = parse_options()
    if options.list:
        for name, check in STEPS.items():
            print(f"{name:12} {check.__doc__}")
        return 0
    handle_signals()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTEST_ADDOPTS"] = "-rs"
    # The first steps create the environment that later ones use, and `install` removes it.
    selected = [name for name in STEPS if not options.steps or name in options.steps]
    counts: Counter[str] = Counter()
    times, failed = [], []
    gate_start = time.monotonic()
    name, conclusion = selected[0], f"All checks passed: {', '.join(selected)}"
    try:
        for name in selected:
            outcomes.clear()
            skips.clear()
            start = time.monotonic()
            try:
                if not passes(name):
                    failed.append(name)
                    conclusion = f"FAILED: {', '.join(failed)}"
            finally:
                times.append(f"{time.monotonic() - start:6.0f} s  {name}")
                # Other steps run the same tests again, so only `tests` and `slow` count passes.
                # Failures count in every step.
                if set(MAIN_RUN).intersection(selected) and name not in MAIN_RUN:
                    del outcomes["passed"], outcomes["skipped"]
                counts.update(outcomes)
            if name in NOTES_SKIPS:
                for reason in skips:
                    if name not in MAIN_RUN or not re.search(OTHER_STEPS, reason, re.I):
                        note_unchecked(reason)
    except BaseException:
        conclusion = ", ".join(
            [f"INTERRUPTED in {name}", *([f"FAILED: {', '.join(failed)}"] if failed else [])]
        )
        raise
    finally:
        shutil.rmtree(work(), ignore_errors=True)
        print("\n== summary", *times, sep="\n")
        for gap in gaps:
            print("NOT CHECKED HERE:", gap)
        print(conclusion)
        totals = [f"{number} {outcome}" for outcome, number in counts.items()] or ["no tests ran"]
        if failed:
            totals.append(f"{len(failed)} of {len(selected)} steps failed")
        if conclusion.startswith("INTERRUPTED"):
            totals.append(f"interrupted in {name}")
        print(
            f"===== {', '.join(totals)} in {time.monotonic() - gate_start:.2f}s =====", flush=True
        )
    return 1 if failed else 0
