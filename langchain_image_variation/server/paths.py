"""The paths of the app, and advice for requests whose path is almost that of image variations."""

import re
from typing import NamedTuple

from starlette.types import Scope

from langchain_image_variation.contract import VARIATIONS_PATH

__all__ = ["PATHS", "ServerPath", "address_advice", "path_in_app"]


class ServerPath(NamedTuple):
    """A path that the app answers."""

    template: str
    """The path, with the names of its parameters: "/files/{name}"."""
    needs_key: bool = False
    """Whether its handler asks for the key, if the server has one. The document says so."""

    @property
    def label(self) -> str:
        """The path without its parameters, as metrics count it."""
        return self.template.partition("/{")[0]


PATHS = (
    ServerPath("/"),
    ServerPath("/sample.jpg"),
    ServerPath("/progress/{id}", needs_key=True),
    ServerPath(f"/v1{VARIATIONS_PATH}", needs_key=True),
    ServerPath("/v1/models", needs_key=True),
    ServerPath("/v1/models/{model}", needs_key=True),
    ServerPath("/files/{name}"),
    ServerPath("/healthz"),
    ServerPath("/metrics"),
    ServerPath("/openapi.json"),
)
"""Every path of the app. A request for another path is forwarded to the upstream, or gets a 404."""


def path_in_app(scope: Scope) -> str:
    """Return a request's path without the path below which the app is mounted or proxied."""
    path: str = scope["path"]
    suffix = path.removeprefix(scope.get("root_path", "").rstrip("/"))
    return suffix if suffix.startswith("/") else path


def address_advice(scope: Scope) -> str:
    """Return a sentence with the right address if a request's path is almost ours, or ""."""
    path = re.sub("/+", "/", path_in_app(scope)).removesuffix("/").lower()
    if not path.endswith(VARIATIONS_PATH):
        return ""
    address = scope.get("root_path", "").rstrip("/") + "/v1" + VARIATIONS_PATH
    return f"Use {address}: the base URL of a client ends in /v1."
