"""Explains what to do if the library of the protocol is missing or too old."""

from importlib import metadata

from langchain_image_variation.exceptions import MissingExtraError

__all__ = ["explain_import_error"]

_MIN_VERSION = "2.2"
"""The oldest release of `mcp` that works, as in pyproject.toml."""


def explain_import_error(error: ImportError) -> MissingExtraError:
    """Return an error that says why the library cannot be imported, and what to do about it."""
    try:
        version = metadata.version("mcp")
    except metadata.PackageNotFoundError:
        version = None
    if version is not None and version.startswith(("0.", "1.")):
        return MissingExtraError(
            f"The MCP server needs mcp {_MIN_VERSION} or later, but {version} is installed.",
            hint="langchain-mcp-adapters needs an older one: use another virtual environment.",
        )
    return MissingExtraError.for_package(
        "The MCP server", error.name, "langchain-image-variation[mcp]"
    )
