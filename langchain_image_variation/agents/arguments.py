"""`ImageVariationArguments`: the arguments that a model sees, and explanations of its mistakes."""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, get_args, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model

from langchain_image_variation.contract import MAX_N, SIZES, Size
from langchain_image_variation.exceptions import ToolCallError, excerpt
from langchain_image_variation.source import Fit

__all__ = [
    "ENGINE_OPTIONS",
    "MAX_NAME_LENGTH",
    "MAX_PROMPT_LENGTH",
    "TOOL_DESCRIPTION",
    "TOOL_NAME",
    "ArgumentBounds",
    "Exposable",
    "ExposedArguments",
    "ImageVariationArguments",
    "NotBoolean",
    "bounded_arguments",
    "check_n",
    "chosen_values",
    "describe_tool",
    "explain_errors",
    "expose_arguments",
]

TOOL_NAME = "image_variation"

TOOL_DESCRIPTION = (
    "Make variations of an image: new images that look like it, with small or large changes. "
    "It takes no prompt and cannot draw anything else. Returns the name of each new image."
)

_PROMPT_TOOL_DESCRIPTION = (
    "Make variations of an image: new images that look like it, with small or large changes, or "
    "with the changes that a prompt asks for. Returns the name of each new image."
)

Exposable: TypeAlias = Literal["strength", "prompt", "fit", "name"]
"""The arguments that a model sees only if the developer exposes them, in schema order."""

MAX_PROMPT_LENGTH = 1000
"""The maximum length of a model's prompt, in characters. This was the vendor's limit for edits with
dall-e-2. GPT Image takes 32,000, but the artifact repeats the prompt for each image."""

MAX_NAME_LENGTH = 80
"""The maximum length of a name that a model chooses, in characters. File names have at most 40 of
them. A much longer text is not meant as a name: it may be an image in base64."""

_LARGEST_SIZE = (
    "The largest width x height of each variation in pixels. Variations keep the image's shape."
)

_SIZE_BY_FIT = (
    "Width x height of each variation in pixels. With the fit 'keep', the largest width x height."
)

_MAX_EXPLAINED = 4
"""The maximum number of mistakes to explain. A well-meant call never has more."""


_Arguments = TypeVar("_Arguments", bound="ImageVariationArguments")


def _replace_null(default: object) -> BeforeValidator:
    """Return a validator that replaces null, which models often send for a missing argument."""
    return BeforeValidator(lambda value: default if value is None else value)


