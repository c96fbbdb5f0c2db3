"""A call of the tool: find the image, call the engine, save the results and describe them.

`call_tool` and `call_tool_async` do the same. A framework's tool only translates: from its
arguments and messages to `ImageVariationArguments` and a `Conversation`, and from a `CallResult` to
its own message.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any, TypeAlias

from langchain_image_variation.agents.announcement import announce_results
from langchain_image_variation.agents.arguments import (
    ENGINE_OPTIONS,
    ImageVariationArguments,
    check_n,
    chosen_values,
)
from langchain_image_variation.agents.cache import ResultCache
from langchain_image_variation.agents.conversation import Conversation
from langchain_image_variation.agents.conversation_storage import open_results, open_uploads
from langchain_image_variation.agents.image_blocks import encode_results
from langchain_image_variation.agents.image_listener import (
    ImageListener,
    listen_on_loop,
    report_finished_images,
)
from langchain_image_variation.agents.loaded_engines import LoadedEngines
from langchain_image_variation.agents.message_image import normalize_name
from langchain_image_variation.agents.partial_response import keep_finished
from langchain_image_variation.agents.public_url import result_path, result_url
from langchain_image_variation.agents.reachable_images import ReachableImages
from langchain_image_variation.agents.results import Results
from langchain_image_variation.agents.settings import ToolSettings
from langchain_image_variation.agents.settings_check import largest_n
from langchain_image_variation.agents.usage import usage_metadata
from langchain_image_variation.cancellation import cancel_after
from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines import AsyncVariationEngine, VariationEngine
from langchain_image_variation.engines.auto import AUTO
from langchain_image_variation.engines.call import call_engine, call_engine_async
from langchain_image_variation.engines.call_interrupt import CallInterrupt
from langchain_image_variation.engines.fingerprint import digest, engine_fingerprint
from langchain_image_variation.engines.loading import engine_name
from langchain_image_variation.engines.traits import (
    engine_base_url,
    engine_variation_kind,
    with_options,
)
from langchain_image_variation.exceptions import (
    ImageVariationError,
    InvalidRequestError,
    RateLimitError,
    ToolCallError,
    excerpt,
)
from langchain_image_variation.images.pixels import flatten_on_white
from langchain_image_variation.output import cut_back
from langchain_image_variation.output.contact_sheet import ContactSheet
from langchain_image_variation.output.names import RESULT_NAME, drop_suffix
from langchain_image_variation.source import Source

__all__ = [
    "CallResult",
    "call_tool",
    "call_tool_async",
]

_Engine: TypeAlias = VariationEngine | AsyncVariationEngine


@dataclass(frozen=True, slots=True)
class CallResult:
    """What a call returns."""

    content: str
    """Text for the model: the handles of the new images, and what else it should know."""
    artifact: dict[str, Any]
    """Plain JSON for programs; see `ImageVariationTool`."""
    images: Sequence[bytes] = ()
    """The JPEG files that the message contains, after the text."""


def call_tool(
    settings: ToolSettings,
    engines: LoadedEngines,
    arguments: ImageVariationArguments,
    conversation: Conversation | None = None,
    *,
    fields: Mapping[str, Any] | None = None,
    listener: ImageListener | None = None,
) -> CallResult:
    """Make variations and save them.

    Args:
        settings: The settings of the tool.
        engines: Loads the engine of the settings, and keeps it for the next call.
        arguments: The arguments from the model.
        conversation: The conversation that the call belongs to. Without one, the call may use all
            results under `output_dir`.
        fields: Additional fields of the request: `model`, `response_format`, `user`.
        listener: Called after each finished image, from any thread.

    Returns:
        The text for the model, the artifact, and the images for the message.

    Raises:
        ToolCallError: If the model made a mistake. The message says what it can do, and which
            images it may use.
        Exception: If anything else fails. Wrap the call in `ToolErrorTranslation`, so that no model
            sees the original text.
    """
    flow = _flow(settings, engines, arguments, conversation, fields or {}, listener)
    step = next(flow)
    while True:
        try:
            outcome = step.run()
        except CallInterrupt as interrupt:
            flow.throw(interrupt)
            raise
        try:
            step = flow.send(outcome)
        except StopIteration as end:
            result: CallResult = end.value
            return result


async def call_tool_async(
    settings: ToolSettings,
    engines: LoadedEngines,
    arguments: ImageVariationArguments,
    conversation: Conversation | None = None,
    *,
    fields: Mapping[str, Any] | None = None,
    listener: ImageListener | None = None,
    executor: Executor | None = None,
) -> CallResult:
    """Do what `call_tool` does without blocking the loop. The listener is called on the loop.

    Args:
        settings: See `call_tool`.
        engines: See `call_tool`.
        arguments: See `call_tool`.
        conversation: See `call_tool`.
        fields: See `call_tool`.
        listener: See `call_tool`.
        executor: The threads of sync engines; see `call_engine_async`.

    Raises:
        Exception: See `call_tool`.
    """
    with listen_on_loop(listener) as loop_listener:
        flow = _flow(
            settings, engines, arguments, conversation, fields or {}, loop_listener, executor
        )
        step = next(flow)
        while True:
            outcome = await step.run_async()
            try:
                step = flow.send(outcome)
            except StopIteration as end:
                result: CallResult = end.value
                return result


@dataclass(frozen=True, slots=True)
class _Step:
    """A blocking part of a call, in its sync and async form. Its result is sent back to `_flow`."""

    run: Callable[[], Any]
    run_async: Callable[[], Awaitable[Any]]


def _work(function: Callable[[], Any]) -> _Step:
    """Return a step that reads or writes files. The async driver runs it in a thread."""

    async def run_async() -> Any:
        with cancel_after():
            return await asyncio.to_thread(function)

    return _Step(function, run_async)


def _flow(
    settings: ToolSettings,
    engines: LoadedEngines,
    arguments: ImageVariationArguments,
    conversation: Conversation | None,
    fields: Mapping[str, Any],
    listener: ImageListener | None,
    executor: Executor | None = None,
) -> Generator[_Step, Any, CallResult]:
    """Yield the blocking steps of a call to the sync or the async driver, and return its result."""
    call: _Call = yield _work(partial(_prepare, settings, engines, arguments, conversation, fields))
    n = call.request.n
    response = call.cached_response
    if response is None:
        limiter = settings.rate_limiter
        # A blocking `acquire` of LangChain's limiters always returns True. Others may refuse.
        if limiter is not None and (yield _Step(limiter.acquire, limiter.aacquire)) is False:
            raise RateLimitError("The rate limiter refused this call. Try again later.")
        progress = None if listener is None else report_finished_images(listener)
        try:
            response = yield _Step(
                partial(call_engine, call.engine, call.request, progress=progress),
                partial(
                    call_engine_async,
                    *(call.engine, call.request),
                    progress=progress,
                    executor=executor,
                    late_answer=partial(_save_paid_images, call),
                ),
            )
        except CallInterrupt as interrupt:
            _save_paid_images(call, interrupt.response)
            raise
    elif listener is not None:
        for finished in range(1, n + 1):
            listener(finished, n)
    return (yield _work(partial(_save, call, response)))  # type: ignore[no-any-return]  # a step


@dataclass(frozen=True, slots=True)
class _Call:
    """A call whose arguments are valid and whose image is loaded."""

    settings: ToolSettings
    engine: _Engine
    arguments: ImageVariationArguments
    label: str
    """What the image is called in the text for the model."""
    source: Source
    choices: Mapping[str, Any]
    """The values that the model chose for exposed arguments."""
    request: CreateImageVariationRequest
    results: Results
    cache: ResultCache | None
    cached_response: ImagesResponse | None


def _prepare(
    settings: ToolSettings,
    engines: LoadedEngines,
    arguments: ImageVariationArguments,
    conversation: Conversation | None,
    fields: Mapping[str, Any],
) -> _Call:
    max_calls = settings.max_calls
    if conversation is not None and max_calls is not None and conversation.calls >= max_calls:
        calls = "its only call" if max_calls == 1 else f"all of its {max_calls} calls"
        raise ToolCallError(
            f"This conversation has used {calls} to this tool. Do not call it again; use the "
            "images that it already has."
        )
    check_n(arguments.n, largest_n(settings, engines))
    results = open_results(settings, conversation)
    engine = engines.get(settings.engine)
    images = ReachableImages(results, conversation, open_uploads(settings, results))
    name = _image_name(arguments.image, settings, results)
    choices = chosen_values(arguments)
    _check_choices(choices, settings)
    fit = choices.get("fit", settings.fit)
    label, source = images.load(name, fit=fit, urls=settings.urls)
    if engine_base_url(engine) is not None:
        # A model may drop the alpha channel, and then see colors that a person does not.
        source = replace(source, png=flatten_on_white(source.png))
    # Checked before the engine works, so that its work is not lost.
    results.ensure_writable()
    request = CreateImageVariationRequest(
        **{
            "image": source.png,
            "n": arguments.n,
            "size": settings.fixed_size or arguments.size,
            "response_format": "b64_json",
            **{name: value for name, value in fields.items() if value is not None},
        }
    )
    options = {name: value for name, value in choices.items() if name in ENGINE_OPTIONS}
    cache = _open_cache(settings, engine, results, options)
    return _Call(
        settings=settings,
        engine=_with_options(engine, options),
        arguments=arguments,
        label=label,
        source=source,
        choices=choices,
        request=request,
        results=results,
        cache=cache,
        cached_response=cache.find(request, source.inset) if cache is not None else None,
    )


def _check_choices(choices: Mapping[str, Any], settings: ToolSettings) -> None:
    """Refuse arguments that a developer's own schema has, but the settings do not expose."""
    for name in choices.keys() - settings.expose:
        raise ToolCallError(f"This tool has no argument {name!r}. Leave it out.", param=name)


