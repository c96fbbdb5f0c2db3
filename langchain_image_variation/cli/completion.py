"""`image-variation completion`: prints a script that completes commands in a shell."""

import argparse
from collections.abc import Iterator

from langchain_image_variation.engines.auto import AUTO
from langchain_image_variation.engines.loading import engine_names
from langchain_image_variation.engines.options import DTYPES

__all__ = ["add_completion"]

_SHELLS = ("bash", "zsh", "fish")
_FILES = {"photos", "request"}
_FOLDERS = {"model_path", "output_dir", "root_dir", "store_dir"}
_DEVICES = ("auto", "cpu", "cuda", "mps", "xpu")


def add_completion(parser: argparse.ArgumentParser, program: argparse.ArgumentParser) -> None:
    """Add the argument of `completion`.

    Args:
        parser: The parser of the command.
        program: The parser of all commands.
    """
    parser.description = (
        "Print a script that completes commands, options and their values. To turn it on in this "
        'bash: eval "$(image-variation completion bash)"'
    )
    parser.add_argument("shell", choices=_SHELLS, help="the shell that runs the script")
    parser.set_defaults(run=_run_completion, parser=parser, program=program)


def _run_completion(arguments: argparse.Namespace) -> None:
    # Imported here because the other commands do not need them.
    import shtab

    from langchain_image_variation.engines.diffusers.families.family import SCHEDULERS
    from langchain_image_variation.engines.diffusers.placement import OFFLOADS
    from langchain_image_variation.engines.diffusers.presets import PRESETS
    from langchain_image_variation.hosted.known_servers import SERVERS

    values = {
        "device": _DEVICES,
        "dtype": DTYPES,
        "engine": (AUTO, *engine_names()),
        "model": tuple(PRESETS),
        "offload": OFFLOADS,
        "scheduler": SCHEDULERS,
        "server": tuple(SERVERS),
    }
    for action in _actions(arguments.program):
        if action.dest in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # read by shtab
        elif action.dest in _FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]  # read by shtab
        elif action.dest in values:
            # The parser itself takes further values, such as `cuda:1` and names of repositories.
            action.choices = values[action.dest]
    print(shtab.complete(arguments.program, shell=arguments.shell), end="")


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the arguments of a parser and of its commands."""
    # argparse has no public list of its arguments.
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
