"""Which store a server has: a folder on this machine, or one at a URL."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import platformdirs
from pydantic import SecretStr

from langchain_image_variation.exceptions import InvalidRequestError, OutputError, excerpt
from langchain_image_variation.files.storage_urls import has_password, is_url
from langchain_image_variation.server.store.folder_store import FolderStore
from langchain_image_variation.server.store.image_store import ImageStore
from langchain_image_variation.server.store.url_store import URLStore

__all__ = ["MIN_SIGNING_KEY_LENGTH", "check_store", "open_store"]

MIN_SIGNING_KEY_LENGTH = 32
"""The minimum length of a signing key, in characters. A key of HMAC should have at least as many
bytes as the hash (RFC 2104, section 3), which is 32 for SHA-256."""


def open_store(
    store_dir: str | os.PathLike[str] | None,
    store_url: str | None,
    storage_options: Mapping[str, Any] | None,
    signing_key: str | SecretStr | None,
    *,
    ttl: float,
    max_bytes: int,
) -> ImageStore:
    """Open the store that the arguments of `create_app` describe.

    Raises:
        MissingExtraError: If fsspec, or the package for this kind of URL, is not installed.
        InvalidRequestError: If a setting is invalid, or two settings exclude each other.
        OutputError: If the store cannot be used.
    """
    check_store(store_dir, store_url, storage_options)
    if store_url is None:
        if signing_key is not None:
            raise _needless_error("signing_key")
        directory = Path(store_dir) if store_dir is not None else _default_store_dir()
        return FolderStore(directory, ttl=ttl, max_bytes=max_bytes)
    key = _check_signing_key(signing_key)
    options = storage_options or {}
    return URLStore(store_url, options, signing_key=key, ttl=ttl, max_bytes=max_bytes)


def check_store(
    store_dir: str | os.PathLike[str] | None,
    store_url: str | None,
    storage_options: Mapping[str, Any] | None,
) -> None:
    """Check what the arguments of `create_app` say about the store, without opening it.

    Raises:
        InvalidRequestError: If a setting is invalid, or two settings exclude each other.
    """
    if store_url is None:
        if storage_options is not None:
            raise _needless_error("storage_options")
        if store_dir == "":
            raise InvalidRequestError(
                "store_dir must not be empty. Pass a folder.", param="store_dir"
            )
        return
    if store_dir is not None:
        raise InvalidRequestError(
            "store_dir and store_url exclude each other. Pass one of them.", param="store_url"
        )
    if not is_url(store_url):
        raise InvalidRequestError(
            f"store_url must be a URL such as 's3://bucket/prefix', got {excerpt(store_url)}. For "
            "a folder, pass store_dir.",
            param="store_url",
        )
    if has_password(store_url):
        raise InvalidRequestError(
            "store_url contains a password, which process lists would show. Put it into "
            "storage_options or fsspec's configuration.",
            param="store_url",
        )


def _needless_error(param: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{param} is only for a store_url. Pass a store_url, or leave it out.", param=param
    )


def _check_signing_key(signing_key: str | SecretStr | None) -> str:
    key = signing_key.get_secret_value() if isinstance(signing_key, SecretStr) else signing_key
    if key is None:
        problem = "is missing"
    elif key != key.strip():
        problem = "must not have blanks at either end"
    elif len(key) < MIN_SIGNING_KEY_LENGTH:
        problem = f"has {len(key)} characters, and needs at least {MIN_SIGNING_KEY_LENGTH}"
    else:
        return key
    raise InvalidRequestError(
        f"signing_key {problem}. A store_url needs the same secret key on all servers. Make one, "
        "for example with: openssl rand -hex 32",
        param="signing_key",
    )


def _default_store_dir() -> Path:
    # Without a home folder, platformdirs raises an error. Older versions return "~".
    with suppress(RuntimeError):
        path = platformdirs.user_cache_path("langchain-image-variation", appauthor=False)
        if path.is_absolute():
            return path / "files"
    raise OutputError(
        "This user has no home folder, so there is no default folder to store images. Choose one "
        "with store_dir, or --store-dir.",
        param="store_dir",
    )
