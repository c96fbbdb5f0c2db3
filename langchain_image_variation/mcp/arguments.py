"""`CreateArguments`: what a model passes to `create_image_variations`, and the schema it sees."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, create_model

from langchain_image_variation.agents.arguments import (
    ArgumentBounds,
    ImageVariationArguments,
    NotBoolean,
    bounded_arguments,
    describe_tool,
    explain_errors,
    expose_arguments,
)
from langchain_image_variation.exceptions import ToolCallError
from langchain_image_variation.mcp.schema import json_schema

__all__ = [
    "CREATE_TOOL",
    "MAX_SEED",
    "CreateArguments",
    "input_schema",
    "parse_arguments",
]

CREATE_TOOL = "create_image_variations"
"""The name of the tool. Hosts put the server's name in front, and models accept 64 characters."""

MAX_SEED = 2**53 - 1
"""The largest seed. Hosts written in JavaScript round larger whole numbers (RFC 8259, section 6),
and would then ask for other images."""

_IMAGE = (
    "The image to vary: the name of an image that list_images returns, the path of a file in the "
    "server's folder, such as 'photo.jpg' or 'trips/photo.jpg', or 'latest' for the newest result "
    "of any chat. An image attached to the chat is not there. Never a URL or base64. Any other "
    "value returns a list of the images."
)


def _drop_default(schema: dict[str, Any]) -> None:
    # Some services refuse a null in a schema. A model omits the argument instead.
    schema.pop("default", None)


_SEED = Field(
    default=None,
    ge=0,
    le=MAX_SEED,
    description="Makes the same variations again. Leave it out for new ones.",
    json_schema_extra=_drop_default,
)

_RULES = {
    "engine": "must be the name of an engine",
    "seed": f"must be a whole number from 0 to {MAX_SEED}",
}


class CreateArguments(ImageVariationArguments):
    """The arguments of `create_image_variations`, besides those that the developer exposes."""

    seed: Annotated[int | None, _SEED, NotBoolean] = None
    engine: str | None = None


def parse_arguments(
    arguments: dict[str, Any], bounds: ArgumentBounds, *, with_seed: bool
) -> CreateArguments:
    """Return the arguments that a model passed.

    Args:
        arguments: The arguments as they arrived.
        bounds: What the model may choose.
        with_seed: Whether an engine has a seed that requests can set.

    Raises:
        ToolCallError: If they are wrong. The message says how to correct them.
    """
    try:
        return expose_arguments(CreateArguments, bounds.exposed).model_validate(arguments)
    except ValidationError as error:
        rules = {name: rule for name, rule in _RULES.items() if with_seed or name != "seed"}
        text = explain_errors(error.errors(), bounds, more_rules=rules)
        raise ToolCallError(text) from None


def input_schema(
    max_n_by_engine: Mapping[str, int], bounds: ArgumentBounds, *, with_seed: bool
) -> dict[str, Any]:
    """Return the arguments as a model sees them, as a JSON schema.

    Args:
        max_n_by_engine: The engines that the model may choose, each with the maximum number of
            variations per call. The first is used by default.
        bounds: What the model may choose.
        with_seed: Whether an engine has a seed that requests can set.
    """
    arguments = bounded_arguments(
        bounds, name=CREATE_TOOL, description=describe_tool(bounds.exposed)
    )
    fields: dict[str, Any] = {"image": (str, Field(description=_IMAGE))}
    if with_seed:
        fields["seed"] = (int, _SEED)
    default = next(iter(max_n_by_engine))
    smaller_limits = {name: n for name, n in max_n_by_engine.items() if n < bounds.max_n}
    sentences = [
        f"What makes the variations. Leave it out for {default}.",
        *(f"For {name}, n is at most {n}." for name, n in smaller_limits.items()),
    ]
    fields["engine"] = (
        Literal[tuple(max_n_by_engine)],
        Field(default=default, description=" ".join(sentences)),
    )
    return json_schema(create_model(CREATE_TOOL, __base__=arguments, **fields))
