from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    # It needs the extra `server`. Without it, the other tests of this folder still run.
    from pytest_image_variation.loopback import Loopback
    from pytest_image_variation.loopback_session import LoopbackSession


@pytest.fixture(scope="module")
def loopback() -> "Iterator[Loopback]":
    """One server for all tests of a module."""
    from pytest_image_variation.loopback import Loopback

    with Loopback() as server:
        yield server


@pytest.fixture
def view(loopback: "Loopback") -> "Iterator[LoopbackSession]":
    """The test's own view."""
    with loopback.view() as view:
        yield view
