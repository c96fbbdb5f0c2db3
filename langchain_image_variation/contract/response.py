"""`ImagesResponse`: the variations of one request, as they are written and read."""

import base64
import math
import time
from collections.abc import Iterable
from typing import Annotated, Any, Self, get_args

from pydantic import Field, PrivateAttr, ValidationError, field_validator
from pydantic_core import from_json

from langchain_image_variation.contract.image import Image, data_url
from langchain_image_variation.contract.lenient_body import (
    Count,
    LenientBody,
    OptionalText,
    OrNone,
)
from langchain_image_variation.contract.request import ResponseFormat
from langchain_image_variation.exceptions import EngineError, OutputError, excerpt

__all__ = ["ImagesResponse", "Usage", "UsageInputTokensDetails", "UsageOutputTokensDetails"]


class UsageInputTokensDetails(LenientBody):
    """The tokens of the request, by kind."""

    image_tokens: Count = None
    text_tokens: Count = None


class UsageOutputTokensDetails(LenientBody):
    """The tokens of the response, by kind."""

    image_tokens: Count = None
    text_tokens: Count = None


class Usage(LenientBody):
    """The tokens of a request, for models that are billed by token."""

    input_tokens: Count = None
    input_tokens_details: Annotated[UsageInputTokensDetails | None, OrNone] = None
    output_tokens: Count = None
    output_tokens_details: Annotated[UsageOutputTokensDetails | None, OrNone] = None
    total_tokens: Count = None


class ImagesResponse(LenientBody):
    """The response to a request: the variations, and when they were made."""

    created: Count = None
    """When the response was made, in seconds since 1970 (UTC)."""
    data: list[Image] = Field(default_factory=list)
    """The variations, in order."""
    background: OptionalText = None
    output_format: OptionalText = None
    quality: OptionalText = None
    size: OptionalText = None
    usage: Annotated[Usage | None, OrNone] = None

    _model: str | None = PrivateAttr(default=None)
    _note: str | None = PrivateAttr(default=None)
    _request_id: str | None = PrivateAttr(default=None)

    @property
    def model(self) -> str | None:
        """The model that made the images, if the engine names it. It never goes on the wire."""
        return self._model

    @model.setter
    def model(self, value: str | None) -> None:
        self._model = value

    @property
    def note(self) -> str | None:
        """What a person should know about the images, or None. It never goes on the wire."""
        return self._note

    @note.setter
    def note(self, value: str | None) -> None:
        self._note = value

    @property
    def request_id(self) -> str | None:
        """The server's ID for the request, from the header `x-request-id`, or None."""
        return self._request_id

    @request_id.setter
    def request_id(self, value: str | None) -> None:
        self._request_id = value

    @field_validator("created", mode="before")
    @classmethod
    def _whole_seconds(cls, value: object) -> object:
        return int(value) if isinstance(value, float) and math.isfinite(value) else value

    @field_validator("data", mode="before")
    @classmethod
    def _null_is_empty(cls, value: object) -> object:
        return [] if value is None else value

    @classmethod
    def from_pngs(
        cls,
        pngs: Iterable[bytes],
        *,
        response_format: ResponseFormat,
        seeds: Iterable[int] | None = None,
        model: str | None = None,
        note: str | None = None,
    ) -> Self:
        """Make the response of an engine that has no server. A `url` becomes a `data:` URL.

        Args:
            pngs: The bytes of each PNG file, in order. `encode_png` makes them from Pillow images.
            response_format: The requested form: `request.response_format`.
            seeds: The seed of each image, if the engine has seeds.
            model: The model that made the images, if the engine has several.
            note: A sentence that a person should read with the images, such as "Made at 512x512
                and enlarged." The tool, `create` and the manifest of a batch show it.

        Raises:
            EngineError: If an argument has a wrong type or value, or the numbers of files and seeds
                differ.
        """
        if response_format not in get_args(ResponseFormat):
            raise EngineError(
                f"response_format must be 'url' or 'b64_json', got {excerpt(response_format)}. "
                "Pass request.response_format."
            )
        if isinstance(pngs, str | bytes | bytearray):
            raise EngineError("from_pngs needs a list of PNG files, got one file; pass [png].")
        files = list(pngs)
        image_seeds: list[int | None] = [None] * len(files) if seeds is None else [*seeds]
        if len(files) != len(image_seeds):
            raise EngineError(
                "from_pngs needs one seed for each file; the number of files is "
                f"{len(files)}, and of seeds {len(image_seeds)}."
            )
        for name, text in (("model", model), ("note", note)):
            if text is not None and not isinstance(text, str):
                raise EngineError(f"{name} must be a string or None, got {excerpt(text)}.")
        images = []
        for png, seed in zip(files, image_seeds, strict=True):
            if not isinstance(png, bytes):
                raise EngineError(
                    "from_pngs needs the bytes of PNG files, got a value of type "
                    f"{type(png).__name__}. encode_png(image) makes them from a Pillow image."
                )
            if response_format == "b64_json":
                image = Image(b64_json=base64.b64encode(png).decode("ascii"))
            else:
                image = Image(url=data_url(png))
            if seed is not None:
                image.set_seed(seed)
            images.append(image)
        response = cls(created=int(time.time()), data=images)
        response.model, response.note = model, note
        return response

    def to_json(self) -> str:
        """Return the body as the vendor wrote it: indented by two spaces, with a final newline.

        Keys outside the contract and keys without a value are left out.

        Raises:
            OutputError: If `created` is missing, or if an entry does not have exactly one form.
        """
        if self.created is None:
            raise OutputError("The response has no 'created' time, so it cannot be written.")
        if any((image.b64_json is None) == (image.url is None) for image in self.data):
            raise OutputError("Each result must have exactly one of 'b64_json' and 'url'.")
        return self.model_dump_json(indent=2, include=_WRITTEN, exclude_none=True) + "\n"

    @classmethod
    def from_json(cls, body: str | bytes) -> Self:
        """Read a body, including keys outside the contract.

        Raises:
            OutputError: If the body is not JSON, or not an object of this shape.
        """
        try:
            content = from_json(body)
        except ValueError:
            content = None
        return cls.from_content(content)

    @classmethod
    def from_content(cls, content: object) -> Self:
        """Read a body that is already parsed.

        Raises:
            OutputError: If it is not an object of this shape.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            location = ".".join(str(part) for part in first["loc"]) or "the body"
            raise OutputError(
                f"The response is not an ImagesResponse: {location} is invalid."
            ) from None


_TOKENS = {"image_tokens", "text_tokens"}
_WRITTEN: dict[str, Any] = {
    **dict.fromkeys(("created", "background", "output_format", "quality", "size"), True),
    "data": {"__all__": {"b64_json", "url", "revised_prompt"}},
    "usage": {
        **dict.fromkeys(("input_tokens", "output_tokens", "total_tokens"), True),
        "input_tokens_details": _TOKENS,
        "output_tokens_details": _TOKENS,
    },
}
"""The keys of the contract. `ImagesResponse.to_json` writes only these."""
