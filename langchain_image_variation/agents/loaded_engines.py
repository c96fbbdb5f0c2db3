"""`LoadedEngines`: the engines of one tool, each loaded once."""

from langchain_image_variation.engines import AsyncVariationEngine, VariationEngine
from langchain_image_variation.engines.loading import load_engine

__all__ = ["LoadedEngines"]


class LoadedEngines:
    """Loads engines by name and keeps them, so that a hosted one keeps its connections.

    Copies of a tool share this object, and so the engines. Any thread may use it.
    """

    def __init__(self) -> None:
        self._by_name: dict[str, VariationEngine] = {}

    def get(
        self, engine: str | VariationEngine | AsyncVariationEngine
    ) -> VariationEngine | AsyncVariationEngine:
        """Return an engine, given its name or the engine itself.

        Raises:
            ImageVariationError: If the engine cannot be loaded.
        """
        if not isinstance(engine, str):
            return engine
        if engine not in self._by_name:
            # If two threads load it at once, both get the engine that was stored first.
            self._by_name.setdefault(engine, load_engine(engine))
        return self._by_name[engine]
