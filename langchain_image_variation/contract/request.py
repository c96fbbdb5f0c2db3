"""`CreateImageVariationRequest`: a valid request, with its limits and defaults."""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    StrictInt,
    StrictStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from langchain_image_variation.exceptions import InvalidRequestError, excerpt
from langchain_image_variation.images.png import SquarePNG

__all__ = [
    "DEFAULT_MODEL",
    "MAX_N",
    "SIZES",
    "VARIATIONS_PATH",
    "CreateImageVariationRequest",
    "ResponseFormat",
    "Size",
]

Size = Literal["256x256", "512x512", "1024x1024"]
"""The sizes of a variation, width x height in pixels."""

ResponseFormat = Literal["url", "b64_json"]
"""How a variation is returned: as a URL, or as base64 inside the JSON."""

VARIATIONS_PATH = "/images/variations"
"""The path of the operation, below a base URL such as "https://api.openai.com/v1"."""
SIZES: tuple[Size, ...] = get_args(Size)
DEFAULT_MODEL = "dall-e-2"
"""The model of a request that does not name one. Every engine accepts it."""
MAX_N = 10
"""The maximum number of variations per request."""


class CreateImageVariationRequest(BaseModel):
    """A valid request for variations of an image. If a field is None, its default is used.

    Raises:
        InvalidRequestError: If a field is missing, unknown or out of range. `param` names it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    image: SquarePNG
    """The image to vary."""
    model: Annotated[StrictStr, Field(min_length=1)] = DEFAULT_MODEL
    """One of the engine's models. Every engine accepts "dall-e-2"."""
    n: Annotated[StrictInt, Field(ge=1, le=MAX_N)] = 1
    """The number of variations, 1 to 10."""
    response_format: ResponseFormat = "url"
    """How to return the variations: "url" or "b64_json"."""
    size: Size = "1024x1024"
    """The width and height of each variation in pixels."""
    user: StrictStr | None = None
    """An ID for the end user, for hosted engines that monitor abuse."""

    @property
    def side(self) -> int:
        """The width and height of each variation in pixels."""
        return int(self.size.partition("x")[0])

    @property
    def named_model(self) -> str | None:
        """The model that the request names, or None if it leaves the choice to the engine."""
        return None if self.model == DEFAULT_MODEL else self.model

    def to_form(self) -> dict[str, str]:
        """Return the fields of the multipart form, except `image`, in the order of the wire."""
        form = {
            "model": self.model,
            "n": str(self.n),
            "response_format": self.response_format,
            "size": self.size,
        }
        return form if self.user is None else {**form, "user": self.user}

    @field_validator("model", "n", "response_format", "size", mode="before")
    @classmethod
    def _null_is_default(cls, value: object, info: ValidationInfo) -> object:
        return cls.model_fields[str(info.field_name)].default if value is None else value

    @model_validator(mode="wrap")
    @classmethod
    def _translate_errors(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(data)
        except ValidationError as error:
            raise _invalid_field_error(error) from None


_RULES = {
    "image": "must be a SquarePNG, such as load_source(photo).png",
    "model": "must be a non-empty string",
    "n": f"must be a whole number from 1 to {MAX_N}",
    "response_format": "must be 'url' or 'b64_json'",
    "size": "must be one of '256x256', '512x512', '1024x1024'",
    "user": "must be a string",
}


def _invalid_field_error(error: ValidationError) -> InvalidRequestError:
    """Return our own error for the first invalid field. Pydantic's messages repeat whole values."""
    first = error.errors(include_url=False, include_context=False)[0]
    if not first["loc"]:
        return InvalidRequestError("The request must be a mapping of its fields.")
    param = str(first["loc"][0])[:40]
    if first["type"] == "missing":
        return InvalidRequestError(f"{param} is missing; it {_RULES[param]}.", param=param)
    if param not in _RULES:
        fields = ", ".join(_RULES)
        return InvalidRequestError(
            f"{excerpt(param)} is not a field of the request; the fields are {fields}.", param=param
        )
    return InvalidRequestError(
        f"{param} {_RULES[param]}, got {excerpt(first['input'])}.", param=param
    )
