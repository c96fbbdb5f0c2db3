"""The wire contract of `POST /v1/images/variations`: request and response bodies.

Names, limits and defaults come from the operation `createImageVariation` and its schemas
`CreateImageVariationRequest`, `ImagesResponse` and `Image` in the vendor's OpenAPI file.

Writing is strict: every field of a request must be valid, and a response is written with the keys
of the contract only. Reading is lenient: unknown keys are kept, and `null` is accepted wherever a
real server might send it.
"""

import base64
import binascii
import copy
import math
import time
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    StrictInt,
    StrictStr,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import from_json

from langchain_image_variation.exceptions import (
    EngineError,
    ImageVariationError,
    InvalidRequestError,
    OutputError,
    excerpt,
)
from langchain_image_variation.images.png import SquarePNG

__all__ = [
    "DEFAULT_MODEL",
    "MAX_N",
    "SIZES",
    "CreateImageVariationRequest",
    "Image",
    "ImagesResponse",
    "LenientBody",
    "OptionalText",
    "ResponseFormat",
    "Size",
    "Usage",
    "UsageInputTokensDetails",
    "UsageOutputTokensDetails",
]

Size = Literal["256x256", "512x512", "1024x1024"]
"""The sizes of a variation, width x height in pixels."""

ResponseFormat = Literal["url", "b64_json"]
"""How a variation is returned: as a URL, or as base64 inside the JSON."""

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


def _value_or_none(value: object, handler: ValidatorFunctionWrapHandler) -> object:
    try:
        return handler(value)
    except ValidationError:
        return None


_OrNone = WrapValidator(_value_or_none)
"""Reads a value of a wrong type as None, so that the images of a response are not lost."""

OptionalText = Annotated[str | None, _OrNone]
"""A string. It is None if it is missing, null or of another type."""
_Count = Annotated[int | None, _OrNone]


class LenientBody(BaseModel):
    """A body as real servers send it. Unknown keys are kept."""

    model_config = ConfigDict(extra="allow", coerce_numbers_to_str=True)


class UsageInputTokensDetails(LenientBody):
    """The tokens of the request, by kind."""

    image_tokens: _Count = None
    text_tokens: _Count = None


class UsageOutputTokensDetails(LenientBody):
    """The tokens of the response, by kind."""

    image_tokens: _Count = None
    text_tokens: _Count = None


class Usage(LenientBody):
    """The tokens of a request, for models that are billed by token."""

    input_tokens: _Count = None
    input_tokens_details: Annotated[UsageInputTokensDetails | None, _OrNone] = None
    output_tokens: _Count = None
    output_tokens_details: Annotated[UsageOutputTokensDetails | None, _OrNone] = None
    total_tokens: _Count = None


class Image(LenientBody):
    """One variation, in exactly one of two forms: `b64_json` or `url`."""

    b64_json: str | None = Field(default=None, repr=False)
    """The file's bytes in base64."""
    url: str | None = Field(default=None, repr=False)
    """Where the file is: an https URL, or a `data:` URL from an engine without a server."""
    revised_prompt: OptionalText = None
    """The prompt that a prompted model used. Variations have none."""

    @field_validator("b64_json", "url", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value

    _seed: int | None = PrivateAttr(default=None)
    _downloaded: bytes | None = PrivateAttr(default=None)
    _failure: ImageVariationError | None = PrivateAttr(default=None)

    @property
    def seed(self) -> int | None:
        """The seed that made this image, if the engine has seeds. It never goes on the wire."""
        return self._seed

    def set_seed(self, seed: int) -> None:
        """Keep the seed that made this image."""
        self._seed = seed

    @property
    def failure(self) -> ImageVariationError | None:
        """The error that `read` raises because the file could not be fetched, or None."""
        return self._failure

    def set_downloaded(self, data: bytes) -> None:
        """Keep the bytes of the file at `url`, so that `read` returns them."""
        self._downloaded = data

    def set_failure(self, error: ImageVariationError) -> None:
        """Make `read` raise an error, without the traceback that it has now."""
        # A traceback keeps the buffers of the failed download alive.
        self._failure = error.with_traceback(None)

    def set_png(self, png: bytes) -> None:
        """Replace the file and keep its form: downloaded, `b64_json` or a `data:` URL."""
        if self._downloaded is not None:
            self._downloaded = png
        elif self.b64_json:
            self.b64_json = base64.b64encode(png).decode("ascii")
        else:
            self.url = _data_url(png)

    def use_data_url(self) -> None:
        """Turn the image into its other form: the file as a `data:` URL in `url`.

        Raises:
            ImageVariationError: See `read`.
        """
        self.url, self.b64_json = _data_url(self.read()), None

    def use_base64(self) -> None:
        """Put the file into `b64_json`, whatever the form of the image was.

        Raises:
            ImageVariationError: See `read`.
        """
        self.b64_json, self.url = base64.b64encode(self.read()).decode("ascii"), None
        self._downloaded = None

    def read(self) -> bytes:
        """Return the bytes of the image file. This never sends a request.

        The bytes come from `b64_json`, from a `data:` URL, or from the download that the client
        made when it received the response, because URLs of results soon expire.

        Raises:
            OutputError: If there are no bytes, or they are not valid base64.
            DownloadError: If `url` could not be downloaded; `ExpiredURLError` if it had expired.
            EngineResponseError: If the server sent something other than an image.
        """
        if self._failure is not None:
            # Raising adds a traceback to an exception, so each reader gets a copy.
            raise copy.copy(self._failure)
        if self._downloaded is not None:
            return self._downloaded
        return _decode_base64(self._encoded())

    def read_head(self) -> bytes:
        """Return at least the first 24 bytes of the image file, without decoding all of it.

        The width and height of a PNG file are in these 24 bytes.

        Raises:
            ImageVariationError: See `read`.
        """
        if self._failure is not None or self._downloaded is not None:
            return self.read()
        head = "".join(self._encoded(_HEAD).split())
        return _decode_base64(head[: len(head) // 4 * 4])

    def _encoded(self, length: int | None = None) -> str:
        """Return the base64 in the first `length` characters of `b64_json` or of a `data:` URL."""
        encoded = (self.b64_json or self.url or "")[:length]
        if encoded.startswith("data:"):
            # Some gateways put a whole data: URL into b64_json.
            head, _, encoded = encoded.partition(",")
            if not head.endswith(";base64"):
                raise OutputError("The data: URL of the result is not in base64.")
        elif not self.b64_json:
            encoded = ""
        if not encoded:
            raise OutputError("The result has no image; request response_format 'b64_json'.")
        return encoded


_WHITE_SPACE = "\n\r\t "

_HEAD = 256
"""The number of characters of `b64_json` or `url` that `Image.read_head` reads."""


def _decode_base64(encoded: str) -> bytes:
    try:
        # Some servers wrap base64 in lines. Only then is it worth copying megabytes.
        if not any(blank in encoded for blank in _WHITE_SPACE):
            return base64.b64decode(encoded, validate=True)
        text = encoded.encode("ascii").translate(None, _WHITE_SPACE.encode("ascii"))
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise OutputError("The result is not valid base64.") from None


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


class ImagesResponse(LenientBody):
    """The response to a request: the variations, and when they were made."""

    created: _Count = None
    """When the response was made, in seconds since 1970 (UTC)."""
    data: list[Image] = Field(default_factory=list)
    """The variations, in order."""
    background: OptionalText = None
    output_format: OptionalText = None
    quality: OptionalText = None
    size: OptionalText = None
    usage: Annotated[Usage | None, _OrNone] = None

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
                image = Image(url=_data_url(png))
            image._seed = seed
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
