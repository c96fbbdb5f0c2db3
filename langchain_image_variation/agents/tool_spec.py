"""The LlamaIndex tool spec. It does for LlamaIndex what `ImageVariationTool` does for LangChain."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

from pydantic import ConfigDict, ValidationError

from langchain_image_variation.agents.arguments import (
    TOOL_NAME,
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
from langchain_image_variation.agents.image_listener import ImageListener
from langchain_image_variation.agents.settings_check import argument_bounds
from langchain_image_variation.contract import Size
from langchain_image_variation.exceptions import (
    InvalidRequestError,
    MissingExtraError,
    ToolCallError,
    excerpt,
)

try:
    from llama_index.core.async_utils import asyncio_run
    from llama_index.core.base.llms.types import ImageBlock, TextBlock
    from llama_index.core.tools import FunctionTool, ToolMetadata, ToolOutput
    from llama_index.core.tools.tool_spec.base import BaseToolSpec
    from llama_index.core.tools.types import DefaultToolFnSchema
    from llama_index.core.workflow import Context, Event
    from workflows.errors import ContextStateError

    from langchain_image_variation.agents.llama_index_messages import read_conversation
except ImportError as error:
    raise MissingExtraError.for_package(
        "The tool spec", error.name, "langchain-image-variation[llama-index]"
    ) from None

__all__ = ["ImageVariationProgress", "ImageVariationToolSpec"]

_NO_CONTEXT = cast(Context, None)


class ImageVariationProgress(Event):
    """Written to the stream of an agent's run for each finished image."""

    done: int
    """How many images of the call are finished."""
    n: int
    """How many images the call makes."""


