"""What an engine may have besides `create_variation`. Every trait is optional.

| trait | what it means |
|---|---|
| `base_url: str` | The engine is hosted: it sends images to the server at this address. |
| `models: tuple[str, ...]` | The models that a request may name. |
| `max_n: int` | The most variations that one call makes, if that is less than 10. |
| `has_costly_seeds: bool` | A seed makes a request cost more, so nothing but the user sets one. |
| `variation_kind: str` | What the variations are, in a few words for a model. |
| `fingerprint: str or None` | Names every setting that the images depend on, and no secret. |
| `plan_download()` | Returns what must be downloaded first, or None. See below. |
| `close()` | Releases connections, threads or memory. A closed engine is not called again. |
| `devices()` | A class method that returns the devices to choose from with the option `device`. |
| `with_options(...)` | Returns a copy for one request. Its parameters are the options to set. |
| parameters of the constructor | The options of the engine, by name. |

The class declares `base_url`, as a property or an attribute, so that a batch knows that an engine
is hosted before it constructs one. It also declares `devices`. A device computes for one call at a
time, with as many threads as it needs. So a batch runs one worker per device, and sets the option
`device` of its engine. On a cluster, each worker gets a GPU. A server makes one call at a time.

Four options have a meaning that the rest of the project relies on. An engine with `seed` makes
image i of seed s as image 1 of seed s + i - 1. `strength` is how much the images differ from the
source, from 0 to 1. `prompt` is a text that says what to make of the source. An engine with
`threads` computes with that many threads.

An engine that declares `plan_download`, which returns a `PendingDownload` or None, loads a model of
its own. `model` is then an option of the engine, and not of a request.

Progress is not a trait: see `engines.context.progress_reporter`.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from inspect import signature
from typing import Any, Protocol, runtime_checkable

from langchain_image_variation.contract import MAX_N
from langchain_image_variation.exceptions import (
    EngineError,
    ImageVariationError,
    ModelNotFoundError,
    excerpt,
)

__all__ = [
    "MAX_FINGERPRINT",
    "MAX_VARIATION_KIND",
    "PendingDownload",
    "check_model",
    "close_engine",
    "engine_base_url",
    "engine_devices",
    "engine_identity",
    "engine_max_n",
    "engine_models",
    "engine_options",
    "engine_variation_kind",
    "has_costly_seeds",
    "has_devices",
    "has_fingerprint",
    "is_hosted",
    "loads_model",
    "option_value",
    "plan_download",
    "read_fingerprint",
    "request_options",
    "required_options",
    "with_options",
]

MAX_FINGERPRINT = 10_000
"""The maximum length of a fingerprint, in characters."""

MAX_VARIATION_KIND = 80
"""The maximum length of a `variation_kind`, in characters. A model reads it after every call."""


class PendingDownload(Protocol):
    """What an engine must download before its first request, such as the files of a model."""

    @property
    def model(self) -> str:
        """What is downloaded."""
        ...

    @property
    def license(self) -> str:
        """The name of its license."""
        ...

    @property
    def pages(self) -> Sequence[str]:
        """The addresses of the pages that describe it."""
        ...

    @property
    def missing_bytes(self) -> int:
        """How many bytes are missing."""
        ...

    def run(self, listener: Callable[[int, int], object]) -> object:
        """Download what is missing.

        Args:
            listener: Called with the bytes that are here, and with those of the whole.
        """
        ...


@runtime_checkable
class _Downloading(Protocol):
    def plan_download(self) -> PendingDownload | None: ...


@runtime_checkable
class _Closable(Protocol):
    def close(self) -> object: ...


def is_hosted(engine_class: type[Any]) -> bool:
    """Return whether engines of a class send images to a server: whether it has a `base_url`."""
    return hasattr(engine_class, "base_url")


def has_costly_seeds(engine_class: type[Any]) -> bool:
    """Return whether requests with a seed cost more than those without."""
    return bool(getattr(engine_class, "has_costly_seeds", False))


def has_devices(engine_class: type[Any]) -> bool:
    """Return whether engines of a class compute on a device, which the option `device` chooses."""
    return hasattr(engine_class, "devices")


def engine_devices(engine_class: type[Any]) -> tuple[str, ...]:
    """Return the devices of this machine that engines of a class can compute on.

    Args:
        engine_class: A class for which `has_devices` is true.

    Raises:
        ImageVariationError: If `devices` fails, such as for a missing package.
        EngineError: If it returns anything but a sequence of at least one name.
    """
    name = engine_class.__name__
    try:
        devices = engine_class.devices()
    except ImageVariationError:
        raise
    except Exception as error:
        raise EngineError(
            f"The devices of the engine {name} cannot be listed: {type(error).__name__}."
        ) from error
    is_list = isinstance(devices, list | tuple) and bool(devices)
    if is_list and all(isinstance(device, str) for device in devices):
        return tuple(devices)
    raise EngineError(
        f"{name}.devices must return at least one name, such as ['cuda:0'], got {excerpt(devices)}."
    )


def loads_model(engine_class: type[Any]) -> bool:
    """Return whether engines of a class load a model: `model` is then an option of the engine.

    Other engines take the model from each request.
    """
    return hasattr(engine_class, "plan_download")


def plan_download(engine: object) -> PendingDownload | None:
    """Return what an engine must download before its first request. None if nothing is missing.

    Raises:
        ImageVariationError: If the engine cannot find out.
    """
    return engine.plan_download() if isinstance(engine, _Downloading) else None


def engine_base_url(engine: object) -> str | None:
    """Return the address of a hosted engine's server. None if images stay in this process."""
    url = getattr(engine, "base_url", None)
    return None if url is None else str(url)


