"""Shared by several commands: options, the output folder and an exit code."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from langchain_image_variation.cli.messages import name_path
from langchain_image_variation.contract import MAX_N, SIZES
from langchain_image_variation.engines import auto
from langchain_image_variation.engines.auto import AUTO
from langchain_image_variation.engines.loading import load_engine_class
from langchain_image_variation.engines.traits import loads_model
from langchain_image_variation.exceptions import (
    InvalidRequestError,
    MissingExtraError,
    OutputError,
)
from langchain_image_variation.output import make_output_dir
from langchain_image_variation.source import Fit

__all__ = [
    "OUTPUT_DIR",
    "SOME_FAILED",
    "add_engine",
    "add_fit",
    "add_n",
    "add_output_dir",
    "add_quiet",
    "add_revision",
    "add_size",
    "choose_engine",
    "engine_options",
    "make_output_folder",
    "request_model",
    "translate_import_errors",
]

OUTPUT_DIR = "variations"
"""The default folder for results."""

SOME_FAILED = 3
"""The exit code if some of several images failed."""

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

_SWITCHES = {
    "framing": "show the image from a slightly different place",
    "mirror": "mirror three of four variations, unless the image shows text or is a logo",
    "light": "show the image in another light",
    "arrange": "rearrange textures and many small things, above a strength of 0.6",
}
"""The parts of the engine `local` that can be switched off."""

_ENGINE_OPTIONS = (
    *("seed", "strength", *_SWITCHES, "server", "base_url", "max_billed_calls", "prompt"),
    *("revision", "steps", "guidance_scale", "device", "dtype", "offload", "safety"),
)


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for the engine and its options."""
    add = parser.add_argument_group("engine").add_argument
    add(
        "--engine",
        default="local",
        help="the engine, or auto for the best one that is usable here; `image-variation engines` "
        "lists them (default: local)",
    )
    add("--seed", type=int, help="make the same variations again")
    add("--strength", type=float, help="how much to change, 0 (almost a copy) to 1 (default: 0.5)")
    for name, effect in _SWITCHES.items():
        add(f"--{name}", action=argparse.BooleanOptionalAction, help=f"{effect} (default: yes)")
    add("--server", help="with --engine variations: deepinfra, lemonade, stdapi or xinference")
    add("--base-url", metavar="URL", help="with a hosted engine: the address of its server")
    add(
        "--max-billed-calls",
        type=int,
        metavar="N",
        help="with --engine fal, recraft or replicate: stop before call N + 1 (default: no limit)",
    )
    add("--prompt", help="with --engine gpt-image: the prompt for the model")
    add("--model", help="the model of the engine (default: the engine's own)")
    _add_diffusers(parser)