def _with_options(engine: _Engine, options: Mapping[str, Any]) -> _Engine:
    try:
        return with_options(engine, options)  # type: ignore[no-any-return]  # an engine
    except InvalidRequestError as error:
        # Its message is for developers, and may contain anything.
        values = " and ".join(f"the {name} {excerpt(value)}" for name, value in options.items())
        raise ToolCallError(
            f"The image engine does not accept {values}. Choose another value, or leave it out."
        ) from error


def _image_name(image: str, settings: ToolSettings, results: Results) -> str:
    """Return the path of a result if the model wrote its URL, or else the model's text."""
    if settings.public_url is None:
        return image
    path = result_path(settings.public_url, image.strip().strip("\"'`<>"))
    # A URL never means a file under `root_dir`.
    is_result = path is not None and RESULT_NAME.fullmatch(PurePosixPath(path).name)
    return f"{results.path_prefix}{path}" if is_result else image


def _open_cache(
    settings: ToolSettings, engine: _Engine, results: Results, options: Mapping[str, Any]
) -> ResultCache | None:
    """Return the cache, or None if it is off or the engine has no fingerprint.

    Args:
        settings: The settings of the tool.
        engine: The engine, with its own options.
        results: Where results are saved.
        options: The options of the engine that the model chose.
    """
    if not settings.cache:
        return None
    fingerprint = engine_fingerprint(engine, by_name=isinstance(settings.engine, str))
    if fingerprint is not None and options:
        fingerprint = digest(engine=fingerprint, **options)
    return None if fingerprint is None else ResultCache(results, fingerprint)


