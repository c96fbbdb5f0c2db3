"""Loading engines by name.

Engines are declared in the entry-point group `langchain_image_variation.engines`. Our own are
declared there like anyone else's::

    [project.entry-points."langchain_image_variation.engines"]
    mine = "my_package.module:MyEngine"

If an engine needs an extra of its distribution, the entry point names it:
``mine = "my_package.module:MyEngine [mine]"``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from functools import lru_cache
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, cast

from langchain_image_variation.engines import ENTRY_POINT_GROUP, VariationEngine
from langchain_image_variation.engines.auto import AUTO, choose_engine
from langchain_image_variation.engines.checks import find_engine_fault
from langchain_image_variation.engines.traits import engine_options, required_options
from langchain_image_variation.error_translation import ErrorTranslation
from langchain_image_variation.exceptions import (
    EngineError,
    EngineNotFoundError,
    ImageVariationError,
    InvalidRequestError,
    MissingExtraError,
    excerpt,
)

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint, EntryPoints

__all__ = [
    "check_option_names",
    "engine_name",
    "engine_names",
    "engine_version",
    "load_engine",
    "load_engine_class",
    "make_engine",
    "resolve_engine",
]


def engine_names() -> list[str]:
    """Return the names of all declared engines, sorted, whether or not they are usable here."""
    return sorted(_entry_points().names)


def engine_name(engine: object) -> str:
    """Return the name under which an engine's class is declared, or else the name of the class."""
    kind = type(engine)
    return _declared_name(kind.__module__, kind.__qualname__) or kind.__name__


def load_engine(name: str, **options: Any) -> VariationEngine:
    """Return a new engine.

    Args:
        name: A name from `engine_names`, or "auto" for the best engine that is usable here; see
            `choose_engine`.
        **options: Passed to the engine's constructor, for example `seed=7`.

    Raises:
        EngineNotFoundError: If no engine has that name.
        MissingExtraError: If the engine needs a package that is not installed.
        EngineError: If the engine cannot be imported or constructed, or is async.
        InvalidRequestError: If the engine has no such option, or refuses its value.
    """
    name = resolve_engine(name, options)
    return make_engine(name, load_engine_class(name), options)


def resolve_engine(name: str, options: Mapping[str, object] | None = None) -> str:
    """Return the name of an engine. If it is "auto", that of the chosen one.

    Args:
        name: The name.
        options: The options that the engine will get.

    Raises:
        InvalidRequestError: If the chosen engine lacks one of the options. See also
            `choose_engine`.
    """
    if name != AUTO:
        return name
    choice = choose_engine(options)
    check_option_names(choice.name, load_engine_class(choice.name), options or {}, choice.reason)
    return choice.name


def make_engine(
    name: str, engine_class: type[Any], options: Mapping[str, object]
) -> VariationEngine:
    """Return a new engine of a class that `load_engine_class` returned.

    Raises:
        EngineError: If it cannot be constructed, or is not an engine.
        InvalidRequestError: If it has no such option, lacks a required one, or refuses a value.
    """
    check_option_names(name, engine_class, options)
    for option in required_options(engine_class):
        if option not in options:
            raise InvalidRequestError(
                f"The engine {name!r} needs the option {option!r}.", param=option
            )
    with _translate_errors(f"The engine {name!r} cannot be constructed"):
        engine = engine_class(**options)
    fault = find_engine_fault(engine)
    if fault is not None:
        raise EngineError(f"The engine {name!r} cannot be used: {fault}")
    return cast(VariationEngine, engine)


def check_option_names(
    name: str, engine_class: type[Any], options: Iterable[str], reason: str | None = None
) -> None:
    """Refuse an option that an engine does not have.

    Args:
        name: The name of the engine.
        engine_class: Its class.
        options: The names of the options.
        reason: Why "auto" chose the engine: `EngineChoice.reason`.

    Raises:
        InvalidRequestError: If the engine lacks one of the options.
    """
    option_names = engine_options(engine_class)
    for option in options:
        if option not in option_names:
            hint = (
                f"Its options are {', '.join(option_names)}."
                if option_names
                else "It takes no options."
            )
            if others := _engines_with(option):
                hint = f"{hint} The option {option!r} is for {' and '.join(others)}."
            if reason is not None:
                hint = f"{hint} auto chose it because {reason}."
            raise InvalidRequestError(
                f"The engine {name!r} has no option {option!r}. {hint}", param=option
            )


