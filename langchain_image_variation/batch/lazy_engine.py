"""`LazyEngine`: an engine by name. Each process creates its own on first use, so it pickles."""

import json
import threading
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from langchain_image_variation.engines import VariationEngine
from langchain_image_variation.engines.loading import engine_version, load_engine_class, make_engine
from langchain_image_variation.engines.traits import (
    close_engine,
    engine_options,
    has_costly_seeds,
    has_devices,
    request_options,
    with_options,
)
from langchain_image_variation.exceptions import InvalidRequestError

__all__ = ["LazyEngine"]

_IRRELEVANT_OPTIONS = {
    "api_key",
    "batch",
    "cache_dir",
    "deadline",
    "device",
    "download",
    "max_billed_calls",
    "max_retries",
    "offload",
    "organization",
    "project",
    "resend_lost",
    "threads",
    "timeout",
    "token",
}
"""Engine options that do not affect the images, except for rounding on another device."""


class LazyEngine:
    """An engine that is created on first use, and again for each seed. It is thread-safe.

    An engine with the option `threads` gets one thread unless `options` says otherwise, since
    a batch already runs one process per processor. An engine with `devices` keeps its own default:
    its process runs nothing else.

    Args:
        name: The name of the engine.
        options: The engine's options. The values must be JSON types.

    Raises:
        InvalidRequestError: If an option has another type. `param` is "options".
    """

    def __init__(self, name: str, options: Mapping[str, object]) -> None:
        self.name = name
        self.options = dict(options)
        self._lock = threading.Lock()
        self._engine: VariationEngine | None = None
        self.options_json = _dump_relevant(self.options)
        """The options that affect the images, as JSON with sorted keys."""
        self.device: str | None = None
        """The device to compute on. It replaces the option `device`."""

    @cached_property
    def version(self) -> str:
        """The version of the package that provides the engine.

        Raises:
            EngineNotFoundError: If there is no engine of this name.
        """
        return engine_version(self.name)

    @property
    def wants_seeds(self) -> bool:
        """Whether to derive seeds: the engine has the option `seed`, and using it costs nothing."""
        return "seed" in engine_options(self._class) and not has_costly_seeds(self._class)

    def load(self) -> VariationEngine:
        """Return the engine. The first call creates it.

        Raises:
            ImageVariationError: See `load_engine`.
        """
        with self._lock:
            if self._engine is None:
                self._engine = self._make({})
            return self._engine

    def with_options(self, seed: int | None, strength: float | None) -> VariationEngine:
        """Return the engine, or one with other options if an argument is not None.

        Raises:
            InvalidRequestError: If the engine refuses an option.
        """
        options = {"seed": seed, "strength": strength}
        overrides = {name: value for name, value in options.items() if value is not None}
        if not overrides:
            return self.load()
        shared = self.load()
        if set(overrides) <= set(request_options(shared)):
            # A copy shares the connections, and the count of billed calls.
            copy: VariationEngine = with_options(shared, overrides)
            return copy
        return self._make(overrides)

    def release(self, engine: VariationEngine) -> None:
        """Close an engine from `with_options`, unless it shares what `close` would release."""
        with self._lock:
            is_shared = engine is self._engine
        if not is_shared and not request_options(engine):
            close_engine(engine)

    def close(self) -> None:
        """Close the shared engine if it exists. The next `load` creates a new one."""
        with self._lock:
            engine, self._engine = self._engine, None
        close_engine(engine)

    def __getstate__(self) -> dict[str, object]:
        # An engine may hold connections and threads, which do not pickle.
        omitted_names = ("_class", "_engine", "_lock", "version")
        return {name: value for name, value in vars(self).items() if name not in omitted_names}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state, _engine=None, _lock=threading.Lock())

    @cached_property
    def _class(self) -> type[Any]:
        return load_engine_class(self.name)

    def _make(self, overrides: Mapping[str, object]) -> VariationEngine:
        defaults: dict[str, object] = {}
        if "threads" in engine_options(self._class) and not has_devices(self._class):
            defaults["threads"] = 1
        device = {} if self.device is None else {"device": self.device}
        options = {**defaults, **self.options, **device, **overrides}
        return make_engine(self.name, self._class, options)


def _dump_relevant(options: Mapping[str, object]) -> str:
    relevant_options = {
        name: value for name, value in options.items() if name not in _IRRELEVANT_OPTIONS
    }
    try:
        return json.dumps(relevant_options, sort_keys=True)
    except (TypeError, ValueError, RecursionError):
        raise InvalidRequestError(
            "options must be strings, numbers, booleans, None, or lists and mappings of these.",
            param="options",
        ) from None
