"""Engines make the pixels: the Protocol they satisfy, and loading one by name.

An engine is anything with `create_variation(request) -> ImagesResponse`, or the async twin of it.
Engines are found in the entry-point group `langchain_image_variation.engines`, in which this
project's own are declared like anyone else's::

    [project.entry-points."langchain_image_variation.engines"]
    mine = "my_package.module:MyEngine"

If an engine needs an extra of its distribution, the entry point names it:
``mine = "my_package.module:MyEngine [mine]"``.

An engine may also have a `fingerprint`, by which its results can be cached: see the module of that
name.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from inspect import isawaitable, iscoroutinefunction, signature
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.exceptions import (
    EngineError,
    EngineNotFoundError,
    ImageVariationError,
    InvalidRequestError,
    MissingExtraError,
    ModelNotFoundError,
)

if TYPE_CHECKING:
    import asyncio
    from importlib.metadata import EntryPoint, EntryPoints

__all__ = [
    "ENTRY_POINT_GROUP",
    "AsyncVariationEngine",
    "VariationEngine",
    "call_engine",
    "call_engine_async",
    "cancellation",
    "check_model",
    "engine_names",
    "engine_version",
    "load_engine",
    "load_engine_class",
    "make_engine",
    "picture_listener",
]

ENTRY_POINT_GROUP = "langchain_image_variation.engines"
"""Where engines are declared, by this distribution and any other."""


@runtime_checkable
class VariationEngine(Protocol):
    """What makes variations of a picture."""

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Return exactly `request.n` variations, each PNG of exactly `request.size`.

        Raises:
            ImageVariationError: If the engine cannot; every failure is one of its subclasses.
        """
        ...


@runtime_checkable
class AsyncVariationEngine(Protocol):
    """The async twin of `VariationEngine`."""

    async def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Return what `VariationEngine.create_variation` returns, without blocking the loop."""
        ...


def engine_names() -> list[str]:
    """Return the names of all declared engines, sorted, whether or not they are usable here."""
    return sorted(_declared().names)


def load_engine(name: str, **options: Any) -> VariationEngine:
    """Return a new engine.

    Args:
        name: A name from `engine_names`.
        **options: Passed to the engine's constructor, for example `seed=7`.

    Raises:
        EngineNotFoundError: If no engine of that name is declared.
        MissingExtraError: If the engine needs a package that is not installed.
        EngineError: If the engine cannot be imported or made, or is an async one.
        InvalidRequestError: If the engine has no such option, or refuses its value.
    """
    return make_engine(name, load_engine_class(name), options)


def make_engine(
    name: str, engine_class: type[Any], options: Mapping[str, object]
) -> VariationEngine:
    """Return a new engine of a class that `load_engine_class` returned.

    Raises:
        EngineError: If it cannot be made.
        InvalidRequestError: If it has no such option, or refuses its value.
    """
    known = signature(engine_class).parameters
    for option in options:
        if option not in known:
            takes = f"its options are {', '.join(known)}" if known else "it has no options"
            raise InvalidRequestError(
                f"The engine {name!r} has no option {option!r}; {takes}.", param=option
            )
    with _failures(f"The engine {name!r} cannot be made"):
        return cast(VariationEngine, engine_class(**options))


def load_engine_class(name: str) -> type[Any]:
    """Return an engine's class, importing what it needs.

    Raises:
        EngineNotFoundError: If no engine of that name is declared.
        MissingExtraError: If the engine needs a package that is not installed.
        EngineError: If the engine cannot be imported, or is an async one.
    """
    point = _named(name)
    with _failures(f"The engine {name!r} cannot be imported"):
        try:
            engine_class = cast("type[Any]", point.load())
        except ImportError as error:
            raise _missing(point, error) from error
        is_async = iscoroutinefunction(engine_class.create_variation)
    if is_async:
        raise EngineError(
            f"The engine {name!r} is async; make it yourself and pass the object, not its name."
        )
    return engine_class


def engine_version(name: str) -> str:
    """Return the version of the distribution that declares an engine, without importing it.

    Raises:
        EngineNotFoundError: If no engine of that name is declared.
    """
    distribution = _named(name).dist
    return "unknown" if distribution is None else distribution.version


def call_engine(
    engine: VariationEngine | AsyncVariationEngine,
    request: CreateImageVariationRequest,
    *,
    finished: Callable[[int], None] | None = None,
) -> ImagesResponse:
    """Ask an engine for variations, and hold it to the Protocol.

    Args:
        engine: The engine.
        request: What is asked of it.
        finished: Called with the number of pictures that are finished, each time one more is, from
            any thread: 1, 2, up to `request.n`. An engine that does not tell, see
            `picture_listener`, has them all finished at the end. It must not raise.

    Raises:
        ImageVariationError: If the engine fails. What it raises outside the tree becomes an
            `EngineError`, as does an answer of another type or with another number of pictures.
    """
    count = _Count(request.n, finished)
    token = _COUNT.set(count)
    try:
        with _failures(f"The engine {type(engine).__name__} failed"):
            answer: Any = engine.create_variation(request)
            if isawaitable(answer):
                answer = _waited_for(answer)
    finally:
        _COUNT.reset(token)
    return _complete(answer, request, count)


async def call_engine_async(
    engine: VariationEngine | AsyncVariationEngine,
    request: CreateImageVariationRequest,
    *,
    finished: Callable[[int], None] | None = None,
) -> ImagesResponse:
    """Do what `call_engine` does without blocking the loop: a sync engine runs in a thread.

    If the call is cancelled, an engine that asks `cancellation` stops working too.

    Raises:
        ImageVariationError: As `call_engine`.
    """
    import asyncio

    gone = threading.Event()
    count = _Count(request.n, finished)
    tokens = _GONE.set(gone), _COUNT.set(count)
    try:
        with _failures(f"The engine {type(engine).__name__} failed"):
            answer: Any = await asyncio.to_thread(engine.create_variation, request)
            if isawaitable(answer):
                answer = await _awaited(answer)
    finally:
        gone.set()
        _GONE.reset(tokens[0])
        _COUNT.reset(tokens[1])
    return _complete(answer, request, count)


class _Count:
    """Counts the finished pictures of a request, for whoever asked to be told."""

    def __init__(self, pictures: int, told: Callable[[int], None] | None) -> None:
        self._pictures = pictures
        self._told = told
        self._done = 0
        self._lock = threading.Lock()

    def one_more(self) -> None:
        with self._lock:
            if self._told is not None and self._done < self._pictures:
                self._done += 1
                self._told(self._done)

    def all(self) -> None:
        for _ in range(self._pictures):
            self.one_more()


_GONE: ContextVar[threading.Event | None] = ContextVar("_GONE", default=None)
_COUNT: ContextVar[_Count | None] = ContextVar("_COUNT", default=None)


def cancellation() -> Callable[[], bool]:
    """Return a function that says whether whoever called the engine has gone away.

    For engines: call this once in `create_variation`, and what it returns now and then, from any
    thread; once it says True, nobody waits for the answer, so raise any error to stop.
    """
    gone = _GONE.get()
    return gone.is_set if gone is not None else lambda: False


def picture_listener() -> Callable[[], None]:
    """Return a function that tells whoever called the engine that one more picture is finished.

    For engines: call this once in `create_variation`, and what it returns once a picture, from any
    thread.
    """
    count = _COUNT.get()
    return count.one_more if count is not None else lambda: None


def check_model(model: str, offered: tuple[str, ...]) -> None:
    """Refuse a model that an engine does not offer.

    Raises:
        ModelNotFoundError: If `model` is not one of `offered`.
    """
    if model not in offered:
        raise ModelNotFoundError(
            f"The model {model[:40]!r} does not exist here; this engine offers "
            f"{' and '.join(repr(name) for name in offered)}."
        )


def _waited_for(answer: Any) -> ImagesResponse:
    """Wait for an async engine in a thread that runs no loop, or one that must not be entered."""
    import asyncio

    future = asyncio.run_coroutine_threadsafe(_outcome(answer), _background.loop())
    try:
        outcome = future.result()
    except BaseException:
        future.cancel()
        raise
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


async def _outcome(answer: Any) -> ImagesResponse | BaseException:
    try:
        return await _awaited(answer)
    except (KeyboardInterrupt, SystemExit) as error:
        # Raised here, they would end the loop, and with it every later call.
        return error


class _Background:
    """The thread with the loop on which all async engines run that are called synchronously.

    There is one loop, since an engine may keep connections, and those belong to a loop.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop, started by the first call, from any thread."""
        import asyncio

        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(
                    target=self._loop.run_forever, name="image-variation", daemon=True
                ).start()
            return self._loop


_background = _Background()


def _replace_background() -> None:
    """Forget the loop in a forked child, which has none of its parent's threads."""
    global _background
    _background = _Background()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_replace_background)


