"""Fingerprints: engines with equal fingerprints produce equal results.

A cache such as `ResultCache` compares fingerprints to decide whether it may answer a call with
results that it kept. It caches nothing from an engine without a fingerprint.
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from functools import lru_cache
from types import ModuleType

from langchain_image_variation.engines import ENTRY_POINT_GROUP
from langchain_image_variation.engines.traits import has_fingerprint, read_fingerprint

__all__ = ["digest", "engine_fingerprint"]


def digest(**settings: object) -> str:
    """Return a hash of settings by name. Each value must be a JSON value."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def engine_fingerprint(engine: object, *, by_name: bool = False) -> str | None:
    """Return a hash of an engine's class, version and settings, or None if it does not state them.

    The version is that of the distribution that the engine's class comes from. A class from outside
    any distribution, such as one in a script, has no version: put one into its `fingerprint`.

    Args:
        engine: The engine.
        by_name: Whether the engine was made from its name alone, without options. Its class and
            version are then enough, and it needs no `fingerprint`.

    Raises:
        EngineError: If its `fingerprint` fails, or is neither None nor a string of up to 10,000
            characters.
    """
    kind = type(engine)
    settings = read_fingerprint(engine)
    if settings is None and (has_fingerprint(engine) or not by_name):
        return None
    name = f"{kind.__module__}.{kind.__qualname__}"
    package = kind.__module__.partition(".")[0]
    version = _version(package, sys.modules.get(package))
    return digest(engine=name, version=version, settings=settings)


@lru_cache(maxsize=64)
def _version(package: str, module: ModuleType | None) -> str | None:
    """Return the version of the distribution that a package comes from, or None.

    Args:
        package: Its name.
        module: The loaded package. It is part of the cache's key, because the package may have been
            reloaded after its distribution changed.
    """
    return next(_versions(package), None)


def _versions(package: str) -> Iterator[str]:
    # Imported here because it is slow and few calls need it.
    from importlib.metadata import entry_points, packages_distributions, version

    # Few distributions declare engines. Looking through the files of all others takes a while.
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.module.partition(".")[0] == package and point.dist is not None:
            yield point.dist.version
    for distribution in packages_distributions().get(package, ()):
        yield version(distribution)
