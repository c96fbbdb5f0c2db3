"""`ImageVariationArguments`: the arguments that a model sees, and explanations of its mistakes."""

from functools import lru_cache
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model

from langchain_image_variation.contract import MAX_N, SIZES, Size
from langchain_image_variation.exceptions import excerpt

__all__ = [
    "TOOL_DESCRIPTION",
    "TOOL_NAME",
    "ImageVariationArguments",
    "bounded_arguments",
    "explain_errors",
]

TOOL_NAME = "image_variation"

TOOL_DESCRIPTION = (
    "Make variations of an image: new images that look like it, with small or large changes. "
    "It takes no prompt and cannot draw anything else. Returns the names of the new images. "
    "Pass one of these names as image to vary that image again."
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
        description="The image to vary: 'latest' (the newest image in this conversation), "
        "a name such as 'img_7c1e09ab', a name that an earlier call returned, or a file path such "
        "as 'photo.jpg'. Never a URL or base64."
    )
    n: Annotated[int, _null_means(1)] = Field(
        default=1, ge=1, le=MAX_N, description="How many variations to make."
    )
    size: Annotated[Size, _null_means("1024x1024")] = Field(
        default="1024x1024", description="Width x height of each variation in pixels."
    )


@lru_cache(maxsize=32)
def bounded_arguments(
    *,
    max_n: int = MAX_N,
    with_size: bool = True,
    name: str = TOOL_NAME,
    description: str = TOOL_DESCRIPTION,
) -> type[BaseModel]:
    """Return the arguments as a model sees them, within the limits of the settings.

    Args:
        max_n: The maximum number of variations per call.
        with_size: Whether the model chooses the size.
        name: The name of the tool.
        description: The description of the tool.
    """
    original_fields = ImageVariationArguments.model_fields
    fields: dict[str, Any] = {"image": (str, original_fields["image"])}
    n = original_fields["n"]
    fields["n"] = (int, Field(default=1, ge=1, le=max_n, description=n.description))
    if with_size:
        fields["size"] = (original_fields["size"].annotation, original_fields["size"])
    return create_model(name, __doc__=description, **fields)


_RULES = {
    "image": "must be a string: 'latest', a name returned earlier, or a relative path",
    "size": f"must be one of {', '.join(SIZES)}",
    "model": "must be a string",
    "response_format": "must be 'url' or 'b64_json'",
    "user": "must be a string",
}


def explain_errors(errors: list[Any], *, max_n: int = MAX_N) -> str:
    """Return text that helps a model to correct its arguments.

    No long value is repeated: it may be a whole image in base64.

    Args:
        errors: The `errors()` of a pydantic `ValidationError`.
        max_n: The maximum number of variations per call.
    """
    rules = {**_RULES, "n": f"must be a whole number from 1 to {max_n}"}
    explanations = []
    for error in errors[:_MAX_EXPLAINED]:
        name = str(error["loc"][0]) if error["loc"] else "arguments"
        if error["type"] == "extra_forbidden" or name not in rules:
            explanations.append(f"{excerpt(name)} is not an argument")
        elif error["type"] == "missing":
            explanations.append(f"{name} is missing; it {rules[name]}")
        else:
            explanations.append(f"{name} {rules[name]}, got {excerpt(error.get('input'))}")
    return f"Correct these arguments and call again: {'; '.join(explanations)}."