def engine_models(engine: object) -> tuple[str, ...] | None:
    """Return the models that an engine offers. None if it does not list them."""
    models: Sequence[str] | None = getattr(engine, "models", None)
    return None if models is None else _model_names(models)


def _model_names(models: Sequence[str]) -> tuple[str, ...]:
    # ("mine") is a string: the comma that makes it a tuple is easily forgotten.
    return (models,) if isinstance(models, str) else tuple(models)


def engine_max_n(engine: object) -> int:
    """Return how many variations an engine makes at most in one call.

    Raises:
        EngineError: If reading its `max_n` fails, or if it is not a whole number from 1.
    """
    try:
        max_n = getattr(engine, "max_n", MAX_N)
    except Exception as error:
        raise EngineError(
            f"Reading the max_n of the engine {type(engine).__name__} failed with "
            f"{type(error).__name__}."
        ) from error
    if isinstance(max_n, int) and max_n >= 1:
        return min(max_n, MAX_N)
    raise EngineError(
        f"The max_n of the engine {type(engine).__name__} must be a whole number from 1, got "
        f"{excerpt(max_n)}."
    )


def engine_variation_kind(engine: object) -> str | None:
    """Return what the variations of an engine are, in a few words. None if it does not say.

    Raises:
        EngineError: If reading its `variation_kind` fails, or if it is neither None nor one line of
            up to `MAX_VARIATION_KIND` characters.
    """
    name = type(engine).__name__
    try:
        kind = getattr(engine, "variation_kind", None)
    except Exception as error:
        raise EngineError(
            f"Reading the variation_kind of the engine {name} failed with {type(error).__name__}."
        ) from error
    if kind is None or (
        isinstance(kind, str) and kind.isprintable() and 0 < len(kind) <= MAX_VARIATION_KIND
    ):
        return kind
    raise EngineError(
        f"The variation_kind of the engine {name} must be one line of up to {MAX_VARIATION_KIND} "
        f"characters, such as 'new images of the same subject', got {excerpt(kind)}."
    )


def engine_options(engine_class: type[Any]) -> tuple[str, ...]:
    """Return the names of an engine's options: the parameters of its constructor."""
    return tuple(signature(engine_class).parameters)


def option_value(engine: object, name: str) -> object:
    """Return the value of an option: the attribute of that name, or None if there is none."""
    return getattr(engine, name, None)


def request_options(engine: object) -> tuple[str, ...]:
    """Return the names of the options that a request may set: the parameters of `with_options`."""
    with_options = getattr(engine, "with_options", None)
    return () if with_options is None else tuple(signature(with_options).parameters)


def with_options(engine: Any, options: Mapping[str, object]) -> Any:
    """Return an engine with other options for one request, or the engine itself if there are none.

    Args:
        engine: The engine.
        options: Values for some of its `request_options`.

    Raises:
        InvalidRequestError: If the engine refuses a value.
    """
    return engine.with_options(**options) if options else engine


def required_options(engine_class: type[Any]) -> tuple[str, ...]:
    """Return the names of the options that an engine requires."""
    return tuple(
        name
        for name, parameter in signature(engine_class).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    )


def close_engine(engine: object) -> None:
    """Close an engine that can be closed. An error of its `close` is ignored: no image is lost."""
    if isinstance(engine, _Closable):
        with suppress(Exception):
            engine.close()


def has_fingerprint(engine: object) -> bool:
    """Return whether an engine or its own class defines `fingerprint`.

    An inherited fingerprint does not count. It says nothing about what a subclass does differently.
    """
    return "fingerprint" in {*getattr(engine, "__dict__", {}), *vars(type(engine))}


def read_fingerprint(engine: Any) -> str | None:
    """Return an engine's `fingerprint`, or None if `has_fingerprint` says that it has none.

    Raises:
        EngineError: If reading it fails, or if it is neither None nor a string of up to
            `MAX_FINGERPRINT` characters.
    """
    name = type(engine).__name__
    try:
        # `getattr` with a default would hide an AttributeError inside a property.
        fingerprint: object = engine.fingerprint if has_fingerprint(engine) else None
    except Exception as error:
        raise EngineError(
            f"Reading the fingerprint of the engine {name} failed with {type(error).__name__}."
        ) from error
    if fingerprint is None:
        return None
    if isinstance(fingerprint, str) and len(fingerprint) <= MAX_FINGERPRINT:
        return fingerprint
    raise EngineError(
        f"The fingerprint of the engine {name} must be None or a string of up to "
        f"{MAX_FINGERPRINT:,} characters, got a {type(fingerprint).__name__}."
    )


def engine_identity(engine: Any) -> str:
    """Return a text that names an engine's class and, if it states them, its settings.

    Raises:
        EngineError: See `read_fingerprint`.
    """
    kind = type(engine)
    return f"{kind.__module__}.{kind.__qualname__} {read_fingerprint(engine)}"


def check_model(model: str, offered_models: Sequence[str]) -> None:
    """Refuse a model that an engine does not offer.

    Raises:
        ModelNotFoundError: If `model` is not one of `offered_models`.
    """
    names = _model_names(offered_models)
    if model not in names:
        raise ModelNotFoundError(
            f"The model {model[:40]!r} does not exist here; this engine offers "
            f"{' and '.join(repr(name) for name in names)}."
        )
