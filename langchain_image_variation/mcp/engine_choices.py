"""`EngineChoices`: the engines that a model may choose, and what each leaves to it."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TypeAlias

from langchain_image_variation.agents.arguments import ENGINE_OPTIONS, ArgumentBounds
from langchain_image_variation.agents.loaded_engines import LoadedEngines
from langchain_image_variation.agents.settings import ToolSettings
from langchain_image_variation.agents.settings_check import (
    argument_bounds,
    check_settings,
    largest_n,
)
from langchain_image_variation.engines import AsyncVariationEngine, VariationEngine
from langchain_image_variation.engines.loading import engine_name
from langchain_image_variation.engines.traits import (
    engine_base_url,
    has_costly_seeds,
    request_options,
    with_options,
)
from langchain_image_variation.exceptions import InvalidRequestError, ToolCallError, excerpt
from langchain_image_variation.mcp.arguments import CreateArguments

__all__ = ["Engine", "EngineChoices"]

Engine: TypeAlias = VariationEngine | AsyncVariationEngine


class EngineChoices:
    """Engines by name, each with the settings for its calls. The first is the default.

    Args:
        settings: The settings of the server, with the default engine.
        others: Further engines, or names of installed ones.

    Raises:
        ImageVariationError: If a setting or an engine cannot be used. See `check_settings`.
        InvalidRequestError: If two engines have the same name.
    """

    def __init__(self, settings: ToolSettings, others: Iterable[str | Engine] = ()) -> None:
        self.loaded_engines = LoadedEngines()
        check_settings(settings, self.loaded_engines)
        self._settings: dict[str, ToolSettings] = {}
        for engine in (settings.engine, *others):
            loaded_engine = self.loaded_engines.get(engine)
            name = engine_name(loaded_engine)
            if name in self._settings:
                raise InvalidRequestError(
                    f"Two engines have the name {name!r}. Name each engine once, or start a "
                    "separate server for each.",
                    param="engines",
                )
            exposed = {
                option
                for option in {"strength", *settings.expose}
                if option not in ENGINE_OPTIONS or option in request_options(loaded_engine)
            }
            update = {"engine": engine, "expose": frozenset(exposed)}
            self._settings[name] = settings.model_copy(update=update)
            check_settings(self._settings[name], self.loaded_engines)

    @property
    def default_settings(self) -> ToolSettings:
        """The settings for calls of the default engine."""
        return next(iter(self._settings.values()))

    @property
    def max_n_by_engine(self) -> dict[str, int]:
        """The names of the engines, each with its maximum number of variations per call."""
        return {
            name: largest_n(settings, self.loaded_engines)
            for name, settings in self._settings.items()
        }

    @property
    def bounds(self) -> ArgumentBounds:
        """What a model may choose with any of the engines."""
        bounds = [
            argument_bounds(settings, self.loaded_engines) for settings in self._settings.values()
        ]
        return replace(
            bounds[0],
            max_n=max(each.max_n for each in bounds),
            exposed=frozenset().union(*(each.exposed for each in bounds)),
        )

    @property
    def has_seed(self) -> bool:
        """Whether any of the engines has a seed that a model may set."""
        return any("seed" in _model_options(engine) for engine in self._engines())

    @property
    def calls_server(self) -> bool:
        """Whether any of the engines sends images to a server."""
        return any(self.is_hosted(settings) for settings in self._settings.values())

    def is_hosted(self, settings: ToolSettings) -> bool:
        """Return whether the engine of these settings sends images to a server."""
        return engine_base_url(self.loaded_engines.get(settings.engine)) is not None

    def choose(self, arguments: CreateArguments) -> ToolSettings:
        """Return the settings for a call, with the engine and the seed that a model chose.

        Raises:
            ToolCallError: If the model may not use that engine, or if the engine lacks an option or
                makes fewer variations.
        """
        # Models often send an empty text for a missing argument.
        name = (arguments.engine or "").strip() or next(iter(self._settings))
        settings = self._settings.get(name)
        if settings is None:
            names = ", ".join(self._settings)
            raise ToolCallError(
                f"There is no engine {excerpt(name)} here. The engines are: {names}."
            )
        max_n = largest_n(settings, self.loaded_engines)
        if arguments.n > max_n:
            raise ToolCallError(
                f"n must be at most {max_n} with the engine {name}, got {arguments.n}.", param="n"
            )
        engine = self.loaded_engines.get(settings.engine)
        for option in ("seed", *ENGINE_OPTIONS):
            is_chosen = getattr(arguments, option, None) is not None
            if is_chosen and option not in _model_options(engine):
                raise ToolCallError(
                    f"The engine {name} has no {option} that you can set. Leave it out."
                )
        if arguments.seed is None:
            return settings
        seeded_engine = with_options(engine, {"seed": arguments.seed})
        return settings.model_copy(update={"engine": seeded_engine})

    def _engines(self) -> Iterator[Engine]:
        return (self.loaded_engines.get(each.engine) for each in self._settings.values())


def _model_options(engine: object) -> set[str]:
    """Return the options of an engine that a model may set: none that makes a call cost more."""
    options = {"seed", *ENGINE_OPTIONS}.intersection(request_options(engine))
    return options - {"seed"} if has_costly_seeds(type(engine)) else options
