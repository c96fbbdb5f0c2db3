"""`image-variation completion`: prints a script that completes commands in a shell."""

import argparse
from collections.abc import Iterator

from langchain_image_variation.engines.loading import engine_names

__all__ = ["add_completion"]

_SHELLS = ("bash", "zsh", "fish")
_FILES = {"photos", "request"}
_FOLDERS = {"model_path", "output_dir", "root_dir", "store_dir"}


def add_completion(parser: argparse.ArgumentParser, program: argparse.ArgumentParser) -> None:
    """Add the argument of `completion`.

    Args:
        parser: The parser of the command.
        program: The parser of all commands.
    """
    parser.add_argument("shell", choices=_SHELLS, help="the shell that runs the script")
    parser.set_defaults(run=_completion, parser=parser, program=program)


def _completion(arguments: argparse.Namespace) -> None:
    # Imported here because the other commands do not need them.
    import shtab

    from langchain_image_variation.engines.diffusers.presets import PRESETS

    for action in _actions(arguments.program):
        if action.dest in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # read by shtab
        elif action.dest in _FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]  # read by shtab
        elif action.dest == "engine":
            action.choices = engine_names()
        elif action.dest == "model":
            action.choices = list(PRESETS)
    print(shtab.complete(arguments.program, shell=arguments.shell), end="")


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the arguments of a parser and of its commands."""
    # argparse has no public list of its arguments.
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
