"""The tests that pytest collects for the server of `--image-variation-url`."""

from pytest_image_variation.conformance.server_tests import ServerConformanceTests


class TestServer(ServerConformanceTests):
    """The server of the command line."""
