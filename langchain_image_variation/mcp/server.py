"""`ImageVariationMCPServer`: the tool as a server of the Model Context Protocol."""

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import Any, get_args

from pydantic import AnyUrl

from langchain_image_variation import __version__
from langchain_image_variation.agents.arguments import describe_tool
from langchain_image_variation.agents.call import call_tool_async
from langchain_image_variation.agents.call_result import CallResult
from langchain_image_variation.agents.conversation_storage import open_results
from langchain_image_variation.agents.failures import ToolErrorTranslation
from langchain_image_variation.agents.image_choices import take_names
from langchain_image_variation.agents.results import Results
from langchain_image_variation.agents.settings import ToolSettings
from langchain_image_variation.exceptions import (
    InvalidRequestError,
    ToolCallError,
    excerpt,
)
from langchain_image_variation.mcp.arguments import CREATE_TOOL, input_schema, parse_arguments
from langchain_image_variation.mcp.engine_choices import Engine, EngineChoices
from langchain_image_variation.mcp.engine_threads import EngineThreads
from langchain_image_variation.mcp.library import explain_import_error
from langchain_image_variation.mcp.schema import json_schema
from langchain_image_variation.mcp.thumbnails import (
    MAX_BASE64,
    MIN_BASE64,
    Thumbnail,
    encode_thumbnails,
)
from langchain_image_variation.numbers import check_whole_number

try:
    from mcp import MCPError
    from mcp.server import MCPServer
    from mcp.server.lowlevel.helper_types import ReadResourceContents
    from mcp.server.mcpserver import Context
    from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
    from mcp_types import (
        INTERNAL_ERROR,
        CallToolResult,
        InputRequiredResult,
        Resource,
        ResourceTemplate,
        Tool,
        ToolAnnotations,
    )

    from langchain_image_variation.mcp.answer import (
        CreatedImages,
        ImageNames,
        describe_names,
        describe_result,
        error_answer,
        text_answer,
    )
    from langchain_image_variation.mcp.progress import report_images
    from langchain_image_variation.mcp.resources import (
        TEMPLATE,
        is_result_uri,
        list_results,
        read_result,
        result_name,
    )
except ImportError as error:
    raise explain_import_error(error) from None

__all__ = ["LIST_TOOL", "MAX_LISTED_IMAGES", "ImageVariationMCPServer"]

LIST_TOOL = "list_images"
"""The name of the tool that lists images."""

MAX_LISTED_IMAGES = 50
"""The maximum number of files, and of results, that `list_images` returns: the newest."""

_MAX_NAMES_LENGTH = MAX_LISTED_IMAGES * 255
"""The maximum length of all file names that `list_images` returns, in characters: that of file
names of 255 bytes, the longest kind. Paths in deep folders are longer. Claude Code accepts answers
of 25,000 tokens."""

_INSTRUCTIONS = (
    "Makes variations of images in one folder of the user, and saves them there. A variation is a "
    "new image that looks like the original. Name an image by its file name or by the name of a "
    "result."
)

_LIST_DESCRIPTION = (
    "List the images that create_image_variations can vary: the files in the server's folder, and "
    "the results of earlier calls, the newest first."
)


