"""`image-variation engines`: lists the engines and the models, and what they need."""

import argparse
import textwrap
from collections.abc import Sequence
from inspect import getdoc

from langchain_image_variation.cli.engine_options import add_engine
from langchain_image_variation.cli.messages import name_options
from langchain_image_variation.engines.auto import AUTO, choose_engine
from langchain_image_variation.engines.loading import (
    engine_names,
    load_engine_class,
    make_engine,
)
from langchain_image_variation.engines.traits import close_engine, is_hosted
from langchain_image_variation.exceptions import (
    AuthenticationError,
    ImageVariationError,
    InvalidRequestError,
)

__all__ = ["add_engines"]

_COLUMNS = 100
"""The width of the list. Longer descriptions continue on the next line."""


def add_engines(parser: argparse.ArgumentParser) -> None:
    """Set what the command does. It has no arguments."""
    parser.description = (
        "List the engines and the models of diffusers: which you can use here, and what the others "
        "need. Nothing is downloaded."
    )
    parser.set_defaults(run=_run_engines, parser=parser)


def _run_engines(arguments: argparse.Namespace) -> None:
    # Imported here because the other commands do not need it.
    from langchain_image_variation.cli.model_list import describe_device, describe_models

    _print_engines()
    print("\nModels for --engine diffusers --model:")
    _print_rows(describe_models())
    print(f"\nDevice for models: {describe_device()}")


def _print_engines() -> None:
    names = engine_names()
    # The messages name the options of the commands that run an engine.
    vocabulary = argparse.ArgumentParser()
    add_engine(vocabulary)
    rows = []
    for name in (AUTO, *names):
        state, description = _state(name)
        message = name_options(description, argparse.Namespace(parser=vocabulary))
        rows.append((name, f"{state:11}", message))
    _print_rows(rows)


def _print_rows(rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table. The last column continues on the next line if it is too long."""
    width = max((len(name) for name, *_ in rows), default=0)
    for name, *states, description in rows:
        head = "".join(f"{column}  " for column in (f"{name:{width}}", *states))
        lines = textwrap.wrap(
            description,
            _COLUMNS,
            initial_indent=head,
            subsequent_indent=" " * len(head),
            break_long_words=False,
            break_on_hyphens=False,
        )
        print(*lines or [head.rstrip()], sep="\n")


def _state(name: str) -> tuple[str, str]:
    """Return whether an engine works without options, and its description or what is missing."""
    # Imported here because the other commands do not need it.
    from langchain_image_variation.cli.model_list import describe_missing_model

    if name == AUTO:
        choice = choose_engine()
        return (
            "usable",
            f"The best engine that is usable here: {choice.name}, because {choice.reason}.",
        )
    try:
        engine_class = load_engine_class(name)
    except ImageVariationError as error:
        return "not usable", error.message
    try:
        engine = make_engine(name, engine_class, {})
    except (AuthenticationError, InvalidRequestError) as error:
        return "needs setup", error.message + _destination(engine_class)
    except ImageVariationError as error:
        return "not usable", error.message
    close_engine(engine)
    if name == "diffusers" and (advice := describe_missing_model()) is not None:
        return "needs setup", advice
    return "usable", (getdoc(engine_class) or "").partition("\n")[0] + _destination(engine_class)


def _destination(engine_class: type[object]) -> str:
    """Return a sentence if images leave this machine."""
    return " It sends images to a server." if is_hosted(engine_class) else ""
