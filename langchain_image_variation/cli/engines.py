"""`image-variation engines`: lists the installed engines and what they need."""

import argparse
import textwrap
from inspect import getdoc

from langchain_image_variation.cli.messages import name_options
from langchain_image_variation.cli.options import add_engine
from langchain_image_variation.engines.auto import AUTO, choose_engine
from langchain_image_variation.engines.loading import (
    engine_names,
    load_engine_class,
    make_engine,
)
from langchain_image_variation.engines.traits import close_engine
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
    parser.set_defaults(run=_engines, parser=parser)


def _engines(arguments: argparse.Namespace) -> None:
    names = engine_names()
    # The messages name the options of the commands that run an engine.
    vocabulary = argparse.ArgumentParser()
    add_engine(vocabulary)
    width = max(map(len, (AUTO, *names)))
    for name in (AUTO, *names):
        state, description = _state(name)
        head = f"{name:{width}}  {state:11}  "
        lines = textwrap.wrap(
            name_options(description, argparse.Namespace(parser=vocabulary)),
            _COLUMNS,
            initial_indent=head,
            subsequent_indent=" " * len(head),
            break_long_words=False,
        )
        print(*lines or [head.rstrip()], sep="\n")


def _state(name: str) -> tuple[str, str]:
    """Return whether an engine works without options, and its description or what is missing."""
    if name == AUTO:
        choice = choose_engine()
        return (
            "usable",
            f"The best engine that is usable here: {choice.name}, because {choice.reason}.",
        )
    try:
        engine_class = load_engine_class(name)
        engine = make_engine(name, engine_class, {})
    except (AuthenticationError, InvalidRequestError) as error:
        return "needs setup", error.message
    except ImageVariationError as error:
        return "not usable", error.message
    close_engine(engine)
    return "usable", (getdoc(engine_class) or "").partition("\n")[0]
