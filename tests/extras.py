"""Which extra brings a package that a test needs and that is not installed."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import pytest

from langchain_image_variation.exceptions import MissingExtraError

_PACKAGES = {
    "batch": ("pyarrow",),
    "fsspec": ("fsspec",),
    "llama-index": ("llama_index",),
    "pytest": ("vcr",),
    "ray": ("ray",),
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
        "langchain",
        "langchain_tests",
        "langgraph",
        "openai",
        "openapi_spec_validator",
        "pytest_asyncio",
        "schemathesis",
        "trio",
        "trustme",
        "xdist",
    ),
}
_ABSENT = {
    package: extra
    for extra, packages in _PACKAGES.items()
    for package in packages
    if find_spec(package) is None
}


def skip_without(package: str) -> None:
    """Skip the test, or the module of tests, that needs a package which is not installed."""
    if package in _ABSENT:
        pytest.skip(_reason(package), allow_module_level=True)


def skip_without_imports(source: str, *plugins: str) -> None:
    """Skip the test whose inner suite imports, or loads as a plugin, what is not installed."""
    imported = re.findall(r"^ *(?:from|import) (.+)", source, re.MULTILINE)
    for package in _ABSENT:
        named = re.compile(rf"\b{package}\b")
        if any(named.search(line) for line in imported) or any(map(named.match, plugins)):
            skip_without(package)


@contextmanager
def skipping_what_lacks_an_extra() -> Iterator[None]:
    """Skip the test, or the module of tests, if the block fails for want of an extra's package."""
    try:
        yield
    except Exception as error:
        if reason := _reason_for(error):
            pytest.skip(reason, allow_module_level=True)
        raise


def _reason_for(error: BaseException | None) -> str | None:
    """Return what an error says of a package that is absent; pytest wraps errors of imports."""
    if isinstance(error, MissingExtraError):
        extra = re.search(r"langchain-image-variation\[([\w-]+)\]", error.message)
        return error.message if extra and extra[1] in _ABSENT.values() else None
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        return _reason(package) if package in _ABSENT else None
    return _reason_for(error.__cause__) if error is not None else None


def _reason(package: str) -> str:
    extra = f"langchain-image-variation[{_ABSENT[package]}]"
    return f"the package {package!r} is not installed; run: pip install '{extra}'"
