"""The LangChain tool. An agent names the image to vary instead of sending it."""

import asyncio
import base64
import contextlib
import io
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
    PrivateAttr,
    ValidationError,
    model_validator,
)
from pydantic.v1 import ValidationError as ValidationErrorV1

from langchain_image_variation.agents.arguments import (
    TOOL_DESCRIPTION,
    TOOL_NAME,
    ImageVariationArguments,
    StrengthArguments,
    bounded_arguments,
    explain_errors,
)
from langchain_image_variation.agents.artifact import open_result
from langchain_image_variation.agents.call import (
    CallResult,
    call_tool,
    call_tool_async,
    check_settings,
    largest_n,
)
from langchain_image_variation.agents.conversation_storage import delete_conversation
from langchain_image_variation.agents.failures import ToolErrorTranslation
from langchain_image_variation.agents.image_listener import ImageListener
from langchain_image_variation.agents.langchain_messages import is_runtime, read_conversation
from langchain_image_variation.agents.loaded_engines import LoadedEngines
from langchain_image_variation.agents.settings import ToolSettings
from langchain_image_variation.contract import MAX_N, ResponseFormat

__all__ = ["PROGRESS_EVENT", "ImageVariationInput", "ImageVariationTool"]

PROGRESS_EVENT = "image_variation_progress"
"""The name of the custom event for each finished image."""


def _check_runtime(value: object) -> object:
    if value is not None and not is_runtime(value):
        raise ValueError("only an agent can pass a runtime")
    return value


class ImageVariationInput(ImageVariationArguments):
    """The arguments of the tool. A model sees `image`, `n` and `size`. Programs may pass more."""

    model: Annotated[str | None, InjectedToolArg] = Field(
        default=None, description="One of the engine's models."
    )
    response_format: Annotated[ResponseFormat | None, InjectedToolArg] = Field(
        default=None, description="How the engine returns the images. They are saved either way."
    )
    user: Annotated[str | None, InjectedToolArg] = Field(
        default=None, description="An ID for the end user."
    )
    # LangChain serializes the arguments. With the runtime, it would serialize the conversation.
    runtime: Annotated[
        Any, InjectedToolArg, AfterValidator(_check_runtime), PlainSerializer(lambda _: None)
    ] = Field(default=None, repr=False, description="Injected by an agent; not for others.")


class ImageVariationStrengthInput(ImageVariationInput, StrengthArguments):
    """The arguments of a tool with `expose_strength`: the model also sees `strength`."""


