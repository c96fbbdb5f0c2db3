"""Fingerprints: two engines of the same one make the same of a request, or could.

An engine may have an attribute or a property `fingerprint`, a text that names every setting on
which its pictures depend, or a hash of them, and nothing secret. It is optional, and no part of the
Protocol: what answers calls from results that were kept, see `ResultCache`, leaves an engine alone
that has none, or None.
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from functools import lru_cache
from types import ModuleType
from typing import Any

from langchain_image_variation.engines import ENTRY_POINT_GROUP
from langchain_image_variation.exceptions import EngineError

__all__ = ["digest", "engine_fingerprint"]

_MOST = 10_000


def digest(**settings: object) -> str:
    """Return a hash of settings by name, each a value that JSON has; from it, none can be read."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def engine_fingerprint(engine: object, *, by_name: bool = False) -> str | None:
    """Return what an engine is, in which version, and how it is set; None if it does not say.

    The version is that of the distribution that its class comes from. A class that comes from none,
    such as one in a script, has no version: put one into its `fingerprint`.

    A `fingerprint` counts only if the engine itself or its own class defines it. One that is
    inherited says nothing of what the subclass does otherwise.

    Args:
        engine: The engine.
        by_name: Whether it was made by its name alone, so that without a `fingerprint` its class
            and version say enough.

    Raises:
        EngineError: If its `fingerprint` fails, or is neither a text of up to 10,000 characters nor
            None.
    """
    kind = type(engine)
    defined = "fingerprint" in {*getattr(engine, "__dict__", {}), *vars(kind)}
    own = _own(engine) if defined else None
    if own is None and (defined or not by_name):
        return None
    name = f"{kind.__module__}.{kind.__qualname__}"
    package = kind.__module__.partition(".")[0]
    version = _version(package, sys.modules.get(package))
    return digest(engine=name, version=version, settings=own)


def _own(engine: object) -> str | None:
    kind = type(engine)
    try:
        own: Any = engine.fingerprint  # type: ignore[attr-defined]  # it is defined
    except Exception as error:
        raise EngineError(
            f"The fingerprint of the engine {kind.__name__} failed: {type(error).__name__}."
        ) from error
    if own is None or (isinstance(own, str) and len(own) <= _MOST):
        return own
    raise EngineError(
        f"The fingerprint of the engine {kind.__name__} must be a text of up to {_MOST:,} "
        f"characters or None, got a {type(own).__name__}."
    )


@lru_cache(maxsize=64)
def _version(package: str, loaded: ModuleType | None) -> str | None:
    """Return the version of the distribution that a package comes from, if it comes from one.

    Args:
        package: Its name.
        loaded: The package, which may have been loaded anew after its distribution was changed.
    """
    return next(_versions(package), None)


def _versions(package: str) -> Iterator[str]:
    # As in `engines`: few calls need it.
    from importlib.metadata import entry_points, packages_distributions, version

    # Those that declare engines are few; looking through all files of all others takes a while.
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.module.partition(".")[0] == package and point.dist is not None:
            yield point.dist.version
    for distribution in packages_distributions().get(package, ()):
        yield version(distribution)
