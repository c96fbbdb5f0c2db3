"""The command line: `image-variation create`, `batch`, `serve`, `mcp`, `engines` and more.

Results go to standard output. Notes, progress and errors go to standard error.

Exit codes: 0 success; 1 an engine failed or a result could not be written; 2 invalid input or
usage; 3 some of several images, or some variations of an image, failed; 130 the user interrupted
the program.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from langchain_image_variation import __version__
from langchain_image_variation.cli.batch import add_batch
from langchain_image_variation.cli.completion import add_completion
from langchain_image_variation.cli.create import add_create
from langchain_image_variation.cli.engines import add_engines
from langchain_image_variation.cli.exit_codes import FAILED, INVALID
from langchain_image_variation.cli.mcp import add_mcp
from langchain_image_variation.cli.messages import name_options
from langchain_image_variation.cli.pull import add_pull
from langchain_image_variation.cli.serve import add_serve
from langchain_image_variation.cli.streams import repair_streams
from langchain_image_variation.exceptions import (
    ImageVariationError,
    InvalidRequestError,
    excerpt,
)

__all__ = ["main"]

_EXAMPLES = """\
examples:
  image-variation create photo.jpg -n 4 --open
  image-variation batch photos --gallery
  image-variation serve

`image-variation COMMAND --help` lists the options of a command.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: The arguments after the program's name. By default, those of the process.

    Raises:
        KeyboardInterrupt: If the user interrupts. No incomplete file is left.
    """
    # Our own message about a corrupt file is enough.
    warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
    repair_streams()
    try:
        arguments = _parse(argv)
        run: Callable[[argparse.Namespace], int | None] = arguments.run
        try:
            code = run(arguments)
        except ImageVariationError as error:
            message = name_options(error.message, arguments)
            print(f"image-variation: {message}", file=sys.stderr)
            return INVALID if isinstance(error, InvalidRequestError) else FAILED
        sys.stdout.flush()
        return code or 0
    except SystemExit as stop:
        return int(stop.code or 0)
    except OSError as error:
        # Only writes to standard output raise an OSError here. Without the next line, Python would
        # try to write the rest again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            # The reader of our output, such as `head`, has stopped.
            return 0
        print(f"image-variation: cannot write the output: {error.strerror}.", file=sys.stderr)
        return FAILED


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse a value that is not a choice. The text of argparse differs between versions."""
        choices = [str(choice) for choice in action.choices or ()]
        if choices and value not in choices:
            similar = [choice for choice in choices if value and choice.startswith(value)]
            hint = f"; did you mean {similar[0]}?" if similar else ""
            raise argparse.ArgumentError(
                action, f"must be one of {', '.join(choices)}, got {excerpt(value)}{hint}"
            )

    def error(self, message: str) -> NoReturn:
        """Print the error in one line. By default, argparse prints the usage first."""
        line = " ".join(message.split())
        line = line if len(line) <= 200 else line[:200] + "..."
        self.exit(INVALID, f"{self.prog}: {line}; see {self.prog} --help\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is sys.stdout:
            # argparse ignores errors, and exits before anything else flushes the stream.
            print(message, end="", flush=True)
        else:
            super()._print_message(message, file)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    program = _parser()
    words = sys.argv[1:] if argv is None else argv
    if not words:
        program.print_help(sys.stderr)
        program.exit(INVALID)
    _check_command(words, program)
    arguments, unknown_words = program.parse_known_args(words)
    if "photos" in arguments and all(word == "-" or word[:1] != "-" for word in unknown_words):
        # argparse takes only the images before the first option.
        arguments.photos += unknown_words
    elif unknown_words:
        # `parse_args` would point to the help of the whole program.
        parser: argparse.ArgumentParser = arguments.parser
        parser.error(
            f"unrecognized arguments: {' '.join(unknown_words)}{_suggestion(unknown_words, parser)}"
        )
    return arguments


def _check_command(words: Sequence[str], program: argparse.ArgumentParser) -> None:
    """Exit with an error if the first word is neither a command nor an option of the program."""
    first_word = words[0]
    options = [name for action in program._actions for name in action.option_strings]
    commands = next(
        list(action.choices)
        for action in program._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    if first_word in (*options, *commands):
        return
    if first_word.startswith("-"):
        program.error(f"{first_word} comes before the command; options go after it")
    matches = get_close_matches(first_word, commands, n=1)
    if matches:
        hint = f"; did you mean {matches[0]}?"
    elif os.path.lexists(first_word) or "." in first_word:
        hint = f"; did you mean image-variation create {first_word}?"
    else:
        hint = f" (choose from {', '.join(commands)})"
    program.error(f"there is no command {first_word!r}{hint}")


def _suggestion(unknown_words: Sequence[str], parser: argparse.ArgumentParser) -> str:
    """Return what to write instead of the first unknown option, or ""."""
    names = [name for action in parser._actions for name in action.option_strings]
    for argument in unknown_words:
        option, _, _ = argument.partition("=")
        if option == "--image" and any(action.dest == "photos" for action in parser._actions):
            # The vendor's command has this option.
            return "; name the image without an option"
        if option.startswith("--"):
            matches = [name for name in names if name.startswith(option)]
            matches += get_close_matches(option, names, n=1, cutoff=0.75)
            return f"; did you mean {matches[0]}?" if matches else ""
    return ""


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="image-variation",
        description="Make variations of an image on this machine, without an API key.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_create(commands.add_parser("create", help="make variations of one or more images"))
    add_batch(commands.add_parser("batch", help="make variations of many images"))
    add_serve(commands.add_parser("serve", help="run a server for POST /v1/images/variations"))
    add_mcp(commands.add_parser("mcp", help="run an MCP server, for hosts such as Claude Desktop"))
    add_engines(commands.add_parser("engines", help="list the engines and what they need"))
    add_pull(commands.add_parser("pull", help="download a model ahead of its first use"))
    completion = commands.add_parser("completion", help="print a completion script for a shell")
    add_completion(completion, parser)
    return parser