async def _awaited(answer: Any) -> ImagesResponse:
    return cast(ImagesResponse, await answer)


@contextmanager
def _failures(what: str) -> Iterator[None]:
    """Turn an error from outside the tree into an `EngineError` that does not show its text."""
    try:
        yield
    except ImageVariationError:
        raise
    except Exception as error:
        raise EngineError(f"{what}: {type(error).__name__}. This is a bug in it.") from error


def _complete(answer: Any, request: CreateImageVariationRequest, count: _Count) -> ImagesResponse:
    # An engine is anyone's code, and its Protocol is checked by no one else.
    if not isinstance(answer, ImagesResponse):
        raise EngineError(
            f"The engine answered with a value of type {type(answer).__name__}; it must be an "
            "ImagesResponse. This is a bug in it."
        )
    if len(answer.data) != request.n:
        raise EngineError(
            f"The engine answered with {len(answer.data)} pictures; {request.n} were asked for."
        )
    count.all()
    return answer


def _declared() -> EntryPoints:
    from importlib.metadata import entry_points

    return entry_points(group=ENTRY_POINT_GROUP)


def _named(name: str) -> EntryPoint:
    # Ours come before another distribution's of the same name.
    found = sorted(
        (point for point in _declared() if point.name == name),
        key=lambda point: not point.module.startswith("langchain_image_variation."),
    )
    if not found:
        raise EngineNotFoundError(
            f"There is no engine {name[:40]!r}; installed are: {', '.join(engine_names())}."
        )
    return found[0]


def _missing(point: EntryPoint, error: ImportError) -> MissingExtraError:
    distribution = point.dist.name if point.dist is not None else "its distribution"
    extras = f"[{','.join(point.extras)}]" if point.extras else ""
    what = f"the package {error.name!r}" if error.name else "a package"
    return MissingExtraError(
        f"The engine {point.name!r} needs {what}, which is not installed; "
        f"run: pip install '{distribution}{extras}'"
    )
