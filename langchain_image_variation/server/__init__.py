"""The server: `POST /v1/images/variations` with any engine. Needs the extra `server`."""

from langchain_image_variation.exceptions import MissingExtraError

try:
    from langchain_image_variation.server.app import create_app
except ImportError as error:
    raise MissingExtraError.for_package(
        "The server", error.name, "langchain-image-variation[server]"
    ) from None

__all__ = ["create_app"]