def _save_paid_images(call: _Call, response: ImagesResponse) -> None:
    """Save what a call made before it was interrupted or cancelled, if it is paid for."""
    if engine_base_url(call.engine) is not None:
        with suppress(ImageVariationError):
            _save(call, response)


def _save(call: _Call, response: ImagesResponse) -> CallResult:
    """Save the variations of a response, and describe them."""
    is_cached, failures = call.cached_response is not None, None
    if not is_cached:
        response, failures = keep_finished(cut_back(response, call.source))
    saved_images = call.results.save(response, name=_result_name(call))
    if call.cache is not None and not is_cached and failures is None:
        call.cache.add(call.request, call.source.inset, saved_images, response)
    engine = call.settings.engine
    if not isinstance(engine, str) or engine == AUTO:
        engine = engine_name(call.engine)
    images: list[dict[str, Any]] = [
        {
            "handle": PurePosixPath(path).stem,
            "path": path,
            "sha256": image.sha256,
            "width": image.width,
            "height": image.height,
            "seed": image.seed,
            "engine": engine,
            "model": response.model,
            "created": response.created,
        }
        for path, image in saved_images
    ]
    recorded = {name: value for name, value in call.choices.items() if name != "name"}
    for item in images:
        item |= recorded
    if (public_url := call.settings.public_url) is not None:
        prefix = call.results.path_prefix
        for item in images:
            item["url"] = result_url(public_url, item["path"].removeprefix(prefix))
    artifact: dict[str, Any] = {"images": images}
    if response.note:
        artifact["note"] = response.note
    usage = usage_metadata(response)
    if usage is not None:
        artifact["usage_metadata"] = usage
    if is_cached:
        artifact["cached"] = True
    text = _content(call, response, images, failures)
    match call.settings.content:
        case "text":
            return CallResult(text, artifact)
        case "thumbnail":
            return CallResult(text, artifact, [ContactSheet.thumbnail(call.source, response)])
        case "blocks":
            return CallResult(text, artifact, encode_results(response))


def _result_name(call: _Call) -> str:
    """Return what the names of the results begin with: the model's choice, or the source's name."""
    name = call.choices.get("name")
    if name is None:
        return call.source.name
    stem = drop_suffix(name)
    # A result with the name of an upload would be confused with it.
    return "image" if normalize_name(stem) else stem


def _content(
    call: _Call, response: ImagesResponse, images: list[dict[str, Any]], failures: str | None
) -> str:
    """Return the text for the model. `failures` is the sentence about the images that failed."""
    sentences = [
        announce_results(
            [image["handle"] for image in images],
            label=call.label,
            size=f"{images[0]['width']}x{images[0]['height']}",
            location=call.results.location,
            urls=None if call.settings.public_url is None else [image["url"] for image in images],
        )
    ]
    kind = engine_variation_kind(call.engine)
    if kind is not None:
        sentences.append(f"Kind of variation: {kind}.")
    if call.cached_response is not None:
        sentences.append("The same call was made before, with the same result.")
    sentences += filter(None, (failures, call.source.note, response.note))
    return " ".join(sentences)
