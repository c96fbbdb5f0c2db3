"""The options of the commands that run an engine: their arguments, and what the user chose."""

import argparse
import os
from typing import Any

from langchain_image_variation.cli.options import number, text_or_null, whole_number
from langchain_image_variation.engines.auto import AUTO, choose_engine
from langchain_image_variation.engines.loading import check_option_names, load_engine_class
from langchain_image_variation.engines.traits import engine_options, is_hosted, loads_model
from langchain_image_variation.exceptions import InvalidRequestError

__all__ = [
    "add_engine",
    "add_revision",
    "collect_engine_options",
    "requested_model",
    "resolve_auto",
    "split_engines",
]

_SWITCHES = {
    "framing": "show the image from a slightly different place",
    "mirror": "mirror three of four variations, unless the image shows text or is a logo",
    "light": "show the image in another light",
    "arrange": "rearrange textures and many small things, above a strength of 0.6",
}
"""The parts of the engine `local` that can be switched off."""

_ENGINE_OPTIONS = (
    *("seed", "strength", *_SWITCHES, "server", "base_url", "max_billed_calls", "prompt"),
    *("revision", "steps", "scheduler", "guidance_scale", "device", "dtype", "offload", "safety"),
)

_OPTIONS_OF_ONE = ("base_url", "model", "model_path", "prompt", "revision", "server")
"""Options that only one engine may get. For example, a shared address would get both their keys."""


def add_engine(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Add the arguments for the engine and its options.

    Args:
        parser: The parser of the command.
        several: Whether the command runs several engines; see `split_engines`.
    """
    add = parser.add_argument_group("engine").add_argument
    choice = "the engine, or auto for the best one that is usable here; `image-variation engines` "
    if several:
        add(
            "--engine",
            action="append",
            help=f"{choice}lists them; repeatable, and the first is used unless the model names "
            "another (default: local)",
        )
    else:
        add("--engine", default="local", help=f"{choice}lists them (default: local)")
    add("--seed", type=whole_number, help="make the same variations again")
    add("--strength", type=number, help="how much to change, 0 (almost a copy) to 1 (default: 0.5)")
    for name, effect in _SWITCHES.items():
        add(f"--{name}", action=argparse.BooleanOptionalAction, help=f"{effect} (default: yes)")
    add("--server", help="with --engine variations: deepinfra, lemonade, stdapi or xinference")
    add("--base-url", metavar="URL", help="with a hosted engine: the address of its server")
    add(
        "--max-billed-calls",
        type=whole_number,
        metavar="N",
        help="with --engine fal, recraft or replicate: make at most N billed calls (default: none)",
    )
    add("--prompt", help="with --engine gpt-image: the prompt for the model")
    add("--model", type=text_or_null, help="the model of the engine (default: the engine's own)")
    _add_diffusers(parser)


def _add_diffusers(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for models on this machine."""
    group = parser.add_argument_group("with --engine diffusers")
    add = group.add_argument
    add("--model-path", metavar="DIR", help="a folder with a model, instead of --model")
    add_revision(group)
    add(
        "--steps",
        type=whole_number,
        help="the number of denoising steps (default: the model's own)",
    )
    add(
        "--scheduler",
        help="auto, model (the one that the model came with) or dpm-solver++, which needs about 20 "
        "steps (default: auto, dpm-solver++ in place of PNDM)",
    )
    add(
        "--guidance-scale",
        type=number,
        metavar="SCALE",
        help="how closely the model follows the source; 1 turns guidance off, which takes half as "
        "long, except with flux-redux (default: the model's own)",
    )
    add("--device", help="auto, cpu, mps, cuda, cuda:1 or xpu (default: auto, the first GPU)")
    add("--dtype", help="auto, float32, float16 or bfloat16 (default: auto)")
    add(
        "--offload",
        help="what stays in the main memory until the GPU needs it: auto, none, model or "
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


def resolve_auto(arguments: argparse.Namespace) -> str | None:
    """Replace `--engine auto` by the name of the chosen engine, and return a note that says why.

    Raises:
        InvalidRequestError: If an option that decides about the engine has an invalid value, or if
            the chosen engine lacks an option.
    """
    if arguments.engine != AUTO:
        return None
    options = {name: getattr(arguments, name) for name in ("model", *_ENGINE_OPTIONS)}
    if arguments.model_path is not None:
        options["model"] = _model_folder(arguments.model_path)
    options = {name: value for name, value in options.items() if value is not None}
    choice = choose_engine(options)
    check_option_names(choice.name, load_engine_class(choice.name), options, choice.reason)
    arguments.engine = choice.name
    return f"auto chose the engine {choice.name}: {choice.reason}."


def collect_engine_options(arguments: argparse.Namespace) -> dict[str, Any]:
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
        options["model"] = _model_folder(arguments.model_path)
    elif requested_model(arguments) is None:
        options["model"] = arguments.model
    return {name: value for name, value in options.items() if value is not None}


def split_engines(arguments: argparse.Namespace) -> list[argparse.Namespace]:
    """Return the arguments for each engine of a command that runs several.

    Each engine gets the options that it has. A single engine gets them all, so that its own error
    says which options it has.

    Raises:
        InvalidRequestError: If an option is set that none of the engines has, or an option that
            means different things to two of them, or a limit of costs that one of them lacks.
        ImageVariationError: If an engine cannot be imported.
    """
    names: list[str] = arguments.engine or ["local"]
    if len(names) == 1:
        return [argparse.Namespace(**{**vars(arguments), "engine": names[0]})]
    options = [
        name
        for name in (*_ENGINE_OPTIONS, "model", "model_path")
        if getattr(arguments, name) is not None
    ]
    users: dict[str, list[str]] = {option: [] for option in options}
    engines = []
    for name in names:
        engine_class = load_engine_class(name)
        has_options = {*engine_options(engine_class)}
        if loads_model(engine_class):
            has_options.add("model_path")
        for option in has_options.intersection(options):
            users[option].append(name)
        others = dict.fromkeys(set(options) - has_options)
        engines.append(argparse.Namespace(**{**vars(arguments), "engine": name, **others}))
    for option, engine_names in users.items():
        if not engine_names:
            raise InvalidRequestError(
                f"None of the engines {', '.join(names)} has the option {option}.", param=option
            )
        if len(engine_names) > 1 and option in _OPTIONS_OF_ONE:
            raise InvalidRequestError(
                f"The engines {' and '.join(engine_names)} cannot share the option {option}. Run a "
                "server for each.",
                param=option,
            )
    if limited := users.get("max_billed_calls"):
        for name in names:
            if name not in limited and is_hosted(load_engine_class(name)):
                raise InvalidRequestError(
                    f"The option max_billed_calls does not limit {name}, which a model could "
                    "choose. Leave that engine out.",
                    param="max_billed_calls",
                )
    return engines


def _model_folder(path: str) -> str:
    """Return the absolute path of a folder with a model.

    Raises:
        InvalidRequestError: If it is empty, as an unset variable is.
    """
    if not path:
        raise InvalidRequestError("--model-path must name a folder, got ''.", param="model")
    return os.path.abspath(path)


def requested_model(arguments: argparse.Namespace) -> str | None:
    """Return the model to name in each request. An engine that loads a model has it already.

    Raises:
        ImageVariationError: If a model is set, and the engine cannot be imported.
    """
    model: str | None = arguments.model
    if model is None or loads_model(load_engine_class(arguments.engine)):
        return None
    return model
