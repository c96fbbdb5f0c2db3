"""Skips tests whose packages are not installed, and names the extra that installs them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import pytest

from langchain_image_variation.exceptions import MissingExtraError, install_command

_PACKAGES = {
    "batch": ("pyarrow",),
    "diffusers": (
        "accelerate",
        "diffusers",
        "huggingface_hub",
        "psutil",
        "safetensors",
        "torch",
        "transformers",
    ),
    "fsspec": ("fsspec",),
    "heif": ("pillow_heif",),
    "langchain": ("langchain", "langgraph"),
    "llama-index": ("llama_index",),
    "mcp": ("mcp_types",),
    "pytest": ("vcr",),
    "ray": ("ray",),
    # A package that only this extra needs.
    "ray-serve": ("aiohttp_cors",),
    "server": (
        "h11",
        "platformdirs",
        "prometheus_client",
        "python_multipart",
        "starlette",
        "uvicorn",
    ),
    "test": (
        "aiohttp",
        "fastapi",
        "hypothesis",
        "langchain_tests",
        "openai",
        "openapi_spec_validator",
        "pytest_asyncio",
        "schemathesis",
        "socksio",
        "trio",
        "trustme",
        "xdist",
    ),
}
_MISSING = {
    package: extra
    for extra, packages in _PACKAGES.items()
    for package in packages
    if find_spec(package) is None
}


def skip_without(package: str) -> None:
    """Skip the test or the test module if a package is not installed."""
    if package in _MISSING:
        pytest.skip(_message(package), allow_module_level=True)


def skip_without_imports(source: str, *plugins: str) -> None:
    """Skip the test if its inner suite imports, or loads as a plugin, a missing package."""
    imports = re.findall(r"^ *(?:from|import) (.+)", source, re.MULTILINE)
    for package in _MISSING:
        pattern = re.compile(rf"\b{package}\b")
        if any(map(pattern.search, imports)) or any(map(pattern.match, plugins)):
            skip_without(package)


@contextmanager
def skip_if_extra_is_missing() -> Iterator[None]:
    """Skip the test or the test module if the block fails because a package is missing."""
    try:
        yield
    except Exception as error:
        if reason := _skip_reason(error):
            pytest.skip(reason, allow_module_level=True)
        raise


def _skip_reason(error: BaseException | None) -> str | None:
    """Return why to skip, if an error or its cause is about a missing package.

    pytest wraps import errors, so the cause counts too.
    """
    if isinstance(error, MissingExtraError):
        extra = re.search(r"\[([\w-]+)\]", error.message)
        return error.message if extra and extra[1] in _MISSING.values() else None
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        return _message(package) if package in _MISSING else None
    return _skip_reason(error.__cause__) if error is not None else None


def _message(package: str) -> str:
    command = install_command(f"langchain-image-variation[{_MISSING[package]}]")
    return f"the package {package!r} is not installed; run: {command}"
