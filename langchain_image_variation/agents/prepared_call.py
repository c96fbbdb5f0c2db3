"""`PreparedCall`: a call of the tool that is ready for the engine."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, TypeAlias

from langchain_image_variation.agents.arguments import (
    ENGINE_OPTIONS,
    ImageVariationArguments,
    check_n,
    chosen_values,
)
from langchain_image_variation.agents.cache import ResultCache
from langchain_image_variation.agents.conversation import Conversation
from langchain_image_variation.agents.conversation_storage import open_results, open_uploads
from langchain_image_variation.agents.loaded_engines import LoadedEngines
from langchain_image_variation.agents.public_url import result_path
from langchain_image_variation.agents.reachable_images import ReachableImages
from langchain_image_variation.agents.results import Results
from langchain_image_variation.agents.settings import ToolSettings
from langchain_image_variation.agents.settings_check import largest_n
from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines import AsyncVariationEngine, VariationEngine
from langchain_image_variation.engines.fingerprint import digest, engine_fingerprint
from langchain_image_variation.engines.traits import engine_base_url, with_options
from langchain_image_variation.exceptions import InvalidRequestError, ToolCallError, excerpt
from langchain_image_variation.images.pixels import flatten_on_white
from langchain_image_variation.output.names import RESULT_NAME
from langchain_image_variation.source import Source

__all__ = ["PreparedCall", "prepare_call"]

_Engine: TypeAlias = VariationEngine | AsyncVariationEngine


@dataclass(frozen=True, slots=True)
class PreparedCall:
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
    conversation_folder: str | None
    """The name of the conversation's own folder, if it has one."""
    cache: ResultCache | None
    cached_response: ImagesResponse | None


def prepare_call(
    settings: ToolSettings,
    engines: LoadedEngines,
    arguments: ImageVariationArguments,
    conversation: Conversation | None,
    fields: Mapping[str, Any],
) -> PreparedCall:
    """Check the arguments, find the image, and look into the cache.

    Args:
        settings: The settings of the tool.
        engines: Loads the engine of the settings.
        arguments: The arguments from the model.
        conversation: The conversation that the call belongs to, if there is one.
        fields: Additional fields of the request.

    Raises:
        ToolCallError: If the model made a mistake.
        Exception: If anything else fails.
    """
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
    return PreparedCall(
        settings=settings,
        engine=_with_options(engine, options),
        arguments=arguments,
        label=label,
        source=source,
        choices=choices,
        request=request,
        results=results,
        conversation_folder=conversation.scope if conversation is not None else None,
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
