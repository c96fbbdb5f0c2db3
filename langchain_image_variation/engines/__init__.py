"""Engines make the pixels: the Protocol they satisfy, and loading one by name.

An engine is anything with `create_variation(request) -> ImagesResponse`, or the async twin of it.
Engines are found in the entry-point group `langchain_image_variation.engines`, in which this
project's own are declared like anyone else's::

    [project.entry-points."langchain_image_variation.engines"]
    mine = "my_package.module:MyEngine"

If an engine needs an extra of its distribution, the entry point names it:
``mine = "my_package.module:MyEngine [mine]"``.
"""

from importlib.metadata import EntryPoint, EntryPoints, entry_points
from inspect import signature
from typing import Any, Protocol, cast, runtime_checkable

from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.exceptions import (
    EngineError,
    EngineNotFoundError,
    InvalidRequestError,
    MissingExtraError,
    ModelNotFoundError,
)

__all__ = [
    "ENTRY_POINT_GROUP",
    "AsyncVariationEngine",
    "VariationEngine",
    "check_model",
    "engine_names",
    "load_engine",
    "load_engine_class",
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
        EngineError: If the engine's declaration is broken.
        InvalidRequestError: If the engine has no such option, or refuses its value.
    """
    engine_class = load_engine_class(name)
    known = signature(engine_class).parameters
    for option in options:
        if option not in known:
            takes = f"its options are {', '.join(known)}" if known else "it has no options"
            raise InvalidRequestError(
                f"The engine {name!r} has no option {option!r}; {takes}.", param=option
            )
    return cast(VariationEngine, engine_class(**options))


def load_engine_class(name: str) -> type[Any]:
    """Return an engine's class, importing what it needs.

    Raises:
        EngineNotFoundError: If no engine of that name is declared.
        MissingExtraError: If the engine needs a package that is not installed.
        EngineError: If the engine's declaration is broken.
    """
    found = [point for point in _declared() if point.name == name]
    if not found:
        raise EngineNotFoundError(
            f"There is no engine {name[:40]!r}; installed are: {', '.join(engine_names())}."
        )
    try:
        return cast("type[Any]", found[0].load())
    except ImportError as error:
        raise _missing(found[0], error) from error
    except AttributeError as error:
        raise EngineError(
            f"The engine {name!r} is declared as {found[0].value!r}, which does not exist; "
            "install its distribution again."
        ) from error


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


def _declared() -> EntryPoints:
    return entry_points(group=ENTRY_POINT_GROUP)


def _missing(point: EntryPoint, error: ImportError) -> MissingExtraError:
    distribution = point.dist.name if point.dist is not None else "its distribution"
    extras = f"[{','.join(point.extras)}]" if point.extras else ""
    what = f"the package {error.name!r}" if error.name else "a package"
    return MissingExtraError(
        f"The engine {point.name!r} needs {what}, which is not installed; "
        f"run: pip install '{distribution}{extras}'"
    )
