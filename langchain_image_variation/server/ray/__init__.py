"""The server on Ray Serve: `serve run langchain_image_variation.server.ray:app`.

One deployment, `Server`, answers requests with the same app as `image-variation serve`. Another,
`Engine`, makes the images. Its replicas follow the number of requests. Needs the extra `ray-serve`.
"""

from langchain_image_variation.exceptions import MissingExtraError

try:
    from langchain_image_variation.server.ray.application import app
    from langchain_image_variation.server.ray.settings import Settings
except ImportError as error:
    raise MissingExtraError.for_package(
        "The server on Ray Serve", error.name, "langchain-image-variation[ray-serve]"
    ) from None

__all__ = ["Settings", "app"]
