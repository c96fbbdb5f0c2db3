"""The LangChain tool: an agent varies pictures by name and never sees a byte of them."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Annotated, Any, Literal, Self

from langchain_core.callbacks import (
    AsyncCallbackManagerForToolRun,
    CallbackManagerForToolRun,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.messages.content import create_image_block, create_text_block
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, InjectedToolArg, ToolException
from langchain_core.tools.base import ArgsSchema
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)
from pydantic.v1 import ValidationError as ValidationErrorV1

from langchain_image_variation.agents.arguments import (
    TOOL_DESCRIPTION,
    TOOL_NAME,
    ImageVariationArguments,
    bounded_arguments,
    explain,
)
from langchain_image_variation.agents.calls import CallResult, CallSettings
from langchain_image_variation.agents.langchain_messages import conversation_of, is_runtime
from langchain_image_variation.contract import MAX_N, ResponseFormat
from langchain_image_variation.exceptions import ImageVariationError

__all__ = ["PROGRESS_EVENT", "ImageVariationInput", "ImageVariationTool"]

PROGRESS_EVENT = "image_variation_progress"
"""The name of the custom event that tells of each finished picture."""


def _genuine(value: object) -> object:
    if value is not None and not is_runtime(value):
        raise ValueError("runtime is put in by the agent")
    return value


class ImageVariationInput(ImageVariationArguments):
    """The tool's arguments. A model sees `image`, `n` and `size`; programs may pass the rest."""

    model: Annotated[str | None, InjectedToolArg] = Field(
        default=None, description="The model, by the engine's own names."
    )
    response_format: Annotated[ResponseFormat | None, InjectedToolArg] = Field(
        default=None, description="How the engine returns the pictures; they are saved either way."
    )
    user: Annotated[str | None, InjectedToolArg] = Field(
        default=None, description="An identifier of the end user."
    )
    # LangChain serialises the arguments; of a runtime that would be the whole conversation.
    runtime: Annotated[
        Any, InjectedToolArg, AfterValidator(_genuine), PlainSerializer(lambda _: None)
    ] = Field(default=None, repr=False, description="What an agent puts in; nobody else can.")


class ImageVariationTool(BaseTool, CallSettings):
    """Makes variations of a picture of the conversation, or of one under `root_dir`.

    The message to the model is short text that names the new pictures, with `thumbnail` also one
    small picture of them. The artifact is a JSON object: `images` has one object a picture, with
    `handle`, `path` (relative to `root_dir`, or to `output_dir` if that is a URL), `sha256`,
    `width` and `height` in pixels, `seed`, `engine`, and `created` in seconds since 1970;
    `usage_metadata` has the tokens and the cost in US dollars, where the engine tells them;
    `cached` is true if the pictures are those of an earlier call, see `cache`. But for the
    thumbnail, neither holds picture data or an absolute path. A mistake of the model, such as a
    picture that does not exist, is answered with text that says what it may use, and the agent goes
    on.

    In an agent, the pictures of the conversation are read from its messages, and a `thread_id` in
    the config gives the conversation a folder of results of its own. Each finished picture is told
    by a custom event `image_variation_progress` with `done` and `n`.

    Raises:
        ImageVariationError: On construction, as `CallSettings`.
        pydantic.ValidationError: On construction, if a setting is unknown, or of a wrong type or
            value.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = TOOL_NAME
    description: str = TOOL_DESCRIPTION
    args_schema: type[BaseModel] = ImageVariationInput
    response_format: Literal["content_and_artifact"] = "content_and_artifact"
    handle_tool_error: bool | str | Callable[[ToolException], str] | None = True
    handle_validation_error: (
        bool | str | Callable[[ValidationError | ValidationErrorV1], str] | None
    ) = Field(default_factory=lambda: _explained, repr=False)

    @model_validator(mode="after")
    def _knows_its_bound(self) -> Self:
        """Have a correction of the model's arguments name the bound of this tool."""
        if self.handle_validation_error is _explained:
            self.handle_validation_error = partial(_explained, max_n=self.max_n)
        return self

    @property
    def tool_call_schema(self) -> ArgsSchema:
        """The schema that a model sees, with the bounds that the settings put on it."""
        if self.args_schema is not ImageVariationInput:
            return super().tool_call_schema
        return bounded_arguments(
            name=self.name,
            description=self.description,
            max_n=self.max_n,
            with_size=self.fixed_size is None,
        )

    # LangChain has validated the arguments when these run; they are those of `ImageVariationInput`.

    def _run(
        self,
        image: str,
        *,
        config: RunnableConfig,
        run_manager: CallbackManagerForToolRun | None = None,
        runtime: Any = None,
        **others: Any,
    ) -> tuple[str | list[Any], dict[str, Any]]:
        asked, fields = _parted(image, others)
        conversation = conversation_of(runtime, config, self.name)
        try:
            with _progress(run_manager) as finished:
                result = self.call(asked, conversation, fields=fields, finished=finished)
            return _message(result)
        except ImageVariationError as error:
            raise ToolException(error.message) from error

    async def _arun(
        self,
        image: str,
        *,
        config: RunnableConfig,
        run_manager: AsyncCallbackManagerForToolRun | None = None,
        runtime: Any = None,
        **others: Any,
    ) -> tuple[str | list[Any], dict[str, Any]]:
        asked, fields = _parted(image, others)
        # Pictures of many megabytes may lie in the messages.
        conversation = await asyncio.to_thread(conversation_of, runtime, config, self.name)
        try:
            async with _aprogress(run_manager) as finished:
                result = await self.acall(asked, conversation, fields=fields, finished=finished)
            return _message(result)
        except ImageVariationError as error:
            raise ToolException(error.message) from error


