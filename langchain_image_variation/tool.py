"""The LangChain tool: an agent varies pictures by name and never sees a byte of them."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from langchain_core.tools import BaseTool, InjectedToolArg, ToolException
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
)
from pydantic.v1 import ValidationError as ValidationErrorV1

from langchain_image_variation.contract import (
    MAX_N,
    SIZES,
    CreateImageVariationRequest,
    ImagesResponse,
    ResponseFormat,
    Size,
)
from langchain_image_variation.engines import (
    AsyncVariationEngine,
    VariationEngine,
    call_engine,
    call_engine_async,
    load_engine,
)
from langchain_image_variation.exceptions import (
    ImageVariationError,
    InvalidRequestError,
    SourceError,
    shown,
)
from langchain_image_variation.folder import PictureFolder
from langchain_image_variation.output import make_output_dir, save_images
from langchain_image_variation.source import Fit, Source, load_source

__all__ = ["ImageVariationInput", "ImageVariationTool"]


_SAID = 4
"""So many broken arguments are named: as many as a model can mean in earnest."""


def _or_default(default: object) -> BeforeValidator:
    """Models often send null for an argument they leave out."""
    return BeforeValidator(lambda value: default if value is None else value)


class ImageVariationInput(BaseModel):
    """The tool's arguments. A model sees `image`, `n` and `size`; programs may pass the rest."""

    model_config = ConfigDict(extra="forbid")

    image: str = Field(
        description="The picture to vary: a file path relative to the picture folder, such as "
        "'photo.jpg', or a name returned by an earlier call. Never a URL or base64."
    )
    n: Annotated[int, _or_default(1)] = Field(
        default=1, ge=1, le=MAX_N, description="How many variations to make."
    )
    size: Annotated[Size, _or_default("1024x1024")] = Field(
        default="1024x1024", description="Width x height of each variation in pixels."
    )
    model: Annotated[str | None, InjectedToolArg] = Field(
        default=None, description="The model, by the engine's own names."
    )
    response_format: Annotated[ResponseFormat | None, InjectedToolArg] = Field(
        default=None, description="How the engine returns the pictures; they are saved either way."
    )
    user: Annotated[str | None, InjectedToolArg] = Field(
        default=None, description="An identifier of the end user."
    )


