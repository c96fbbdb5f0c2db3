"""The input of a hosted model: its name, its parameters and the image."""

import base64
import copy
import json
import re
from collections.abc import Mapping

from langchain_image_variation.contract import DEFAULT_MODEL, CreateImageVariationRequest
from langchain_image_variation.exceptions import InvalidRequestError, ModelNotFoundError, excerpt
from langchain_image_variation.hosted.parameters import check_parameters
from langchain_image_variation.images.pixels import as_small_file, flatten_on_white

__all__ = ["check_extra_input", "check_model_path", "chosen_model", "image_data_url"]

MAX_SENT_SIDE = 1024
"""The largest side of an image in a `data:` URL, in pixels. The models see at most 384 of them."""

MAX_SENT_BYTES = 750_000
"""A larger PNG is sent as JPEG instead. In base64, this is the 1 MB that Replicate advises."""

_MODEL = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)+(:[0-9a-f]{64})?", re.ASCII)


def check_model_path(model: str) -> str:
    """Return the name of a model, such as "owner/name".

    Raises:
        InvalidRequestError: If it is something else, and could change the address of the request.
    """
    if isinstance(model, str) and _MODEL.fullmatch(model):
        return model
    raise InvalidRequestError(
        f"model must be a name such as 'owner/name', got {excerpt(model)}.", param="model"
    )


def chosen_model(request: CreateImageVariationRequest, default: str) -> str:
    """Return the model of a request: its own, or the default if it names none or "dall-e-2".

    Raises:
        ModelNotFoundError: If it is not a name such as "owner/name".
    """
    if request.model == DEFAULT_MODEL:
        return default
    if _MODEL.fullmatch(request.model):
        return request.model
    raise ModelNotFoundError(
        f"There is no model {request.model[:60]!r}. Pass a name such as {default!r}."
    )


def check_extra_input(
    values: Mapping[str, object] | None, reserved_names: frozenset[str]
) -> dict[str, object]:
    """Return the parameters of a model that the engine does not set.

    Raises:
        InvalidRequestError: If a name is reserved, or a value cannot be sent as JSON.
    """
    parameters = check_parameters("extra_input", values)
    for name in parameters:
        if name in reserved_names:
            raise InvalidRequestError(
                f"extra_input must not contain {name!r}; the engine sets it.", param="extra_input"
            )
        _check_json(name, parameters[name])
    # A copy, which the caller's lists and mappings do not change.
    return copy.deepcopy(dict(parameters))


def _check_json(name: str, value: object) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise InvalidRequestError(
            f"extra_input must give {excerpt(name)} as a JSON value. JSON has no NaN and no "
            "infinity. Integers of thousands of digits and mappings other than dict are refused.",
            param="extra_input",
        ) from None


def image_data_url(request: CreateImageVariationRequest) -> str:
    """Return the image of a request as a `data:` URL, as a person sees it on a white page.

    Raises:
        InvalidImageError: If its pixels are corrupt.
    """
    data, media_type = as_small_file(
        flatten_on_white(request.image), max_side=MAX_SENT_SIDE, max_bytes=MAX_SENT_BYTES
    )
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"
