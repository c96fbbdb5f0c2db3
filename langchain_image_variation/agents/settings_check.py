"""Checks settings before the first call, and derives what a model may choose."""

from langchain_image_variation.agents.arguments import ENGINE_OPTIONS, ArgumentBounds
from langchain_image_variation.agents.conversation_storage import open_results
from langchain_image_variation.agents.loaded_engines import LoadedEngines
from langchain_image_variation.agents.settings import ToolSettings
from langchain_image_variation.engines import AsyncVariationEngine, VariationEngine
from langchain_image_variation.engines.fingerprint import engine_fingerprint
from langchain_image_variation.engines.traits import (
    engine_max_n,
    engine_variation_kind,
    request_options,
)
from langchain_image_variation.exceptions import InvalidRequestError
from langchain_image_variation.files.storage_urls import is_url

__all__ = ["argument_bounds", "check_settings", "largest_n"]


def check_settings(settings: ToolSettings, engines: LoadedEngines) -> None:
    """Find mistakes in the settings before the first call. Nothing is written.

    Raises:
        ImageVariationError: If the engine cannot be loaded, if `root_dir` is not a folder, if
            `output_dir` leads out of it, or if the file system of `output_dir` is unknown or cannot
            be opened.
        MissingExtraError: If `output_dir` is a URL, and fsspec or the package that it needs for
            this kind of URL is not installed.
        InvalidRequestError: If `cache` is on and the engine has no fingerprint, if
            `expose` names an option of the engine that requests cannot set, or "fit" although
            `fit` is "strict", or if `storage_options` are set and `output_dir` is a folder.
        EngineError: If the `max_n` or the `variation_kind` of the engine has a wrong value.
    """
    if settings.storage_options and not is_url(settings.output_dir):
        raise InvalidRequestError(
            "storage_options are for the file system of a URL, but output_dir is a folder. Set "
            "output_dir to a URL, or leave storage_options out.",
            param="storage_options",
        )
    # Opening the results raises an error if the folders of the settings cannot be used.
    open_results(settings, None)
    engine = engines.get(settings.engine)
    # Reading these traits raises an error if they have a wrong value.
    engine_max_n(engine)
    engine_variation_kind(engine)
    _check_exposed(settings, engine)
    by_name = isinstance(settings.engine, str)
    if settings.cache and engine_fingerprint(engine, by_name=by_name) is None:
        raise InvalidRequestError(
            "cache needs an engine that has a fingerprint or is given by name. "
            f"{type(engine).__name__} has no fingerprint: add one, or turn cache off.",
            param="cache",
        )


def largest_n(settings: ToolSettings, engines: LoadedEngines) -> int:
    """Return the maximum number of variations per call: the lower of the two `max_n`."""
    return min(settings.max_n, engine_max_n(engines.get(settings.engine)))


def argument_bounds(settings: ToolSettings, engines: LoadedEngines) -> ArgumentBounds:
    """Return what a model may choose, within the settings and the limits of the engine."""
    return ArgumentBounds(
        max_n=largest_n(settings, engines),
        with_size=settings.fixed_size is None,
        fit=settings.fit,
        exposed=frozenset(settings.expose),
    )


def _check_exposed(settings: ToolSettings, engine: VariationEngine | AsyncVariationEngine) -> None:
    names = request_options(engine)
    for option, example in ENGINE_OPTIONS.items():
        if option in settings.expose and option not in names:
            raise InvalidRequestError(
                f"The engine {type(engine).__name__} has no {option} that a request can set, so "
                f"{option!r} cannot be exposed. Choose another engine, such as {example!r}, or "
                f"leave {option!r} out.",
                param="expose",
            )
    if "fit" in settings.expose and settings.fit == "strict":
        raise InvalidRequestError(
            "fit='strict' refuses images that are not square, so a model cannot choose what to do "
            "with them. Choose another fit, or leave 'fit' out of expose.",
            param="expose",
        )
