"""The engine of the server, whose calls go to replicas."""

import copy
from typing import Any

import pytest

from langchain_image_variation.engines.loading import load_engine
from langchain_image_variation.engines.traits import engine_identity
from tests.extras import skip_without

pytestmark = pytest.mark.slow


def test_a_copy_has_the_traits_of_the_engine() -> None:
    """A remote engine has the traits of the engine in the replicas, and so has a copy of it."""
    skip_without("aiohttp_cors")
    from langchain_image_variation.server.ray.remote_engine import RemoteEngine

    engine = load_engine("local", strength=0.5)
    replicas: Any = object()  # never called
    copied = copy.copy(RemoteEngine(engine, replicas))
    assert copied.strength == 0.5
    assert copied.fingerprint == engine_identity(engine)
    assert not hasattr(copied, "_nothing")
