"""The LangChain tool. An agent names the image to vary instead of sending it."""

import asyncio
import base64
import io
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Literal, Self, cast, get_args

from langchain_core.callbacks import (
    AsyncCallbackManagerForToolRun,
    CallbackManagerForToolRun,
)
from langchain_core.messages import ToolMessage
from langchain_core.messages.content import create_image_block, create_text_block
from langchain_core.runnables import RunnableConfig, ensure_config
from langchain_core.tools import BaseTool, InjectedToolArg, ToolException
from langchain_core.tools.base import ArgsSchema
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
)
from pydantic.json_schema import SkipJsonSchema
from pydantic.v1 import ValidationError as ValidationErrorV1

from langchain_image_variation.agents.arguments import (
    TOOL_DESCRIPTION,
    TOOL_NAME,
    ArgumentBounds,
    Exposable,
    ExposedArguments,
    ImageVariationArguments,
    bounded_arguments,
    describe_tool,
    explain_errors,
    expose_arguments,
)
from langchain_image_variation.agents.artifact import open_result
from langchain_image_variation.agents.call import call_tool, call_tool_async
from langchain_image_variation.agents.call_result import CallResult
from langchain_image_variation.agents.checked_settings import CheckedSettings
from langchain_image_variation.agents.conversation_storage import delete_conversation
from langchain_image_variation.agents.failures import ToolErrorTranslation
from langchain_image_variation.agents.graph_state import check_state_key, update_state
from langchain_image_variation.agents.langchain_messages import is_runtime, read_conversation
from langchain_image_variation.agents.progress_events import (
    PROGRESS_EVENT,
    report_progress,
    report_progress_async,
)
from langchain_image_variation.agents.settings_check import argument_bounds
from langchain_image_variation.contract import MAX_N, ResponseFormat

__all__ = ["PROGRESS_EVENT", "ImageVariationInput", "ImageVariationTool"]

_DEFAULT_BOUNDS = ArgumentBounds(MAX_N, with_size=True, fit="crop", exposed=frozenset())

# LangChain passes a config only to a parameter that is annotated with exactly `RunnableConfig`.
_NO_CONFIG = cast(RunnableConfig, None)


def _check_runtime(value: object) -> object:
    if value is not None and not is_runtime(value):
        raise ValueError("only an agent can pass a runtime")
    return value


def _drop_description(schema: dict[str, Any]) -> None:
    # The docstring is for developers. Models get the description of the tool.
    schema.pop("description", None)


class ImageVariationInput(ImageVariationArguments):
    """The arguments of the tool. A model sees `image`, `n` and `size`. Programs may pass more.

    The JSON schema leaves the others out, because some hosts show all of it to a model.
    """

    model_config = ConfigDict(json_schema_extra=_drop_description)

    model: Annotated[str | None, InjectedToolArg, SkipJsonSchema()] = Field(
        default=None, description="One of the engine's models."
    )
    response_format: Annotated[ResponseFormat | None, InjectedToolArg, SkipJsonSchema()] = Field(
        default=None, description="How the engine returns the images. They are saved either way."
    )
    user: Annotated[str | None, InjectedToolArg, SkipJsonSchema()] = Field(
        default=None, description="An ID for the end user."
    )
    # LangChain serializes the arguments. With the runtime, it would serialize the conversation.
    runtime: Annotated[
        Any,
        InjectedToolArg,
        SkipJsonSchema(),
        AfterValidator(_check_runtime),
        PlainSerializer(lambda _: None),
    ] = Field(default=None, repr=False, description="Injected by an agent. Do not pass it.")