class ImageVariationTool(BaseTool, ToolSettings):
    """Makes variations of an image in the conversation or under `root_dir`.

    The message to the model is a short text that names the new images. With the setting `content`,
    it also contains images. The artifact is a JSON object:

    - `images` has an object per image, with `handle`, `path` (relative to `root_dir`, or to
      `output_dir` if that is a URL), `sha256`, `width` and `height` in pixels, `seed`, `engine`
      (the name under which it is installed, or else the name of its class), `model` (if the engine
      names it), and `created` in seconds since 1970. With `public_url`, it also has `url`. If the
      model chose a `strength`, it has that too.
    - `note` is what a person should know about the images, if the engine has something to say.
    - `usage_metadata` has the tokens and the cost in US dollars, if the engine reports them.
    - `cached` is true if the images are those of an earlier call; see `cache`.

    By default, neither contains image data. Neither contains an absolute path, unless `public_url`
    is one. `open_result` opens the file of an image in the artifact.

    If the model makes a mistake, such as naming an image that does not exist, it gets a text that
    lists what it may use, and the agent continues. A failure is logged and, if `raise_on` has its
    class, raised.

    In an agent, the images of the conversation are read from its messages. A `thread_id` in the
    config gives the conversation its own folder, with its results and the images of its messages,
    which can then be varied after their messages were removed. For each finished image, the tool
    dispatches the custom event `image_variation_progress` with `done` and `n`.

    Raises:
        ImageVariationError: On construction. See `check_settings`.
        InvalidRequestError: On construction. See `ToolSettings`.
        pydantic.ValidationError: On construction, if a setting does not exist, or has a wrong type
            or value.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = TOOL_NAME
    description: str = TOOL_DESCRIPTION
    args_schema: type[BaseModel] = ImageVariationInput
    response_format: Literal["content_and_artifact"] = "content_and_artifact"
    handle_tool_error: bool | str | Callable[[ToolException], str] | None = True
    handle_validation_error: (
        bool | str | Callable[[ValidationError | ValidationErrorV1], str] | None
    ) = Field(default_factory=lambda: _explain, repr=False)

    _engines: LoadedEngines = PrivateAttr(default_factory=LoadedEngines)

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_settings(self, self._engines)
        if self.expose_strength and self.args_schema is ImageVariationInput:
            self.args_schema = ImageVariationStrengthInput
        if self.handle_validation_error is _explain:
            # Name the limit and the arguments of this tool.
            self.handle_validation_error = partial(
                _explain,
                max_n=largest_n(self, self._engines),
                with_size=self.fixed_size is None,
                with_strength=self.expose_strength,
            )
        return self

    @property
    def tool_call_schema(self) -> ArgsSchema:
        """The schema that a model sees, within the limits of the settings."""
        if self.args_schema not in (ImageVariationInput, ImageVariationStrengthInput):
            return super().tool_call_schema
        return bounded_arguments(
            name=self.name,
            description=self.description,
            max_n=largest_n(self, self._engines),
            with_size=self.fixed_size is None,
            with_strength=self.expose_strength,
            keeps_shape=self.fit == "keep",
        )

    def open_result(self, artifact: Any, index: int) -> io.BytesIO:
        """Open the image file of a result, for example to show it in a user interface.

        The tool reads nothing that a call could not read, even if a client forged the artifact: the
        file must be a result in `output_dir`, and have the hash that the artifact states. It works
        wherever `output_dir` is, for artifacts that were stored as JSON, and in every process that
        makes a tool with the same `root_dir` and `output_dir`. This method reads a file: on an
        event loop, run it with `asyncio.to_thread`.

        Args:
            artifact: The artifact of a message of the tool.
            index: The position of the image in the artifact's list `images`.

        Returns:
            The PNG file, in memory.

        Raises:
            InvalidRequestError: If `artifact` is not an artifact of the tool, or has no image at
                this position.
            OutputError: If the file was deleted or changed, or cannot be read.
        """
        return open_result(self, artifact, index)

    def delete_conversation(self, thread_id: str) -> None:
        """Delete the results and the uploads of a conversation, when it has ended.

        Its folders are deleted if they are then empty. Other files in them stay, and so do links
        and the records of the `cache`. If the conversation has stored nothing, nothing happens.
        Calls may run at the same time. This method works on files: on an event loop, run it with
        `asyncio.to_thread`.

        Args:
            thread_id: The `thread_id` of the conversation.

        Raises:
            OutputError: If a file cannot be deleted, or if a folder of the conversation is a link.
            SourceError: If there is no `root_dir`, or if `output_dir` leads out of it.
        """
        # A config may have a UUID.
        delete_conversation(self, str(thread_id))

    # LangChain calls these with the validated fields of `ImageVariationInput`.

    def _run(
        self,
        image: str,
        *,
        config: RunnableConfig,
        run_manager: CallbackManagerForToolRun | None = None,
        runtime: Any = None,
        **others: Any,
    ) -> tuple[str | list[Any], dict[str, Any]]:
        arguments, fields = _split_arguments(image, others)
        with (
            # An error of a developer's handler is passed on unchanged.
            _event_listener(run_manager) as listener,
            ToolErrorTranslation(self.raise_on, ToolException) as translation,
        ):
            conversation = read_conversation(runtime, config, self.name)
            translation.conversation = conversation
            result = call_tool(
                self, self._engines, arguments, conversation, fields=fields, listener=listener
            )
            return _message(result)

    async def _arun(
        self,
        image: str,
        *,
        config: RunnableConfig,
        run_manager: AsyncCallbackManagerForToolRun | None = None,
        runtime: Any = None,
        **others: Any,
    ) -> tuple[str | list[Any], dict[str, Any]]:
        arguments, fields = _split_arguments(image, others)
        async with _event_listener_async(run_manager) as listener:
            with ToolErrorTranslation(self.raise_on, ToolException) as translation:
                # The messages may contain many megabytes of images.
                conversation = await asyncio.to_thread(
                    read_conversation, runtime, config, self.name
                )
                translation.conversation = conversation
                result = await call_tool_async(
                    self, self._engines, arguments, conversation, fields=fields, listener=listener
                )
                return _message(result)


def _split_arguments(
    image: str, others: dict[str, Any]
) -> tuple[ImageVariationArguments, dict[str, Any]]:
    """Return the arguments from the model, and the other fields of the request."""
    from_model = {name: others[name] for name in ("n", "size", "strength") if name in others}
    fields = {name: value for name, value in others.items() if name not in from_model}
    arguments_class = StrengthArguments if "strength" in from_model else ImageVariationArguments
    return arguments_class(image=image, **from_model), fields


def _message(result: CallResult) -> tuple[str | list[Any], dict[str, Any]]:
    """Return the content and the artifact of the message."""
    if not result.content_images:
        return result.content, result.artifact
    blocks: list[Any] = [create_text_block(result.content)]
    for image in result.content_images:
        data = base64.b64encode(image).decode("ascii")
        blocks.append(create_image_block(base64=data, mime_type="image/jpeg"))
    return blocks, result.artifact


@contextlib.contextmanager
def _event_listener(run: CallbackManagerForToolRun | None) -> Iterator[ImageListener | None]:
    """Yield a thread-safe listener that dispatches an event for each finished image."""
    if run is None:
        yield None
        return
    # Not the config of the call: its callbacks may not belong to this run.
    run_config: RunnableConfig = {"callbacks": run.get_child()}
    errors: list[Exception] = []

    def dispatch(finished: int, n: int) -> None:
        try:
            dispatch_custom_event(PROGRESS_EVENT, {"done": finished, "n": n}, config=run_config)
        # An error of a handler is not an error of the engine, which calls this.
        except Exception as error:
            errors.append(error)

    yield dispatch
    if errors:
        raise errors[0]


@contextlib.asynccontextmanager
async def _event_listener_async(
    run: AsyncCallbackManagerForToolRun | None,
) -> AsyncIterator[ImageListener | None]:
    """Yield a listener for the event loop that dispatches an event for each finished image."""
    if run is None:
        yield None
        return
    run_config: RunnableConfig = {"callbacks": run.get_child()}
    events: asyncio.Queue[dict[str, int] | None] = asyncio.Queue()

    async def dispatch_events() -> None:
        while (event := await events.get()) is not None:
            await adispatch_custom_event(PROGRESS_EVENT, event, config=run_config)

    def enqueue(finished: int, n: int) -> None:
        events.put_nowait({"done": finished, "n": n})

    task = asyncio.create_task(dispatch_events())
    try:
        yield enqueue
        events.put_nowait(None)
        await task
    finally:
        task.cancel()


def _explain(
    error: ValidationError | ValidationErrorV1,
    *,
    max_n: int = MAX_N,
    with_size: bool = True,
    with_strength: bool = False,
) -> str:
    return explain_errors(
        error.errors(), max_n=max_n, with_size=with_size, with_strength=with_strength
    )
