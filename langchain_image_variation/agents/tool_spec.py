"""The LlamaIndex tool spec: what `ImageVariationTool` is to LangChain, over the same core."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

from pydantic import ConfigDict, ValidationError

from langchain_image_variation.agents.arguments import (
    TOOL_DESCRIPTION,
    TOOL_NAME,
    ImageVariationArguments,
    bounded_arguments,
    explain,
)
from langchain_image_variation.agents.calls import CallResult, CallSettings, Finished
from langchain_image_variation.contract import Size
from langchain_image_variation.exceptions import (
    ImageVariationError,
    InvalidRequestError,
    MissingExtraError,
    shown,
)

try:
    from llama_index.core.async_utils import asyncio_run
    from llama_index.core.base.llms.types import ImageBlock, TextBlock
    from llama_index.core.tools import FunctionTool, ToolMetadata, ToolOutput
    from llama_index.core.tools.tool_spec.base import BaseToolSpec
    from llama_index.core.tools.types import DefaultToolFnSchema
    from llama_index.core.workflow import Context, Event
    from workflows.errors import ContextStateError

    from langchain_image_variation.agents.llama_index_messages import conversation_of
except ImportError as error:
    raise MissingExtraError.for_package(
        "The tool spec", error.name, "langchain-image-variation[llama-index]"
    ) from None

__all__ = ["ImageVariationProgress", "ImageVariationToolSpec"]

_NO_CONTEXT = cast(Context, None)


class ImageVariationProgress(Event):
    """Written to the stream of an agent's run for each finished picture."""

    done: int
    """How many pictures of the call are finished."""
    n: int
    """How many the call makes."""


