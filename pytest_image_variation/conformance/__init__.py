"""The conformance kit: tells the author of a server, a client or an engine what it gets wrong.

Against a server that runs: ``pytest --pyargs pytest_image_variation.conformance
--image-variation-url http://127.0.0.1:8000/v1``. In a test suite: a subclass of one of the three
classes here, with the one fixture that each asks for.
"""

from pytest_image_variation.conformance.capabilities import Capabilities
from pytest_image_variation.conformance.client_tests import ClientConformanceTests
from pytest_image_variation.conformance.engine_tests import EngineConformanceTests
from pytest_image_variation.conformance.server import Server
from pytest_image_variation.conformance.server_tests import ServerConformanceTests

__all__ = [
    "Capabilities",
    "ClientConformanceTests",
    "EngineConformanceTests",
    "Server",
    "ServerConformanceTests",
]