class ImageVariationToolSpec(CheckedSettings, BaseToolSpec):
    """A spec with one tool, which makes variations of an image in the conversation or in a folder.

    The model gets a short text that names the new images. With the setting `content`, it also gets
    images, if the agent passes them on and the model can see them. The `raw_output` is the artifact
    of `ImageVariationTool`: a JSON object with `images` and, if the engine reports it,
    `usage_metadata`. `open_result` opens the file of an image in it. If the model makes a mistake,
    it gets a text that lists what it may use, with `is_error`, and the agent continues. A failure
    is logged and, if `raise_on` has its class, raised. LlamaIndex's agents turn what a tool raises
    into such an output themselves.

    In an agent, the images of the conversation are read from its memory and from the results of the
    run. The results of the conversation and its uploads, which can then be varied after their
    messages were removed, have their own folder, named after the memory's `session_id`, or after
    its `chat_store_key` if that is not the default. Without either, the folder belongs to the
    context, for as long as it is passed on or restored. `max_calls` counts the calls that the
    context has recorded, and the answers that the memory had before. For each finished image of an
    async call, the tool writes an `ImageVariationProgress` to the stream.

    Raises:
        ImageVariationError: On construction, or if a setting is changed. See `check_settings`.
        InvalidRequestError: On construction, or if a setting is changed. See `ToolSettings`.
        pydantic.ValidationError: On construction, or if a setting is changed, if it does not exist
            or has a wrong type or value. After an error, nothing has changed.
    """

    model_config = ConfigDict(extra="forbid")

    spec_functions: ClassVar[list[str | tuple[str, str]]] = [  # type: ignore[misc]  # a constant here
        ("image_variation", "aimage_variation")
    ]

    def to_tool_list(
        self,
        spec_functions: Sequence[str | tuple[str, str]] | None = None,
        func_to_metadata_mapping: dict[str, ToolMetadata] | None = None,
    ) -> list[FunctionTool]:
        """Return the tool, in a list.

        Args:
            spec_functions: As in LlamaIndex. This spec has only one function to choose.
            func_to_metadata_mapping: Under "image_variation", another name and description of the
                tool. Without its own schema, the tool has the arguments of this spec.

        Raises:
            InvalidRequestError: If `spec_functions` names a function that this spec lacks.
        """
        names = self.spec_functions[0]
        mapping = func_to_metadata_mapping or {}
        for function in (*(spec_functions or ()), *mapping):
            if function != names and function not in names:
                raise InvalidRequestError(
                    f"There is no function {excerpt(function)} in this spec. Its only function is "
                    f"{TOOL_NAME!r}."
                )
        metadata = self._metadata(next(iter(mapping.values()), None))
        tool_name = metadata.get_name()

        # LlamaIndex passes whatever the model wrote. It replaces an argument with the context of
        # the run if its annotation is exactly `Context`.
        def vary(image: object = None, ctx: Context = _NO_CONTEXT, **others: object) -> ToolOutput:
            return self._vary(tool_name, {"image": image, **others}, ctx)

        async def avary(
            image: object = None, ctx: Context = _NO_CONTEXT, **others: object
        ) -> ToolOutput:
            return await self._avary(tool_name, {"image": image, **others}, ctx)

        async def return_unchanged(output: ToolOutput) -> ToolOutput:
            return output

        tool = FunctionTool(
            fn=vary,
            async_fn=avary,
            metadata=metadata,
            # Without a callback, the whole output would become one block of text.
            callback=lambda output: output,
            async_callback=return_unchanged,
            # Without a default, a program's call without a context would be refused.
            partial_params={"ctx": None},
        )
        return [tool]

    def image_variation(
        self,
        image: str,
        n: int = 1,
        size: Size = "1024x1024",
        ctx: Context = _NO_CONTEXT,
        **exposed: Any,
    ) -> ToolOutput:
        """Make variations of an image, like the tool. A mistake returns an output with `is_error`.

        Args:
            image: The handle or the relative path of the image.
            n: How many variations to make.
            size: Width x height of each variation in pixels.
            ctx: The context of an agent's run, for the images of its conversation.
            **exposed: The arguments that `expose` names, such as `strength`.

        Raises:
            ImageVariationError: If the call fails for another reason, and `raise_on` has the class.
        """
        return self._vary(TOOL_NAME, {**exposed, "image": image, "n": n, "size": size}, ctx)

    async def aimage_variation(
        self,
        image: str,
        n: int = 1,
        size: Size = "1024x1024",
        ctx: Context = _NO_CONTEXT,
        **exposed: Any,
    ) -> ToolOutput:
        """Do what `image_variation` does, without blocking the loop."""
        values = {**exposed, "image": image, "n": n, "size": size}
        return await self._avary(TOOL_NAME, values, ctx)

    def open_result(self, artifact: Any, index: int) -> io.BytesIO:
        """Open the image file of a result, for example to show it in a user interface.

        The tool reads nothing that a call could not read, even if a client forged the artifact: the
        file must be a result in `output_dir`, and have the hash that the artifact states. It works
        wherever `output_dir` is, for artifacts that were stored as JSON, and in every process that
        makes a tool with the same `root_dir` and `output_dir`. This method reads a file: on an
        event loop, run it with `asyncio.to_thread`.

        Args:
            artifact: The `raw_output` of an output of the tool.
            index: The position of the image in the artifact's list `images`.

        Returns:
            The PNG file, in memory.

        Raises:
            InvalidRequestError: If `artifact` is not an artifact of the tool, or has no image at
                this position.
            OutputError: If the file was deleted or changed, or cannot be read.
        """
        return open_result(self, artifact, index)

    def delete_conversation(self, session_id: str) -> None:
        """Delete the results and the uploads of a conversation, when it has ended.

        Its folders are deleted if they are then empty. Other files in them stay, and so do links
        and the records of the `cache`. If the conversation has stored nothing, nothing happens.
        Calls may run at the same time. This method works on files: on an event loop, run it with
        `asyncio.to_thread`.

        Args:
            session_id: The `session_id` of its memory, or the `chat_store_key` if that names the
                conversation.

        Raises:
            OutputError: If a file cannot be deleted, or if a folder of the conversation is a link.
            SourceError: If there is no `root_dir`, or if `output_dir` leads out of it.
        """
        delete_conversation(self, session_id)

    def _metadata(self, override: ToolMetadata | None) -> ToolMetadata:
        metadata = override or ToolMetadata(describe_tool(self.expose), TOOL_NAME)
        if metadata.fn_schema not in (None, DefaultToolFnSchema):
            return metadata
        name = metadata.name or TOOL_NAME
        schema = bounded_arguments(
            argument_bounds(self, self._engines), name=name, description=metadata.description
        )
        return replace(metadata, name=name, fn_schema=schema)

    def _validate(self, arguments: dict[str, object]) -> ImageVariationArguments:
        arguments_class = expose_arguments(ImageVariationArguments, frozenset(self.expose))
        try:
            return arguments_class.model_validate(arguments)
        except ValidationError as error:
            text = explain_errors(error.errors(), argument_bounds(self, self._engines))
            raise ToolCallError(text) from None

    def _translate_errors(self) -> ToolErrorTranslation:
        return ToolErrorTranslation(self.raise_on, ToolCallError, self.expose)

    def _vary(self, tool_name: str, values: dict[str, object], ctx: object) -> ToolOutput:
        context, values = _take_context(ctx, values)
        try:
            with self._translate_errors() as translation:
                arguments = self._validate(values)
                conversation = (
                    None if context is None else asyncio_run(read_conversation(context, tool_name))
                )
                translation.conversation = conversation
                result = call_tool(self, self._engines, arguments, conversation)
                return _output(tool_name, values, result)
        except ToolCallError as error:
            return _error_output(tool_name, error)

    async def _avary(self, tool_name: str, values: dict[str, object], ctx: object) -> ToolOutput:
        context, values = _take_context(ctx, values)
        try:
            with self._translate_errors() as translation:
                arguments = self._validate(values)
                conversation = (
                    None if context is None else await read_conversation(context, tool_name)
                )
                translation.conversation = conversation
                result = await call_tool_async(
                    self, self._engines, arguments, conversation, listener=_stream_writer(context)
                )
                return _output(tool_name, values, result)
        except ToolCallError as error:
            return _error_output(tool_name, error)