def _add_diffusers(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for models on this machine."""
    group = parser.add_argument_group("with --engine diffusers")
    add = group.add_argument
    add("--model-path", metavar="DIR", help="a folder with a model, instead of --model")
    add_revision(group)
    add("--steps", type=int, help="the number of denoising steps (default: the model's own)")
    add(
        "--guidance-scale",
        type=float,
        metavar="SCALE",
        help="how closely the model follows the source; 1 turns guidance off, which takes half as "
        "long, except with flux-redux (default: the model's own)",
    )
    add("--device", help="auto, cpu, mps, cuda, cuda:1 or xpu (default: auto, the first GPU)")
    add("--dtype", help="auto, float32, float16 or bfloat16 (default: auto)")
    add(
        "--offload",
        help="what waits in the main memory while the GPU does not need it: auto, none, model or "
        "sequential (default: auto, by the free memory)",
    )
    add(
        "--safety",
        action=argparse.BooleanOptionalAction,
        help="let the model's safety checker look at the images, if it has one (default: yes)",
    )


def add_revision(container: argparse._ActionsContainer) -> None:
    """Add the argument for the revision of a model's repository to a parser or a group."""
    container.add_argument(
        "--revision",
        help="a commit, tag or branch of the model's repository (default: the preset's, or main)",
    )


def add_n(parser: argparse.ArgumentParser) -> None:
    """Add the argument for the number of variations."""
    parser.add_argument(
        "-n",
        "--n",
        type=int,
        default=1,
        metavar="N",
        help=f"the number of variations of each image, 1 to {MAX_N} (default: 1)",
    )


def add_size(parser: argparse.ArgumentParser) -> None:
    """Add the argument for the size of the variations."""
    parser.add_argument(
        "--size",
        choices=SIZES,
        default=SIZES[-1],
        help=f"the size of the variations in pixels (default: {SIZES[-1]})",
    )


def add_output_dir(
    container: argparse._ActionsContainer, help: str, default: str | None = None
) -> None:
    """Add the argument for the output folder to a parser or a group."""
    container.add_argument("-o", "--output-dir", metavar="DIR", default=default, help=help)


def add_quiet(parser: argparse.ArgumentParser, help: str) -> None:
    """Add the argument for less output."""
    parser.add_argument("-q", "--quiet", action="store_true", help=help)


def add_fit(parser: argparse.ArgumentParser) -> None:
    """Add the argument for images that do not fit the contract."""
    parser.add_argument(
        "--fit",
        choices=get_args(Fit),
        default="crop",
        help="what to do with an image that is not a square PNG under 4 MB: refuse it, crop it, "
        "pad it with its mirror image, or keep its shape in the results (default: crop)",
    )


def choose_engine(arguments: argparse.Namespace) -> str | None:
    """Replace `--engine auto` by the name of the chosen engine, and return a note that says why.

    Raises:
        InvalidRequestError: If an option that decides about the engine has an invalid value.
    """
    if arguments.engine != AUTO:
        return None
    path = arguments.model_path
    model = arguments.model if path is None else os.path.abspath(path)
    choice = auto.choose_engine(
        {"model": model, "revision": arguments.revision, "device": arguments.device}
    )
    arguments.engine = choice.name
    return f"auto chose the engine {choice.name}: {choice.reason}."


def engine_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the engine options that the user has set.

    Raises:
        InvalidRequestError: If both a model and a folder are set, or if the engine loads no model.
        ImageVariationError: If a model is set, and the engine cannot be imported.
    """
    options = {name: getattr(arguments, name) for name in _ENGINE_OPTIONS}
    if arguments.model_path is not None:
        if arguments.model is not None:
            raise InvalidRequestError("Pass --model or --model-path, not both.", param="model")
        if not loads_model(load_engine_class(arguments.engine)):
            raise InvalidRequestError(
                f"The engine {arguments.engine!r} loads no model, so --model-path cannot be used "
                "with it. Add --engine diffusers.",
                param="model",
            )
        options["model"] = os.path.abspath(arguments.model_path)
    elif request_model(arguments) is None:
        options["model"] = arguments.model
    return {name: value for name, value in options.items() if value is not None}


def request_model(arguments: argparse.Namespace) -> str | None:
    """Return the model to name in each request. An engine that loads a model has it already.

    Raises:
        ImageVariationError: If a model is set, and the engine cannot be imported.
    """
    model: str | None = arguments.model
    if model is None or loads_model(load_engine_class(arguments.engine)):
        return None
    return model


def make_output_folder(directory: str | Path) -> Path:
    """Create the output folder before the work begins, so that no result is lost.

    Raises:
        InvalidRequestError: If it cannot be created or written to, or was meant as a file.
    """
    if directory == "":
        raise InvalidRequestError("--output-dir is empty; pass a folder.", param="output_dir")
    path = Path(directory)
    if path.suffix.lower() in _IMAGE_SUFFIXES and not path.exists():
        raise InvalidRequestError(
            f"--output-dir takes a folder, and {str(directory)!r} looks like a file. Pass --name "
            f"for the names of files, or -o - > {path.name} for one image.",
            param="output_dir",
        )
    try:
        return make_output_dir(path)
    except OutputError as error:
        message = name_path(error.message, str(directory))
        raise InvalidRequestError(message, param="output_dir") from None


@contextmanager
def translate_import_errors(extra: str) -> Iterator[None]:
    """Name the extra to install if an import in the block fails.

    Raises:
        MissingExtraError: If a package is not installed.
    """
    try:
        yield
    except MissingExtraError:
        raise
    except ImportError as error:
        raise MissingExtraError.for_package(
            "This command", error.name, f"langchain-image-variation[{extra}]"
        ) from None