def _check_not_boolean(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a boolean is not a number")
    return value


NotBoolean = BeforeValidator(_check_not_boolean)
"""Pydantic takes true for 1 and false for 0."""


class ImageVariationArguments(BaseModel):
    """The arguments that a model sees, in every framework."""

    model_config = ConfigDict(extra="forbid")

    image: str = Field(
        description="The image to vary: 'latest' (the newest image, uploaded or made), the name of "
        "an image, such as 'img_7c1e09ab' or 'cat-d7a252c5-1', or a file path, such as "
        "'photo.jpg'. Never a URL or base64. Any other value returns a list of the images."
    )
    n: Annotated[int, _replace_null(1), NotBoolean] = Field(
        default=1, ge=1, le=MAX_N, description=f"How many variations to make, from 1 to {MAX_N}."
    )
    size: Annotated[Size, _replace_null("1024x1024")] = Field(
        default="1024x1024", description="Width x height of each variation in pixels."
    )


def _optional(description: str, **limits: Any) -> Any:
    return Field(default=None, description=description, json_schema_extra=_drop_null, **limits)


def _drop_null(schema: dict[str, Any]) -> None:
    """Remove null from a schema, because some services refuse it. A model omits the argument."""
    if schema["default"] is None:
        del schema["default"]
    not_null, _ = schema.pop("anyOf")
    schema.update(not_null)


_BlankMeansNone = BeforeValidator(
    lambda value: None if isinstance(value, str) and not value.strip() else value
)
"""Models often send an empty text for a missing argument."""


class ExposedArguments(ImageVariationArguments):
    """The arguments that a model sees if the developer exposes all others too.

    None means that the model left an argument out.
    """

    strength: Annotated[
        float | None,
        _optional(
            "How much to change the image, from 0 (almost a copy) to 1 (very different). Leave it "
            "out unless the user wants smaller or larger changes.",
            ge=0,
            le=1,
            allow_inf_nan=False,
        ),
        NotBoolean,
    ] = None
    prompt: Annotated[
        str | None,
        _optional(
            "What to make of the image, such as 'The same cat in the snow, at night'. Leave it out "
            "unless the user wants a certain change.",
            max_length=MAX_PROMPT_LENGTH,
        ),
        _BlankMeansNone,
    ] = None
    fit: Annotated[
        Literal["crop", "pad", "keep"] | None,
        _optional(
            "What to do if the image is not square: 'crop' (vary the square in its center), 'pad' "
            "(continue the image until it is square) or 'keep' (the variations get its shape)."
        ),
        _BlankMeansNone,
    ] = None
    name: Annotated[
        str | None,
        _optional(
            "What the names of the variations begin with, such as 'winter-cat'.",
            max_length=MAX_NAME_LENGTH,
        ),
        _BlankMeansNone,
    ] = None


ENGINE_OPTIONS = {"strength": "local", "prompt": "gpt-image"}
"""The arguments that are options of the engine, each with an engine that has it. The tool itself
uses the others."""


def chosen_values(arguments: ImageVariationArguments) -> dict[str, Any]:
    """Return the values of the exposable arguments that a model has chosen."""
    values = {name: getattr(arguments, name, None) for name in get_args(Exposable)}
    return {name: value for name, value in values.items() if value is not None}


@cache
def expose_arguments(base: type[_Arguments], names: frozenset[Exposable]) -> type[_Arguments]:
    """Add the arguments that the developer exposes to a class of arguments.

    Args:
        base: `ImageVariationArguments` or a subclass.
        names: The arguments to add.

    Returns:
        A subclass of `base`, or `base` itself if there is nothing to add.
    """
    return create_model(base.__name__, __base__=base, **_exposed_fields(names)) if names else base


def _exposed_fields(names: Set[Exposable]) -> dict[str, Any]:
    annotations = get_type_hints(ExposedArguments, include_extras=True)
    return {name: (annotations[name], None) for name in get_args(Exposable) if name in names}


def describe_tool(exposed: Set[Exposable]) -> str:
    """Return what a model reads about the tool.

    Args:
        exposed: The arguments that the developer exposes.
    """
    return _PROMPT_TOOL_DESCRIPTION if "prompt" in exposed else TOOL_DESCRIPTION


@dataclass(frozen=True, slots=True)
class ArgumentBounds:
    """What a model may choose, within the settings."""

    max_n: int
    """The maximum number of variations per call."""
    with_size: bool
    """Whether the model chooses the size."""
    fit: Fit
    """What happens to an image that is not square, unless the model chooses."""
    exposed: frozenset[Exposable]
    """The arguments that the developer exposes."""


@lru_cache(maxsize=32)
def bounded_arguments(bounds: ArgumentBounds, *, name: str, description: str) -> type[BaseModel]:
    """Return the arguments as a model sees them, within the limits of the settings.

    Args:
        bounds: What the model may choose.
        name: The name of the tool.
        description: The description of the tool.
    """
    max_n, exposed = bounds.max_n, bounds.exposed
    original_fields = ImageVariationArguments.model_fields
    fields: dict[str, Any] = {"image": (str, original_fields["image"])}
    choice = f"from 1 to {max_n}" if max_n > 1 else "always 1"
    n_description = f"How many variations to make, {choice}."
    fields["n"] = (int, Field(default=1, ge=1, le=max_n, description=n_description))
    if bounds.with_size:
        size = original_fields["size"]
        if "fit" in exposed:
            size = Field(default=size.default, description=_SIZE_BY_FIT)
        elif bounds.fit == "keep":
            size = Field(default=size.default, description=_LARGEST_SIZE)
        fields["size"] = (Size, size)
    fields |= _exposed_fields(exposed)
    if "fit" in exposed:
        annotation, _ = fields["fit"]
        fields["fit"] = (annotation, bounds.fit)
    return create_model(name, __doc__=description, **fields)


_RULES = {
    "image": "must be a string: 'latest', the name of an image, or a relative path",
    "size": f"must be one of {', '.join(SIZES)}",
    "strength": "must be a number from 0 to 1",
    "prompt": f"must be a text of at most {MAX_PROMPT_LENGTH:,} characters",
    "fit": "must be 'crop', 'pad' or 'keep'",
    "name": f"must be a text of at most {MAX_NAME_LENGTH} characters",
    "model": "must be a string",
    "response_format": "must be 'url' or 'b64_json'",
    "user": "must be a string",
}


def check_n(n: int, max_n: int) -> None:
    """Check the number of variations that a model asks for.

    Args:
        n: The number of variations, at most `MAX_N`.
        max_n: The maximum that the settings allow.

    Raises:
        ToolCallError: If it is more than `max_n`.
    """
    if n > max_n:
        raise ToolCallError(_correction([f"n {_n_rule(max_n)}, got {n}"]), param="n")


def explain_errors(
    errors: list[Any], bounds: ArgumentBounds, *, more_rules: Mapping[str, str] | None = None
) -> str:
    """Return text that helps a model to correct its arguments.

    No long value is repeated: it may be a whole image in base64.

    Args:
        errors: The `errors()` of a pydantic `ValidationError`.
        bounds: What the model may choose.
        more_rules: Rules for further arguments of the tool by name, such as "must be a string".
    """
    rules = {**_RULES, "n": _n_rule(bounds.max_n), **(more_rules or {})}
    argument_names = ["image", "n"]
    others = {"size": bounds.with_size}
    others |= {name: name in bounds.exposed for name in get_args(Exposable)}
    for name, is_argument in others.items():
        if is_argument:
            argument_names.append(name)
        else:
            del rules[name]
    argument_names += more_rules or ()
    explanations, unknown_names = [], []
    for error in errors[:_MAX_EXPLAINED]:
        name = str(error["loc"][0]) if error["loc"] else ""
        if error["type"] == "extra_forbidden" or name not in rules:
            unknown_names.append(excerpt(name))
        elif error["type"] == "missing":
            explanations.append(f"{name} is missing; it {rules[name]}")
        else:
            explanations.append(f"{name} {rules[name]}, got {excerpt(error.get('input'))}")
    if unknown_names:
        verb = "is not an argument" if len(unknown_names) == 1 else "are not arguments"
        explanations.append(
            f"{_join(unknown_names)} {verb}; the arguments are {_join(argument_names)}"
        )
    return _correction(explanations)


def _n_rule(max_n: int) -> str:
    return f"must be a whole number from 1 to {max_n}" if max_n > 1 else "must be 1"


def _correction(explanations: list[str]) -> str:
    return f"Correct these arguments and call again: {'; '.join(explanations)}."


def _join(names: list[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