def _take_context(
    ctx: object, values: dict[str, object]
) -> tuple[Context | None, dict[str, object]]:
    """Return the context, and the values that are not null.

    A model may write a `ctx` itself, which is then one of the values.
    """
    context = ctx if isinstance(ctx, Context) else None
    if context is None:
        values = {**values, "ctx": ctx}
    return context, {name: value for name, value in values.items() if value is not None}


def _output(tool_name: str, values: dict[str, object], result: CallResult) -> ToolOutput:
    blocks: list[Any] = [TextBlock(text=result.content)]
    for image in result.images:
        blocks.append(ImageBlock(image=image, image_mimetype="image/jpeg"))
    return ToolOutput(
        tool_name=tool_name,
        blocks=blocks,
        raw_input={"args": (), "kwargs": values},
        raw_output=result.artifact,
    )


def _error_output(tool_name: str, error: ToolCallError) -> ToolOutput:
    return ToolOutput(
        tool_name=tool_name,
        content=error.message,
        # The model may have written an image in base64, which an event would contain.
        raw_input={},
        raw_output=None,
        is_error=True,
        # What `ToolErrorTranslation` replaced.
        exception=cast(Exception, error.__cause__),
    )


def _stream_writer(ctx: Context | None) -> ImageListener | None:
    """Return a listener that writes an event to the stream of a run for each finished image."""
    if ctx is None:
        return None

    def write(finished: int, n: int) -> None:
        # A program may pass a context whose run has ended.
        with contextlib.suppress(ContextStateError):
            ctx.write_event_to_stream(ImageVariationProgress(done=finished, n=n))

    return write
