"""The engine of the server, whose calls go to replicas."""

import copy
from typing import Any, cast

import pytest

from langchain_image_variation.contract import CreateImageVariationRequest
from langchain_image_variation.engines.call import call_engine_async
from langchain_image_variation.engines.loading import load_engine
from langchain_image_variation.engines.traits import engine_identity
from langchain_image_variation.exceptions import ImageVariationError, RateLimitError
from langchain_image_variation.images.png import SquarePNG
from pytest_image_variation.samples import square_png
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


async def test_a_failed_image_loses_no_others() -> None:
    """An image that failed in a replica raises its error when it is read, and others are kept."""
    skip_without("aiohttp_cors")
    from langchain_image_variation.server.ray.remote_engine import RemoteEngine

    class OneAnswer:
        """Answers in place of replicas, which need a cluster."""

        async def call(self, *arguments: object) -> list[bytes | ImageVariationError]:
            """Return the outcome of a call that made one of two images."""
            return [square_png(256), RateLimitError("Too many calls.", retry_after=2.0)]

    engine = RemoteEngine(load_engine("local"), cast("Any", OneAnswer()))
    request = CreateImageVariationRequest(image=SquarePNG(square_png(8)), n=2, size="256x256")
    response = await call_engine_async(engine, request)
    assert response.data[0].read() == square_png(256)
    with pytest.raises(RateLimitError, match="Too many calls") as caught:
        response.data[1].read()
    assert caught.value.retry_after == 2.0
