"""Opens the folder of a URL with fsspec.

Errors of the file system become our own. Their text and the URL are dropped, because they may
contain a password.
"""

import re
from collections.abc import Mapping
from typing import Any

from langchain_image_variation.exceptions import (
    InvalidRequestError,
    MissingExtraError,
    OutputError,
    excerpt,
)
from langchain_image_variation.files.storage_policy import STORAGE_KINDS, StoragePolicy
from langchain_image_variation.files.storage_urls import url_kind

__all__ = ["open_fsspec_folder"]

_QUERY_OPTIONS = {"url_query", "url_fragment"}
"""Options that fsspec parses from a name with "?" or "#". Servers such as SFTP ignore them."""


def open_fsspec_folder(
    url: str, options: Mapping[str, Any], *, param: str, policy: StoragePolicy
) -> tuple[str, Any, str]:
    """Return the kind of the file system of a URL, the file system, and the path in it.

    Raises:
        MissingExtraError: If fsspec, or the package for this kind of URL, is not installed.
        InvalidRequestError: If the URL names several file systems or one that is not allowed.
        OutputError: If the file system refuses the options or cannot be reached.
    """
    kind = url_kind(url)
    url = kind + url[len(kind) :]
    policy.check(url, param=param)
    try:
        from fsspec import get_filesystem_class
        from fsspec.core import url_to_fs
    except ImportError:
        raise MissingExtraError.for_package(
            f"A URL as {param}", "fsspec", "langchain-image-variation[fsspec]"
        ) from None
    try:
        backend_class = get_filesystem_class(kind)
    except ImportError as error:
        raise _missing_package_error(kind, param, getattr(error.__cause__, "name", None)) from None
    except ValueError:
        raise InvalidRequestError(
            f"{param} is a URL of the kind {excerpt(kind)}, which fsspec does not know. Install "
            "the package that provides it.",
            param=param,
        ) from None
    # A release that is incompatible with another package may fail in any way.
    except Exception as error:
        raise _unopenable_error(kind, param, error) from None
    try:
        base = _strip_query_name(url, backend_class)
        backend, root = url_to_fs(base, **options)
    # The file system may connect here, and raise any exception of the library that it uses.
    except Exception as error:
        raise _unopenable_error(kind, param, error) from None
    return kind, backend, str(root).rstrip("/") + url[len(base) :].rstrip("/")


def _unopenable_error(kind: str, param: str, error: Exception) -> OutputError:
    return OutputError(
        f"The {kind} storage cannot be opened; check the address in {param} and storage_options "
        f"({type(error).__name__})."
    )


def _missing_package_error(kind: str, param: str, module: str | None) -> MissingExtraError:
    """Return the error for a kind of URL whose package cannot be imported.

    Args:
        kind: The kind of URL.
        param: The name of the URL in messages.
        module: The module that cannot be imported, if it is known.
    """
    known_kind = STORAGE_KINDS.get(kind)
    package = known_kind.package if known_kind is not None else module
    what = f"'{kind}://' as {param}"
    if package is None:
        return MissingExtraError(f"{what} needs a package that is not installed.")
    return MissingExtraError.for_package(what, package, package)


def _strip_query_name(url: str, backend_class: Any) -> str:
    """Return the folder of a URL if fsspec would parse a "?" or "#" in its name as a query."""
    mark = re.search("[?#]", url)
    if mark is None or not _QUERY_OPTIONS & backend_class._get_kwargs_from_urls(url).keys():
        return url
    return url[: mark.start()].rpartition("/")[0]