class ImageVariationMCPServer(MCPServer[Any]):
    """A server of the Model Context Protocol that makes variations of images in a folder.

    It has the tools `create_image_variations` and `list_images`, and each result as a resource. It
    finds, checks and saves images as `ImageVariationTool` does, with the same settings. All clients
    share one folder of results. If a model makes a mistake, it gets an error whose text lists what
    it may use. About a failure, it gets a text without details, and the failure is logged. Neither
    contains a key or an absolute path.

    `run`, `streamable_http_app` and the other methods come from `MCPServer`. So do the decorators,
    with which you can add your own tools.

    Args:
        settings: The settings of the tool. Its engine is the default of the argument `engine`.
            Models always have `strength`, if an engine takes it. Settings for conversations and
            their messages, such as `max_calls`, are refused.
        engines: Further engines, or names of installed ones, that a model may choose. Name only
            those that it may use: some cost money, or send images to a server.
        thumbnail: The images of an answer: "none", "sheet" for one contact sheet, or "each" for
            one small image per variation.
        max_thumbnail_base64: The maximum length of the images of an answer, in characters of
            base64. They shrink until they fit.

    Raises:
        ImageVariationError: If a setting or an engine cannot be used. See `check_settings`.
        InvalidRequestError: If a setting does not work in a server, if two engines have the same
            name, or if `thumbnail` or `max_thumbnail_base64` is not valid.
    """

    def __init__(
        self,
        settings: ToolSettings | None = None,
        *,
        engines: Iterable[str | Engine] = (),
        thumbnail: Thumbnail = "sheet",
        max_thumbnail_base64: int = MAX_BASE64,
    ) -> None:
        if thumbnail not in get_args(Thumbnail):
            raise InvalidRequestError(
                f"thumbnail must be one of {', '.join(get_args(Thumbnail))}, got "
                f"{excerpt(thumbnail)}.",
                param="thumbnail",
            )
        self._thumbnail: Thumbnail = thumbnail
        self._max_thumbnail_base64 = check_whole_number(
            "max_thumbnail_base64", max_thumbnail_base64, MIN_BASE64
        )
        settings = settings or ToolSettings()
        _check_usable(settings)
        content = "thumbnail" if thumbnail == "sheet" else "text"
        self._choices = EngineChoices(settings.model_copy(update={"content": content}), engines)
        self._engine_threads = EngineThreads()
        # Apart, so that the end of the server waits for no other calls.
        self._hosted_engine_threads = EngineThreads()
        self._refuses_calls = False
        super().__init__(
            "image-variation", version=__version__, instructions=_INSTRUCTIONS, log_level="WARNING"
        )

    def refuse_calls(self) -> None:
        """Answer new calls with an error from now on. Those in progress are finished."""
        self._refuses_calls = True

    def wait_for_hosted_engines(self, seconds: float) -> None:
        """Wait for calls of hosted engines. All calls must have been cancelled before.

        They cancel their jobs, and save the images that are paid for.

        Args:
            seconds: How long to wait at most.
        """
        self._hosted_engine_threads.wait_until_idle(seconds)

    async def list_tools(self) -> list[Tool]:
        """Return the tools, with the limits of the settings in their schemas."""
        return [self._create_tool(), _LIST_IMAGES, *await super().list_tools()]

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Call a tool.

        Returns:
            The answer. A mistake of the model or a failure is an answer too, with `is_error`.

        Raises:
            mcp.server.mcpserver.exceptions.ToolError: If there is no such tool.
        """
        if self._refuses_calls:
            return error_answer("The server is shutting down. Try again later.")
        call = {CREATE_TOOL: self._create, LIST_TOOL: self._list}.get(name)
        if call is None:
            return await super().call_tool(name, arguments, context)
        try:
            with ToolErrorTranslation((), ToolCallError, self._choices.bounds.exposed):
                return await call(arguments, context)
        except ToolCallError as error:
            return error_answer(error.message)

    async def list_resources(self) -> list[Resource]:
        """Return the newest results.

        Raises:
            mcp.MCPError: If their folder cannot be read.
        """
        # Only an error of this class reaches the client with its text.
        with ToolErrorTranslation((), partial(MCPError, INTERNAL_ERROR), frozenset()):
            results = await asyncio.to_thread(self._list_results)
        return [*results, *await super().list_resources()]

    async def list_resource_templates(self) -> list[ResourceTemplate]:
        """Return the template for the URIs of results."""
        return [TEMPLATE, *await super().list_resource_templates()]

    async def read_resource(
        self, uri: AnyUrl | str, context: Context[Any, Any] | None = None
    ) -> Iterable[ReadResourceContents] | InputRequiredResult:
        """Return the PNG file of a result.

        Raises:
            mcp.server.mcpserver.exceptions.ResourceError: If there is no such result, or if it is
                too large or cannot be read.
        """
        if not is_result_uri(str(uri)):
            return await super().read_resource(uri, context)
        try:
            with ToolErrorTranslation((), ResourceError, frozenset()):
                data = await asyncio.to_thread(self._read_result, str(uri))
        except ResourceError as error:
            if isinstance(error.__cause__, ToolCallError):
                raise ResourceNotFoundError(str(error)) from None
            raise
        return [ReadResourceContents(content=data, mime_type="image/png")]

    def _create_tool(self) -> Tool:
        bounds = self._choices.bounds
        return Tool(
            name=CREATE_TOOL,
            title="Create image variations",
            description=describe_tool(bounds.exposed),
            input_schema=input_schema(
                self._choices.max_n_by_engine, bounds, with_seed=self._choices.has_seed
            ),
            output_schema=json_schema(CreatedImages),
            annotations=ToolAnnotations(
                read_only_hint=False,
                destructive_hint=False,
                idempotent_hint=False,
                open_world_hint=self._choices.calls_server,
            ),
        )

    async def _create(
        self, arguments: dict[str, Any], context: Context[Any, Any] | None
    ) -> CallToolResult:
        choices = self._choices
        values = parse_arguments(arguments, choices.bounds, with_seed=choices.has_seed)
        values = values.model_copy(update={"image": result_name(values.image)})
        settings = choices.choose(values)
        is_hosted = choices.is_hosted(settings)
        async with report_images(context) as listener:
            result = await call_tool_async(
                settings,
                choices.loaded_engines,
                values,
                listener=listener,
                executor=self._hosted_engine_threads if is_hosted else self._engine_threads,
            )
        thumbnails = await asyncio.to_thread(self._make_thumbnails, settings, result)
        return text_answer(result.content, describe_result(result), thumbnails)

    async def _list(
        self, arguments: dict[str, Any], context: Context[Any, Any] | None
    ) -> CallToolResult:
        if arguments:
            raise ToolCallError(f"{LIST_TOOL} has no arguments. Call it again without any.")
        text, names = await asyncio.to_thread(self._list_images)
        return text_answer(text, names)

    def _make_thumbnails(self, settings: ToolSettings, result: CallResult) -> list[str]:
        if self._thumbnail == "each":
            results = open_results(settings, None)
            files = [_read_file(results, image["path"]) for image in result.artifact["images"]]
        else:
            files = list(result.images)
        # Another call may have deleted a result that exceeds `max_results`.
        present = [file for file in files if file is not None]
        return encode_thumbnails(present, self._max_thumbnail_base64)

    def _open_results(self) -> Results:
        """Return the results of all calls."""
        return open_results(self._choices.default_settings, None)

    def _list_results(self) -> list[Resource]:
        return list_results(self._open_results())

    def _read_result(self, uri: str) -> bytes:
        return read_result(self._open_results(), uri)

    def _list_images(self) -> tuple[str, ImageNames]:
        results = self._open_results()
        files = results.image_folder.list_images(
            MAX_LISTED_IMAGES, excluded_folder=results.all_results_folder
        )
        file_names = take_names(files.names, _MAX_NAMES_LENGTH)
        handles = results.newest_handles()
        has_more_files = not files.is_complete or files.count > len(file_names)
        names = ImageNames(
            files=file_names,
            results=handles[:MAX_LISTED_IMAGES],
            has_more=has_more_files or len(handles) > MAX_LISTED_IMAGES,
        )
        return describe_names(names), names


_LIST_IMAGES = Tool(
    name=LIST_TOOL,
    title="List images",
    description=_LIST_DESCRIPTION,
    input_schema={"type": "object", "properties": {}},
    output_schema=json_schema(ImageNames),
    annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False),
)


_NO_CONVERSATION = "a server does not see conversations. Leave it out"
_UNUSABLE_SETTINGS = {
    "max_calls": _NO_CONVERSATION,
    "max_uploads": _NO_CONVERSATION,
    "max_upload_bytes": _NO_CONVERSATION,
    "max_upload_age": _NO_CONVERSATION,
    "urls": _NO_CONVERSATION,
    "content": "hosts decide what they show. Use thumbnail",
    "raise_on": "each failure becomes an answer. Leave it out",
}
"""The settings that a server cannot use, each with the reason and what to do."""


def _check_usable(settings: ToolSettings) -> None:
    """Refuse settings that would have no effect in a server.

    Raises:
        InvalidRequestError: If one of them is set.
    """
    for name, reason in _UNUSABLE_SETTINGS.items():
        if getattr(settings, name) != ToolSettings.model_fields[name].default:
            raise InvalidRequestError(f"{name} does not work here, because {reason}.", param=name)


def _read_file(results: Results, path: str) -> bytes | None:
    file = results.open(path)
    if file is None:
        return None
    with file:
        return file.read()
