from collections.abc import Iterator

import pytest

from pytest_image_variation.loopback import Loopback, View


@pytest.fixture(scope="module")
def loopback() -> Iterator[Loopback]:
    """One server for all tests of a module."""
    with Loopback() as server:
        yield server


@pytest.fixture
def view(loopback: Loopback) -> Iterator[View]:
    """The test's own view."""
    with loopback.view() as view:
        yield view
