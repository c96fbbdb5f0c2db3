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


class Run:
    """A run of the gate: its steps, their times, and how they and their tests ended.

    Args:
        selected: The names of the steps, at least one.
    """

    def __init__(self, selected: list[str]) -> None:
        self.failed: list[str] = []
        """The steps that failed so far."""
        self._selected = selected
        self._current = selected[0]
        self._is_interrupted = False
        self._times: list[str] = []
        self._counts: Counter[str] = Counter()
        self._start = time.monotonic()

    def run_steps(self) -> None:
        """Run the steps in order. A step that fails does not stop the others.

        Raises:
            KeyboardInterrupt: On SIGINT.
            SystemExit: On SIGTERM or SIGHUP.
        """
        try:
            for name in self._selected:
                self._current = name
                self._run_step(name)
        except BaseException:
            self._is_interrupted = True
            raise

    def _run_step(self, name: str) -> None:
        outcomes.clear()
        skips.clear()
        start = time.monotonic()
        try:
            if not passes(name):
                self.failed.append(name)
        finally:
            self._times.append(f"{time.monotonic() - start:6.0f} s  {name}")
            self._count_outcomes(name)
        if name in NOTES_SKIPS:
            for reason in skips:
                if name not in MAIN_RUN or not re.search(OTHER_STEPS, reason, re.I):
                    note_unchecked(reason)

    def _count_outcomes(self, name: str) -> None:
        """Add the outcomes of a step's tests.

        Other steps run the same tests again, so only `tests` and `slow` count passes. Failures
        count in every step.
        """
        if set(MAIN_RUN).intersection(self._selected) and name not in MAIN_RUN:
            del outcomes["passed"], outcomes["skipped"]
        self._counts.update(outcomes)

    def print_summary(self) -> None:
        """Print the time of each step, what could not be checked, and what failed."""
        print("\n== summary", *self._times, sep="\n")
        for gap in gaps:
            print("NOT CHECKED HERE:", gap)
        conclusions = [f"INTERRUPTED in {self._current}"] if self._is_interrupted else []
        if self.failed:
            conclusions.append(f"FAILED: {', '.join(self.failed)}")
        print(", ".join(conclusions) or f"All checks passed: {', '.join(self._selected)}")
        totals = [f"{number} {outcome}" for outcome, number in self._counts.items()]
        totals = totals or ["no tests ran"]
        if self.failed:
            totals.append(f"{len(self.failed)} of {len(self._selected)} steps failed")
        if self._is_interrupted:
            totals.append(f"interrupted in {self._current}")
        seconds = time.monotonic() - self._start
        print(f"===== {', '.join(totals)} in {seconds:.2f}s =====", flush=True)


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
    run = Run([name for name in STEPS if not options.steps or name in options.steps])
    try:
        run.run_steps()
    finally:
        shutil.rmtree(work(), ignore_errors=True)
        run.print_summary()
    return 1 if run.failed else 0
