"""`ImageVariationArguments`: the arguments that a model sees, and explanations of its mistakes."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model

from langchain_image_variation.contract import MAX_N, SIZES, Size
from langchain_image_variation.exceptions import ToolCallError, excerpt

__all__ = [
    "TOOL_DESCRIPTION",
    "TOOL_NAME",
    "ImageVariationArguments",
    "Strength",
    "StrengthArguments",
    "bounded_arguments",
    "check_n",
    "explain_errors",
]

TOOL_NAME = "image_variation"

TOOL_DESCRIPTION = (
    "Make variations of an image: new images that look like it, with small or large changes. "
    "It takes no prompt and cannot draw anything else. Returns the name of each new image."
)

_LARGEST_SIZE = (
    "The largest width x height of each variation in pixels. Each has the shape of the image."
)

_MAX_EXPLAINED = 4
"""The maximum number of mistakes to explain. A well-meant call never has more."""


def _null_means(default: object) -> BeforeValidator:
    """Return a validator that replaces null, which models often send for a missing argument."""
    return BeforeValidator(lambda value: default if value is None else value)


class ImageVariationArguments(BaseModel):
    """The arguments that a model sees, in every framework."""

    model_config = ConfigDict(extra="forbid")

    image: str = Field(
        description="The image to vary: 'latest' (the newest image in this conversation), the name "
        "of an image, such as 'img_7c1e09ab' or 'cat-d7a252c5-1', or a file path, such as "
        "'photo.jpg'. Never a URL or base64. Any other value returns a list of the images."
    )
    n: Annotated[int, _null_means(1)] = Field(
        default=1, ge=1, le=MAX_N, description=f"How many variations to make, from 1 to {MAX_N}."
    )
    size: Annotated[Size, _null_means("1024x1024")] = Field(
        default="1024x1024", description="Width x height of each variation in pixels."
    )


def _drop_default(schema: dict[str, Any]) -> None:
    # Some services refuse a null in a schema. A model leaves the argument out instead.
    schema.pop("default", None)


_STRENGTH = Field(
    default=None,
    ge=0,
    le=1,
    allow_inf_nan=False,
    description="How much to change the image, from 0 (almost a copy) to 1 (very different). Leave "
    "it out unless the user wants smaller or larger changes.",
    json_schema_extra=_drop_default,
)

Strength = Annotated[float | None, _STRENGTH]
"""How much a model wants to change an image. None is the engine's own strength."""


class StrengthArguments(ImageVariationArguments):
    """The arguments that a model sees if it may choose the strength."""

    strength: Strength = None


@lru_cache(maxsize=32)
def bounded_arguments(
    *,
    max_n: int = MAX_N,
    with_size: bool = True,
    keeps_shape: bool = False,
    with_strength: bool = False,
    name: str = TOOL_NAME,
    description: str = TOOL_DESCRIPTION,
) -> type[BaseModel]:
    """Return the arguments as a model sees them, within the limits of the settings.

    Args:
        max_n: The maximum number of variations per call.
        with_size: Whether the model chooses the size.
        with_strength: Whether the model chooses the strength.
        keeps_shape: Whether variations have the shape of their source instead of being square.
        name: The name of the tool.
        description: The description of the tool.
    """
    original_fields = ImageVariationArguments.model_fields
    fields: dict[str, Any] = {"image": (str, original_fields["image"])}
    choice = f"from 1 to {max_n}" if max_n > 1 else "always 1"
    n_description = f"How many variations to make, {choice}."
    fields["n"] = (int, Field(default=1, ge=1, le=max_n, description=n_description))
    if with_size:
        size = original_fields["size"]
        if keeps_shape:
            size = Field(default=size.default, description=_LARGEST_SIZE)
        fields["size"] = (Size, size)
    if with_strength:
        fields["strength"] = (float, _STRENGTH)
    return create_model(name, __doc__=description, **fields)


_RULES = {
    "image": "must be a string: 'latest', the name of an image, or a relative path",
    "size": f"must be one of {', '.join(SIZES)}",
    "strength": "must be a number from 0 to 1",
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
    errors: list[Any],
    *,
    max_n: int = MAX_N,
    with_size: bool = True,
    with_strength: bool = False,
    more_rules: Mapping[str, str] | None = None,
) -> str:
    """Return text that helps a model to correct its arguments.

    No long value is repeated: it may be a whole image in base64.

    Args:
        errors: The `errors()` of a pydantic `ValidationError`.
        max_n: The maximum number of variations per call.
        with_size: Whether the model chooses the size.
        with_strength: Whether the model chooses the strength.
        more_rules: What the other arguments of the tool must be, by name.
    """
    rules = {**_RULES, "n": _n_rule(max_n), **(more_rules or {})}
    argument_names = ["image", "n"]
    for name, is_argument in (("size", with_size), ("strength", with_strength)):
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
