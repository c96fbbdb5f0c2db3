"""`ImageVariationArguments`: what a model may ask of the tool, and what it is told of a mistake."""

from functools import lru_cache
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model

from langchain_image_variation.contract import MAX_N, SIZES, Size
from langchain_image_variation.exceptions import shown

__all__ = [
    "TOOL_DESCRIPTION",
    "TOOL_NAME",
    "ImageVariationArguments",
    "bounded_arguments",
    "explain",
]

TOOL_NAME = "image_variation"

TOOL_DESCRIPTION = (
    "Make variations of a picture: new pictures that look like it, rearranged a little or a lot. "
    "Takes no prompt and draws nothing new. Returns the names of the new pictures, which can be "
    "varied again."
)

_SAID = 4
"""So many broken arguments are named: as many as a model can mean in earnest."""


def _or_default(default: object) -> BeforeValidator:
    """Models often send null for an argument they leave out."""
    return BeforeValidator(lambda value: default if value is None else value)


class ImageVariationArguments(BaseModel):
    """The arguments that a model sees, in every framework."""

    model_config = ConfigDict(extra="forbid")

    image: str = Field(
        description="The picture to vary: 'latest' (the newest picture in this conversation), "
        "'img_1', 'img_2', ... (the pictures in this conversation, in order), a name returned by "
        "an earlier call, or a file path such as 'photo.jpg'. Never a URL or base64."
    )
    n: Annotated[int, _or_default(1)] = Field(
        default=1, ge=1, le=MAX_N, description="How many variations to make."
    )
    size: Annotated[Size, _or_default("1024x1024")] = Field(
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
    """Return the arguments as a model sees them, with the bounds that a developer set.

    Args:
        max_n: The most variations a call makes.
        with_size: Whether the model chooses the size.
        name: What the tool is called.
        description: What the tool says of itself.
    """
    known = ImageVariationArguments.model_fields
    fields: dict[str, Any] = {"image": (str, known["image"])}
    n = known["n"]
    fields["n"] = (int, Field(default=1, ge=1, le=max_n, description=n.description))
    if with_size:
        fields["size"] = (known["size"].annotation, known["size"])
    return create_model(name, __doc__=description, **fields)


_RULES = {
    "image": "must be a string: 'latest', 'img_1', a name returned earlier, or a relative path",
    "size": f"must be one of {', '.join(SIZES)}",
    "model": "must be a string",
    "response_format": "must be 'url' or 'b64_json'",
    "user": "must be a string",
}


def explain(errors: list[Any], *, max_n: int = MAX_N) -> str:
    """Say what is wrong without echoing a value, which may be a whole picture in base64.

    Args:
        errors: The `errors()` of a pydantic `ValidationError`.
        max_n: The most variations a call makes.
    """
    rules = {**_RULES, "n": f"must be a whole number from 1 to {max_n}"}
    broken = []
    for item in errors[:_SAID]:
        name = str(item["loc"][0]) if item["loc"] else "arguments"
        if item["type"] == "extra_forbidden" or name not in rules:
            broken.append(f"{shown(name)} is not an argument")
        elif item["type"] == "missing":
            broken.append(f"{name} is missing; it {rules[name]}")
        else:
            broken.append(f"{name} {rules[name]}, got {shown(item.get('input'))}")
    return f"Correct these arguments and call again: {'; '.join(broken)}."