def _parted(image: str, others: dict[str, Any]) -> tuple[ImageVariationArguments, dict[str, Any]]:
    """Return what a model asks for, and the further fields of the contract."""
    seen = {name: others.pop(name) for name in ("n", "size") if name in others}
    return ImageVariationArguments(image=image, **seen), others


def _message(result: CallResult) -> tuple[str | list[Any], dict[str, Any]]:
    """Return the content and the artifact of the message."""
    if result.thumbnail is None:
        return result.content, result.artifact
    picture = base64.b64encode(result.thumbnail).decode("ascii")
    blocks = [
        create_text_block(result.content),
        create_image_block(base64=picture, mime_type="image/jpeg"),
    ]
    return blocks, result.artifact


@contextlib.contextmanager
def _progress(
    run: CallbackManagerForToolRun | None,
) -> Iterator[Callable[[int, int], None] | None]:
    """Dispatch an event for each finished picture, from whichever thread it is told."""
    if run is None:
        yield None
        return
    # The config of a call is its caller's, whose callbacks may be of no run.
    own: RunnableConfig = {"callbacks": run.get_child()}
    raised: list[Exception] = []

    def finished(done: int, n: int) -> None:
        try:
            dispatch_custom_event(PROGRESS_EVENT, {"done": done, "n": n}, config=own)
        # What a handler raises is no failure of the engine, which tells of the picture.
        except Exception as error:
            raised.append(error)

    yield finished
    if raised:
        raise raised[0]


@contextlib.asynccontextmanager
async def _aprogress(
    run: AsyncCallbackManagerForToolRun | None,
) -> AsyncIterator[Callable[[int, int], None] | None]:
    """Dispatch an event for each finished picture, in order."""
    if run is None:
        yield None
        return
    own: RunnableConfig = {"callbacks": run.get_child()}
    events: asyncio.Queue[dict[str, int] | None] = asyncio.Queue()

    async def dispatch() -> None:
        while (event := await events.get()) is not None:
            await adispatch_custom_event(PROGRESS_EVENT, event, config=own)

    def finished(done: int, n: int) -> None:
        events.put_nowait({"done": done, "n": n})

    task = asyncio.create_task(dispatch())
    try:
        yield finished
        events.put_nowait(None)
        await task
    finally:
        task.cancel()


def _explained(error: ValidationError | ValidationErrorV1, *, max_n: int = MAX_N) -> str:
    return explain(error.errors(), max_n=max_n)