class ImageVariationTool(BaseTool, CheckedSettings):
    """Makes variations of an image in the conversation or under `root_dir`.

    The message to the model is a short text that names the new images. With the setting `content`,
    it also contains images. The artifact is a JSON object:

    - `images` has an object per image, with `handle`, `path` (relative to `root_dir`, or to
      `output_dir` if that is a URL), `sha256`, `width` and `height` in pixels, `seed`, `engine`
      (the name under which it is installed, or else the name of its class), `model` (if the engine
      names it), and `created` in seconds since 1970. With `public_url`, it also has `url`. It also
      has the `strength`, the `prompt` and the `fit` that the model chose; see `expose`.
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
    dispatches the custom event `image_variation_progress` with `done` and `n`. In a graph, it also
    writes them to the custom stream, with the name of the event as `type` and with `tool_call_id`.

    Raises:
        ImageVariationError: On construction, or if a setting is changed. See `check_settings`.
        InvalidRequestError: On construction, or if a setting is changed. See `ToolSettings`.
        pydantic.ValidationError: On construction, or if a setting is changed, if it does not exist
            or has a wrong type or value. After an error, nothing has changed.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = TOOL_NAME
    description: str = TOOL_DESCRIPTION
    args_schema: type[BaseModel] = ImageVariationInput
    response_format: Literal["content_and_artifact"] = "content_and_artifact"
    handle_tool_error: bool | str | Callable[[ToolException], str] | None = True
    handle_validation_error: (
        bool | str | Callable[[ValidationError | ValidationErrorV1], str] | None
    ) = Field(default_factory=lambda: partial(_explain, bounds=_DEFAULT_BOUNDS), repr=False)
    state_key: Annotated[str, AfterValidator(check_state_key)] | None = None
    """The key under which the state of a graph gets the `images` of each artifact. It needs a
    reducer, such as `add_images`. Without one, two calls at once end the graph with an
    `InvalidUpdateError`, and later calls replace the images of earlier ones. In an agent or a
    `ToolNode`, the tool then returns a `Command`, which contains the message."""

    def _follow_settings(self) -> None:
        """Describe the current settings to the model, unless the developer gave a description."""
        if _is_generated(self.args_schema):
            self.args_schema = expose_arguments(ImageVariationInput, frozenset(self.expose))
        if self.description in (describe_tool(frozenset()), describe_tool({"prompt"})):
            self.description = describe_tool(self.expose)
        if _is_explanation(self.handle_validation_error):
            self.handle_validation_error = partial(
                _explain, bounds=argument_bounds(self, self._engines)
            )

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "state_key" and value is not None:
            check_state_key(value)
        super().__setattr__(name, value)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy. Its arguments and its description match the updated settings.

        Raises:
            ImageVariationError: If the updated settings do not fit together. See `check_settings`.
            pydantic.ValidationError: If an updated setting does not exist, or has a wrong type or
                value.
        """
        state_key = (update or {}).get("state_key")
        if state_key is not None:
            check_state_key(state_key)
        return super().model_copy(update=update, deep=deep)

    @property
    def tool_call_schema(self) -> ArgsSchema:
        """The schema that a model sees, within the limits of the settings."""
        if not _is_generated(self.args_schema):
            return super().tool_call_schema
        return bounded_arguments(
            argument_bounds(self, self._engines), name=self.name, description=self.description
        )

    def get_input_jsonschema(self, config: RunnableConfig | None = None) -> dict[str, Any]:
        """Return the schema that a model sees. Pydantic AI takes it from here."""
        return cast(type[BaseModel], self.tool_call_schema).model_json_schema()

    def func(self, **arguments: Any) -> str:
        """Call the tool, and return only the text for the model.

        AutoGen and CrewAI call `func` where LangChain calls `invoke`.

        Args:
            **arguments: The arguments of the tool; see `ImageVariationInput`.

        Raises:
            ImageVariationError: If the call fails, and `raise_on` has the class. A mistake, such as
                naming an image that does not exist, returns a text.
        """
        content = self.run(arguments)
        return ToolMessage(content, tool_call_id="").text

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        if _is_generated(self.args_schema):
            # A class that was generated for this tool cannot be pickled.
            state["__dict__"] = {**state["__dict__"], "args_schema": ImageVariationInput}
        return state

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        if _is_generated(self.args_schema):
            self.args_schema = expose_arguments(ImageVariationInput, frozenset(self.expose))

    def open_result(self, artifact: object, index: int) -> io.BytesIO:
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

    def _translate_errors(self) -> ToolErrorTranslation:
        return ToolErrorTranslation(self.raise_on, ToolException, self.expose)

    def _output(self, result: CallResult, runtime: Any) -> tuple[Any, dict[str, Any]]:
        """Return the content and the artifact of the message, or a command instead of both."""
        content, artifact = _message(result)
        if self.state_key is None or runtime is None or runtime.tool_call_id is None:
            return content, artifact
        message = ToolMessage(
            content, artifact=artifact, name=self.name, tool_call_id=runtime.tool_call_id
        )
        command = update_state(runtime, self.state_key, message, artifact["images"])
        return content if command is None else command, artifact

    # LangChain calls these with the validated fields of `ImageVariationInput`.

    def _run(
        self,
        image: str,
        *,
        config: RunnableConfig = _NO_CONFIG,
        run_manager: CallbackManagerForToolRun | None = None,
        runtime: Any = None,
        **others: Any,
    ) -> tuple[Any, dict[str, Any]]:
        arguments, fields = _split_arguments(image, others)
        with (
            # An error of a developer's handler is passed on unchanged.
            report_progress(run_manager, runtime) as listener,
            self._translate_errors() as translation,
        ):
            conversation = read_conversation(runtime, ensure_config(config), self.name)
            translation.conversation = conversation
            result = call_tool(
                self, self._engines, arguments, conversation, fields=fields, listener=listener
            )
            return self._output(result, runtime)

    async def _arun(
        self,
        image: str,
        *,
        config: RunnableConfig = _NO_CONFIG,
        run_manager: AsyncCallbackManagerForToolRun | None = None,
        runtime: Any = None,
        **others: Any,
    ) -> tuple[Any, dict[str, Any]]:
        arguments, fields = _split_arguments(image, others)
        async with report_progress_async(run_manager, runtime) as listener:
            with self._translate_errors() as translation:
                # The messages may contain many megabytes of images.
                conversation = await asyncio.to_thread(
                    read_conversation, runtime, ensure_config(config), self.name
                )
                translation.conversation = conversation
                result = await call_tool_async(
                    self, self._engines, arguments, conversation, fields=fields, listener=listener
                )
                return self._output(result, runtime)


