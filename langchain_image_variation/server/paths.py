"""The path of image variations, and advice for requests whose path is almost the same."""

import re

from starlette.types import Scope

from langchain_image_variation.contract import VARIATIONS_PATH

__all__ = ["address_advice", "path_in_app"]


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
