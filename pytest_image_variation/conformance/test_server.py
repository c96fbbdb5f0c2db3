"""The rules about servers, for the server that `--image-variation-url` names."""

from pytest_image_variation.conformance.server_tests import ServerConformanceTests


class TestServer(ServerConformanceTests):
    """The server of the command line."""