class ImageVariationToolSpec(CallSettings, BaseToolSpec):
    """A spec of one tool that makes variations of a picture of the conversation or of a folder.

    The blocks that reach the model are a short text that names the new pictures and, with
    `thumbnail`, one small picture of them, which an agent passes on if its model can see it. The
    `raw_output` is the artifact of `ImageVariationTool`: a JSON object with `images` and, where the
    engine tells it, `usage_metadata`. A mistake of the model is answered with text that says what
    it may use, with `is_error`, and the agent goes on.

    In an agent, the pictures of the conversation are read from its memory and from the results of
    the run, and the conversation's own results are kept in a folder of their own: by the memory's
    `session_id`, by its `chat_store_key` if it has another than the default, or by the context, for
    as long as it is passed on or restored. Of `max_calls`, those noted in the context count, and
    those that the memory answered before. Each finished picture of an async call writes an
    `ImageVariationProgress` to the stream.

    Raises:
        ImageVariationError: On construction, as `CallSettings`.
        pydantic.ValidationError: On construction, if a setting is unknown, or of a wrong type or
            value.
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
            spec_functions: As in LlamaIndex; there is one function to choose.
            func_to_metadata_mapping: Under "image_variation", what to call the tool and how to
                describe it. Without a schema of its own, it has the arguments of this one.

        Raises:
            InvalidRequestError: If there is no function of a name.
        """
        known = self.spec_functions[0]
        mapping = func_to_metadata_mapping or {}
        for function in (*(spec_functions or ()), *mapping):
            if function != known and function not in known:
                raise InvalidRequestError(
                    f"There is no function {shown(function)} here; there is {TOOL_NAME!r}."
                )
        metadata = self._metadata(next(iter(mapping.values()), None))
        name = metadata.get_name()

        # LlamaIndex passes on whatever the model gave, and puts a context in over it where the
        # annotation is `Context` alone.
        def vary(image: object = None, ctx: Context = _NO_CONTEXT, **others: object) -> ToolOutput:
            return self._vary(name, {"image": image, **others}, ctx)

        async def avary(
            image: object = None, ctx: Context = _NO_CONTEXT, **others: object
        ) -> ToolOutput:
            return await self._avary(name, {"image": image, **others}, ctx)

        async def as_it_is(output: ToolOutput) -> ToolOutput:
            return output

        tool = FunctionTool(
            fn=vary,
            async_fn=avary,
            metadata=metadata,
            # Otherwise it would make one block of text of the whole output.
            callback=lambda output: output,
            async_callback=as_it_is,
            # It would refuse a call without a context, which programs make.
            partial_params={"ctx": None},
        )
        return [tool]

    def image_variation(
        self, image: str, n: int = 1, size: Size = "1024x1024", ctx: Context = _NO_CONTEXT
    ) -> ToolOutput:
        """Make variations of a picture, as the tool does; a failure is an output with `is_error`.

        Args:
            image: A name or a relative path.
            n: How many.
            size: Width x height of each in pixels.
            ctx: The context of an agent's run, for pictures of its conversation.
        """
        return self._vary(TOOL_NAME, {"image": image, "n": n, "size": size}, ctx)

    async def aimage_variation(
        self, image: str, n: int = 1, size: Size = "1024x1024", ctx: Context = _NO_CONTEXT
    ) -> ToolOutput:
        """Do what `image_variation` does, without blocking the loop."""
        return await self._avary(TOOL_NAME, {"image": image, "n": n, "size": size}, ctx)

    def _metadata(self, given: ToolMetadata | None) -> ToolMetadata:
        metadata = given or ToolMetadata(TOOL_DESCRIPTION, TOOL_NAME)
        if metadata.fn_schema not in (None, DefaultToolFnSchema):
            return metadata
        schema = bounded_arguments(max_n=self.max_n, with_size=self.fixed_size is None)
        return replace(metadata, name=metadata.name or TOOL_NAME, fn_schema=schema)

    def _asked(self, given: dict[str, object]) -> ImageVariationArguments:
        try:
            return ImageVariationArguments.model_validate(given)
        except ValidationError as error:
            raise InvalidRequestError(explain(error.errors(), max_n=self.max_n)) from None

    def _vary(self, tool: str, given: dict[str, object], ctx: object) -> ToolOutput:
        context, given = _parted(ctx, given)
        try:
            asked = self._asked(given)
            conversation = None if context is None else asyncio_run(conversation_of(context, tool))
            return _output(tool, given, self.call(asked, conversation))
        except ImageVariationError as error:
            return _refusal(tool, error)

    async def _avary(self, tool: str, given: dict[str, object], ctx: object) -> ToolOutput:
        context, given = _parted(ctx, given)
        try:
            asked = self._asked(given)
            conversation = None if context is None else await conversation_of(context, tool)
            result = await self.acall(asked, conversation, finished=_progress(context))
            return _output(tool, given, result)
        except ImageVariationError as error:
            return _refusal(tool, error)


def _parted(ctx: object, given: dict[str, object]) -> tuple[Context | None, dict[str, object]]:
    """Return the context, if it is one, and what was given but for nulls; a model may give any."""
    context = ctx if isinstance(ctx, Context) else None
    if context is None:
        given = {**given, "ctx": ctx}
    return context, {name: value for name, value in given.items() if value is not None}


def _output(tool: str, given: dict[str, object], result: CallResult) -> ToolOutput:
    blocks: list[Any] = [TextBlock(text=result.content)]
    if result.thumbnail is not None:
        blocks.append(ImageBlock(image=result.thumbnail, image_mimetype="image/jpeg"))
    return ToolOutput(
        tool_name=tool,
        blocks=blocks,
        raw_input={"args": (), "kwargs": given},
        raw_output=result.artifact,
    )


def _refusal(tool: str, error: ImageVariationError) -> ToolOutput:
    return ToolOutput(
        tool_name=tool,
        content=error.message,
        # A model may have given a picture in base64; an agent's event has what it gave.
        raw_input={},
        raw_output=None,
        is_error=True,
        exception=error,
    )


def _progress(ctx: Context | None) -> Finished | None:
    """Return what writes an event to the stream of a context's run for each finished picture."""
    if ctx is None:
        return None

    def finished(done: int, n: int) -> None:
        # A program may pass a context whose run has ended.
        with contextlib.suppress(ContextStateError):
            ctx.write_event_to_stream(ImageVariationProgress(done=done, n=n))

    return finished
