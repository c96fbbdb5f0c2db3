"""The command line: `image-variation create`, `batch`, `serve` and `engines`.

Results go to standard output; notes, progress and errors to standard error. Exit codes: 0 done,
2 bad input or usage, 1 an engine's or an output's failure, 3 a batch in which some pictures failed.
Interrupting the program gives 130.
"""

import argparse
import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from inspect import getdoc
from typing import Any, NoReturn

from langchain_image_variation import __version__
from langchain_image_variation.cli.batch import add_batch
from langchain_image_variation.cli.create import add_create
from langchain_image_variation.cli.serve import add_serve
from langchain_image_variation.engines.loading import engine_names, load_engine_class
from langchain_image_variation.exceptions import ImageVariationError, InvalidRequestError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: The arguments after the program's name; by default those of the process.

    Raises:
        KeyboardInterrupt: If the user interrupts. No file is half-written then.
    """
    # Pillow's warning about a broken file would stand beside our own line about it.
    warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
    _mend_streams()
    try:
        arguments = _parser().parse_args(argv)
        run: Callable[[argparse.Namespace], int | None] = arguments.run
        code = run(arguments)
        sys.stdout.flush()
        return code or 0
    except SystemExit as stop:
        return int(stop.code or 0)
    except ImageVariationError as error:
        print(f"image-variation: {error}", file=sys.stderr)
        return 2 if isinstance(error, InvalidRequestError) else 1
    except OSError as error:
        # Only standard output is written without an error of our own. Without this, Python tries
        # to write the rest again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            # Whoever reads our output has enough.
            return 0
        print(f"image-variation: cannot write the output: {error.strerror}.", file=sys.stderr)
        return 1


def _mend_streams() -> None:
    """Make printing safe when a stream is closed or cannot show every character."""
    # A file that is opened must not get the number of one that is closed: what is meant for
    # standard error would be written into it.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line; argparse would print the whole usage first."""
        line = " ".join(message.split())
        line = line if len(line) <= 200 else line[:200] + "..."
        self.exit(2, f"{self.prog}: {line}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="image-variation",
        description="Make variations of a picture, on this machine, without a key.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_create(commands.add_parser("create", help="make variations of a picture"))
    add_batch(commands.add_parser("batch", help="make variations of many pictures"))
    add_serve(commands.add_parser("serve", help="serve POST /v1/images/variations"))
    engines = commands.add_parser("engines", help="list the engines and whether they are usable")
    engines.set_defaults(run=_engines)
    return parser


def _engines(arguments: argparse.Namespace) -> None:
    names = engine_names()
    width = max(map(len, names), default=0)
    for name in names:
        try:
            about = (getdoc(load_engine_class(name)) or "").partition("\n")[0]
            print(f"{name:{width}}  usable      {about}")
        except ImageVariationError as error:
            print(f"{name:{width}}  not usable  {error}")
