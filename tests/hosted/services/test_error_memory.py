"""Errors of failed calls do not keep images until the garbage collector runs."""

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from langchain_image_variation.contract import CreateImageVariationRequest
from langchain_image_variation.engines.call import call_engine
from langchain_image_variation.exceptions import ImageVariationError
from tests.hosted.services.fakes import SERVICES, FakeImages, Reply
from tests.hosted.services.requesting import make_request


@contextmanager
def no_collector() -> Iterator[None]:
    """Run the block without the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def fail(engine: Any) -> "weakref.ref[CreateImageVariationRequest]":
    """Make a call that fails, and return a reference to its request."""
    request = make_request(2)
    with pytest.raises(ImageVariationError):
        call_engine(engine, request)
    return weakref.ref(request)


@pytest.mark.parametrize("name", [*SERVICES, "gpt-image", "variations"])
def test_a_refused_call_frees_its_images(name: str, open_engine: Callable[..., Any]) -> None:
    """The request of a call is freed together with its error."""
    service = SERVICES.get(name, FakeImages)()
    service.faults.extend([Reply(400, {"detail": "Wrong parameter."})] * 2)
    with service.running(), no_collector():
        assert fail(open_engine(name, service))() is None
