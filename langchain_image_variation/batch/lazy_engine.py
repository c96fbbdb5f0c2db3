"""`LazyEngine`: an engine by its name, which is made where it works and pickles until then."""

import json
import threading
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from langchain_image_variation.engines import VariationEngine
from langchain_image_variation.engines.loading import engine_version, load_engine_class, make_engine
from langchain_image_variation.engines.traits import close_engine, engine_options
from langchain_image_variation.exceptions import InvalidRequestError

__all__ = ["LazyEngine"]

_IRRELEVANT = {
    "api_key",
    "deadline",
    "max_retries",
    "organization",
    "project",
    "resend_lost",
    "threads",
    "timeout",
}
"""Options of engines on which no picture depends."""


class LazyEngine:
    """An engine that is made when it is first needed, and once more for each seed.

    Threads may share it.

    One that takes `threads` gets one unless `options` says otherwise: whoever runs many batches
    runs a process for each processor.

    Args:
        name: The name of an engine.
        options: Its options: texts, numbers and the like.

    Raises:
        InvalidRequestError: If an option is of another kind; `param` is "options".
    """

    def __init__(self, name: str, options: Mapping[str, object]) -> None:
        self.name = name
        self.options = dict(options)
        self._lock = threading.Lock()
        self._engine: VariationEngine | None = None
        self.relevant = _as_text(self.options)
        """The options on which the pictures depend, always written in the same way."""

    @cached_property
    def version(self) -> str:
        """The version of the engine's distribution.

        Raises:
            EngineNotFoundError: If there is no such engine.
        """
        return engine_version(self.name)

    @property
    def takes_seed(self) -> bool:
        """Whether it has the option `seed`."""
        return "seed" in engine_options(self._class)

    def load(self) -> VariationEngine:
        """Return the engine, made when this is called first.

        Raises:
            ImageVariationError: As `load_engine`.
        """
        with self._lock:
            if self._engine is None:
                self._engine = self._made({})
            return self._engine

    def with_options(self, seed: int | None, strength: float | None) -> VariationEngine:
        """Return one with other options, where they are not None.

        Raises:
            InvalidRequestError: If it refuses one.
        """
        given = {"seed": seed, "strength": strength}
        own = {name: value for name, value in given.items() if value is not None}
        return self._made(own) if own else self.load()

    def release(self, engine: VariationEngine) -> None:
        """Close what `with_options` returned, if it can be closed and is no longer needed."""
        with self._lock:
            is_shared = engine is self._engine
        if not is_shared:
            close_engine(engine)

    def close(self) -> None:
        """Close the engine, if it was made and can be closed. `load` makes a new one."""
        with self._lock:
            engine, self._engine = self._engine, None
        close_engine(engine)

    def __getstate__(self) -> dict[str, object]:
        # An engine may hold connections and threads.
        left_out = ("_class", "_engine", "_lock", "version")
        return {name: value for name, value in vars(self).items() if name not in left_out}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state, _engine=None, _lock=threading.Lock())

    @cached_property
    def _class(self) -> type[Any]:
        return load_engine_class(self.name)

    def _made(self, options: Mapping[str, object]) -> VariationEngine:
        threads = {"threads": 1} if "threads" in engine_options(self._class) else {}
        return make_engine(self.name, self._class, {**threads, **self.options, **options})


def _as_text(options: Mapping[str, object]) -> str:
    relevant = {name: value for name, value in options.items() if name not in _IRRELEVANT}
    try:
        return json.dumps(relevant, sort_keys=True)
    except (TypeError, ValueError, RecursionError):
        raise InvalidRequestError(
            "options must be texts, numbers, True, False, None, or lists and mappings of these.",
            param="options",
        ) from None