def _engines_with(option: str) -> list[str]:
    """Return the names of our engines that have an option, sorted."""
    names = []
    for name in sorted(_our_entry_points().names):
        # An engine may need packages that are not installed.
        with suppress(ImageVariationError):
            if option in engine_options(load_engine_class(name)):
                names.append(name)
    return names


def load_engine_class(name: str) -> type[Any]:
    """Return an engine's class, importing what it needs.

    Raises:
        InvalidRequestError: If `name` is not a string.
        EngineNotFoundError: If no engine has that name.
        MissingExtraError: If the engine needs a package that is not installed.
        EngineError: If the engine cannot be imported, is not a class, or is async.
    """
    if not isinstance(name, str):
        raise InvalidRequestError(
            f"load_engine needs the name of an engine, got {excerpt(name)}. Use your own engine "
            "directly, without load_engine.",
            param="engine",
        )
    point = _entry_point(name)
    with _translate_errors(f"The engine {name!r} cannot be imported"):
        try:
            engine_class: object = point.load()
        except ImportError as error:
            raise _missing_extra_error(point, error) from error
    if not isinstance(engine_class, type):
        raise EngineError(
            f"The engine {name!r} is declared as {point.value}, which is not a class. Declare the "
            "class with the method create_variation(self, request)."
        )
    if iscoroutinefunction(getattr(engine_class, "create_variation", None)):
        raise EngineError(
            f"The engine {name!r} is async. Construct it yourself and pass the object instead of "
            "its name."
        )
    return engine_class


def engine_version(name: str) -> str:
    """Return the version of the distribution that declares an engine, without importing it.

    Raises:
        EngineNotFoundError: If no engine has that name.
    """
    distribution = _entry_point(name).dist
    return "unknown" if distribution is None else distribution.version


@lru_cache(maxsize=64)
def _declared_name(module: str, qualname: str) -> str | None:
    for points in (_our_entry_points, _entry_points):
        for point in points():
            # An entry point may name a package that imports the class from one of its modules.
            if point.attr == qualname and f"{module}.".startswith(f"{point.module}."):
                return point.name
    return None


def _translate_errors(what: str) -> ErrorTranslation:
    """Turn an error from outside the tree into an `EngineError` that does not show its text."""
    return ErrorTranslation(
        lambda error: EngineError(f"{what}: {type(error).__name__}. This is a bug in the engine."),
        is_chained=True,
    )


def _entry_points() -> EntryPoints:
    # Imported here because it is slow, and a program may pass engines as objects.
    from importlib.metadata import entry_points

    return entry_points(group=ENTRY_POINT_GROUP)


def _our_entry_points() -> EntryPoints:
    """Return the engines of this distribution. It takes a twentieth of `_entry_points`."""
    from importlib.metadata import EntryPoints, PackageNotFoundError, distribution

    try:
        points = distribution("langchain-image-variation").entry_points
    except PackageNotFoundError:
        return EntryPoints()
    return points.select(group=ENTRY_POINT_GROUP)


def _entry_point(name: str) -> EntryPoint:
    name = resolve_engine(name)
    # Our own engines win over those of the same name in another distribution.
    for points in (_our_entry_points, _entry_points):
        for point in points().select(name=name):
            return point
    names = [AUTO, *engine_names()]
    similar = get_close_matches(name[:40], names, n=1)
    hint = f"Did you mean {similar[0]!r}?" if similar else f"Installed engines: {', '.join(names)}."
    raise EngineNotFoundError(f"There is no engine {name[:40]!r}. {hint}")


def _missing_extra_error(point: EntryPoint, error: ImportError) -> MissingExtraError:
    distribution = point.dist.name if point.dist is not None else "its distribution"
    extras = f"[{','.join(point.extras)}]" if point.extras else ""
    what = f"The engine {point.name!r}"
    return MissingExtraError.for_package(what, error.name, f"{distribution}{extras}")