def _split_arguments(
    image: str, others: dict[str, Any]
) -> tuple[ImageVariationArguments, dict[str, Any]]:
    """Return the arguments from the model, and the other fields of the request."""
    from_model = {name: others[name] for name in ExposedArguments.model_fields if name in others}
    fields = {name: value for name, value in others.items() if name not in from_model}
    return ExposedArguments(image=image, **from_model), fields


def _message(result: CallResult) -> tuple[str | list[Any], dict[str, Any]]:
    """Return the content and the artifact of the message."""
    if not result.images:
        return result.content, result.artifact
    blocks: list[Any] = [create_text_block(result.content)]
    for image in result.images:
        data = base64.b64encode(image).decode("ascii")
        blocks.append(create_image_block(base64=data, mime_type="image/jpeg"))
    return blocks, result.artifact


def _explain(error: ValidationError | ValidationErrorV1, *, bounds: ArgumentBounds) -> str:
    return explain_errors(error.errors(), bounds)


def _is_generated(schema: type[BaseModel]) -> bool:
    """Return whether a tool with any settings generated a class of arguments."""
    names: frozenset[Exposable] = frozenset(
        name for name in get_args(Exposable) if name in schema.model_fields
    )
    return schema is expose_arguments(ImageVariationInput, names)


def _is_explanation(handler: object) -> bool:
    """Return whether a handler of validation errors is the tool's own."""
    return isinstance(handler, partial) and handler.func is _explain
