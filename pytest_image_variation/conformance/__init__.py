"""The conformance kit: shows the author of a server, a client or an engine what it gets wrong.

To check a running server: ``python -m pytest --pyargs pytest_image_variation.conformance
--image-variation-url http://127.0.0.1:8000/v1``. In your own test suite, subclass one of the three
classes here and provide its fixture.
"""

from langchain_image_variation.exceptions import MissingExtraError

try:
    from pytest_image_variation.conformance.capabilities import Capabilities
    from pytest_image_variation.conformance.client_tests import ClientConformanceTests
    from pytest_image_variation.conformance.engine_tests import EngineConformanceTests
    from pytest_image_variation.conformance.server import Server
    from pytest_image_variation.conformance.server_tests import ServerConformanceTests
except ImportError as error:
    raise MissingExtraError.for_package(
        "The conformance kit", error.name, "langchain-image-variation[pytest]"
    ) from None

__all__ = [
    "Capabilities",
    "ClientConformanceTests",
    "EngineConformanceTests",
    "Server",
    "ServerConformanceTests",
]