class ImageVariationTool(BaseTool):
    """Makes variations of a picture under `root_dir` and saves them there.

    The message to the model is short text that names the new pictures. The artifact is a list with
    one JSON object a picture: `handle`, `path` (relative to `root_dir`), `sha256`, `width` and
    `height` in pixels, `seed`, `engine`, and `created` in seconds since 1970. Neither holds picture
    data or an absolute path. A mistake of the model, such as a picture that does not exist, is
    answered with text that says what it may use, and the agent goes on.

    Raises:
        ImageVariationError: On construction, if the engine cannot be loaded, there is no folder
            `root_dir`, or `output_dir` leads out of it.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = "image_variation"
    description: str = (
        "Make 1 to 10 variations of a picture: new pictures that look like it, rearranged a "
        "little or a lot. Takes no prompt and draws nothing new. Returns the names of the new "
        "pictures, which can be varied again."
    )
    args_schema: type[BaseModel] = ImageVariationInput
    response_format: Literal["content_and_artifact"] = "content_and_artifact"
    handle_tool_error: bool | str | Callable[[ToolException], str] | None = True
    handle_validation_error: (
        bool | str | Callable[[ValidationError | ValidationErrorV1], str] | None
    ) = Field(default_factory=lambda: _broken_arguments)

    engine: str | VariationEngine | AsyncVariationEngine = "local"
    """An engine, or the name of one."""
    root_dir: str | os.PathLike[str] = "."
    """The folder whose pictures the model may use; by default the working directory."""
    output_dir: str | os.PathLike[str] = "variations"
    """Where variations are saved: a folder inside `root_dir`, relative to it."""
    max_n: int = Field(default=MAX_N, ge=1, le=MAX_N)
    """The most variations a call makes, whatever the model asks for."""
    fixed_size: Size | None = None
    """The size of every variation, whatever the model asks for."""
    fit: Fit = "crop"
    """What to do with a picture that is no square PNG under 4 MB; see `load_source`."""

    _loaded: tuple[object, VariationEngine | AsyncVariationEngine] | None = PrivateAttr(None)

    def model_post_init(self, context: Any) -> None:
        """Find mistakes in the settings now rather than in a conversation."""
        super().model_post_init(context)
        self._folder()
        self._load()

    # LangChain has validated the arguments when these run; they are those of `ImageVariationInput`.

    def _run(self, image: str, **others: Any) -> tuple[str, list[dict[str, Any]]]:
        asked = ImageVariationInput(image=image, **others)
        try:
            source, request = self._request(asked)
            return self._result(asked, source, request, call_engine(self._load(), request))
        except ImageVariationError as error:
            raise ToolException(error.message) from error

    async def _arun(self, image: str, **others: Any) -> tuple[str, list[dict[str, Any]]]:
        asked = ImageVariationInput(image=image, **others)
        try:
            source, request = await asyncio.to_thread(self._request, asked)
            response = await call_engine_async(self._load(), request)
            return await asyncio.to_thread(self._result, asked, source, request, response)
        except ImageVariationError as error:
            raise ToolException(error.message) from error

    def _folder(self) -> PictureFolder:
        return PictureFolder(Path(self.root_dir), Path(self.output_dir))

    def _load(self) -> VariationEngine | AsyncVariationEngine:
        """Return the engine of the `engine` field, which a copy of the tool may have changed."""
        if self._loaded is None or self._loaded[0] is not self.engine:
            if isinstance(self.engine, type):
                name = self.engine.__name__
                raise InvalidRequestError(
                    f"engine must be an engine, got the class {name}; pass {name}().",
                    param="engine",
                )
            engine = load_engine(self.engine) if isinstance(self.engine, str) else self.engine
            self._loaded = self.engine, engine
        return self._loaded[1]

    def _request(self, asked: ImageVariationInput) -> tuple[Source, CreateImageVariationRequest]:
        folder = self._folder()
        path = folder.find(asked.image)
        try:
            source = load_source(path, fit=self.fit)
        except ImageVariationError as error:
            raise SourceError(f"{path.name}: {error.message} {folder.choices()}") from None
        # Before the work, so that none is lost.
        make_output_dir(folder.results)
        request = CreateImageVariationRequest(
            image=source.png,
            n=min(asked.n, self.max_n),
            size=self.fixed_size or asked.size,
            response_format=asked.response_format or "b64_json",
            user=asked.user,
            **({} if asked.model is None else {"model": asked.model}),
        )
        return source, request

    def _result(
        self,
        asked: ImageVariationInput,
        source: Source,
        request: CreateImageVariationRequest,
        response: ImagesResponse,
    ) -> tuple[str, list[dict[str, Any]]]:
        """Save an answer and describe it: the message to the model, and the artifact."""
        folder = self._folder()
        saved = save_images(response, folder.results, name=source.name)
        engine = self.engine if isinstance(self.engine, str) else type(self.engine).__name__
        output_dir = Path(self.output_dir).as_posix()
        artifact = [
            {
                "handle": image.path.stem,
                "path": f"{output_dir}/{image.path.name}",
                "sha256": image.sha256,
                "width": image.width,
                "height": image.height,
                "seed": image.seed,
                "engine": engine,
                "created": response.created,
            }
            for image in saved
        ]
        handles = ", ".join(image.path.stem for image in saved)
        made = "1 variation" if len(saved) == 1 else f"{len(saved)} variations"
        content = (
            f"Made {made} of {source.name}, {request.size} pixels: {handles}. They are saved in "
            f"{output_dir}/ as <name>.png; pass a name as image to vary it again."
        )
        limit = f"This tool makes at most {self.max_n} a call." if asked.n > self.max_n else ""
        return " ".join(filter(None, (content, limit, source.note))), artifact


_RULES = {
    "image": "must be a string: a relative path, or a name returned earlier",
    "n": f"must be a whole number from 1 to {MAX_N}",
    "size": f"must be one of {', '.join(SIZES)}",
    "model": "must be a string",
    "response_format": "must be 'url' or 'b64_json'",
    "user": "must be a string",
}


def _broken_arguments(error: ValidationError | ValidationErrorV1) -> str:
    """Say what is wrong without echoing a value, which may be a whole picture in base64."""
    broken = []
    for item in error.errors()[:_SAID]:
        name = str(item["loc"][0]) if item["loc"] else "arguments"
        if name not in _RULES:
            broken.append(f"{shown(name)} is not an argument")
        elif item["type"] == "missing":
            broken.append(f"{name} is missing; it {_RULES[name]}")
        else:
            broken.append(f"{name} {_RULES[name]}, got {shown(item.get('input'))}")
    return f"Correct these arguments and call again: {'; '.join(broken)}."
