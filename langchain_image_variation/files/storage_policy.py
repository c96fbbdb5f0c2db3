"""`StoragePolicy`: which stores the URLs of a batch may name.

fsspec opens about sixty kinds of URL. Many of them are not stores: `webhdfs`, `github`, `jupyter`
and others send HTTP requests, `zip`, `reference` and `cached` open a second URL inside the
first, and `git` and `dask` run other programs. A manifest may come from someone else. So only the
kinds in `STORAGE_KINDS` are opened, and a row cannot reach a server that only this machine can.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import urlsplit

from langchain_image_variation.exceptions import InvalidRequestError, excerpt
from langchain_image_variation.files.storage_urls import url_kind

__all__ = ["DEFAULT_POLICY", "STORAGE_KINDS", "StorageKind", "StoragePolicy", "names_server"]

_KIND = re.compile(r"[a-z][a-z0-9+.-]*", re.IGNORECASE)

_REFUSED_KINDS = ("http", "https")
"""Kinds that cannot be allowed, because fsspec does not check where a name or a redirect leads."""


@dataclass(frozen=True, slots=True)
class StorageKind:
    """A kind of URL that may be opened."""

    package: str | None = None
    """The package to install with pip, in addition to fsspec, or None."""
    names_server: bool = False
    """Whether the URL names the server. Otherwise, it is the provider's, or the one in fsspec's
    configuration."""


STORAGE_KINDS: Mapping[str, StorageKind] = MappingProxyType(
    {
        "file": StorageKind(),
        "local": StorageKind(),
        "memory": StorageKind(),
        "s3": StorageKind("s3fs"),
        "s3a": StorageKind("s3fs"),
        "gs": StorageKind("gcsfs"),
        "gcs": StorageKind("gcsfs"),
        "abfs": StorageKind("adlfs"),
        "abfss": StorageKind("adlfs"),
        "az": StorageKind("adlfs"),
        "sftp": StorageKind("paramiko", names_server=True),
        "ssh": StorageKind("paramiko", names_server=True),
        "ftp": StorageKind(names_server=True),
        "smb": StorageKind("smbprotocol", names_server=True),
        "hdfs": StorageKind("pyarrow", names_server=True),
    }
)
"""The kinds of URL that may be opened: stores of files that fsspec reaches without a web request to
a host that the URL names. `StoragePolicy` allows others."""


class StoragePolicy:
    """Which stores URLs may name. An instance pickles.

    Args:
        allowed: Stores to allow in addition to `STORAGE_KINDS`: a kind such as "lakefs", or a
            server such as "sftp://nas.example", which rows may then name. The path of a URL is
            ignored.

    Raises:
        InvalidRequestError: If an entry is not a kind or a server, or is `http` or `https`.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._kinds: set[str] = set()
        self._servers: set[tuple[str, str]] = set()
        for entry in [allowed] if isinstance(allowed, str) else allowed:
            kind, separator, _ = entry.partition("://")
            kind = kind.lower()
            if kind in _REFUSED_KINDS:
                raise InvalidRequestError(
                    f"allow_storage cannot contain {excerpt(entry)}: a batch does not fetch web "
                    "URLs. Download the files first.",
                    param="allow_storage",
                )
            if not separator and _KIND.fullmatch(kind):
                self._kinds.add(kind)
            elif separator and (server := _server(entry)):
                self._servers.add((kind, server))
            else:
                raise InvalidRequestError(
                    "allow_storage must contain kinds of URL such as 'lakefs' or servers such as "
                    f"'sftp://nas.example', got {excerpt(entry)}.",
                    param="allow_storage",
                )

    @classmethod
    def for_kind_of(cls, url: str) -> "StoragePolicy":
        """Return a policy that also allows the kind of this URL, for a URL that a program chose."""
        kind = url_kind(url)
        return cls(() if kind in _REFUSED_KINDS or not _KIND.fullmatch(kind) else [kind])

    def check(self, url: str, *, param: str) -> None:
        """Check a URL that the caller chose.

        Args:
            url: The URL.
            param: The name of the URL in messages.

        Raises:
            InvalidRequestError: If its kind is not allowed, or it names several file systems.
        """
        if "::" in url:
            raise InvalidRequestError(
                f"{param} must be the URL of one file system, such as 's3://bucket/prefix', "
                "without '::'.",
                param=param,
            )
        kind = url_kind(url)
        if kind in STORAGE_KINDS or self._allows(kind, url):
            return
        if kind in _REFUSED_KINDS:
            raise InvalidRequestError(
                f"{param} must be a path on this machine or the URL of a file system, not an "
                f"{kind} URL. Download the files first.",
                param=param,
            )
        raise InvalidRequestError(
            f"{param} must be a path on this machine or the URL of a store "
            f"({', '.join(STORAGE_KINDS)}), got the kind {excerpt(kind)}. If you trust this kind, "
            f"allow it: allow_storage=[{excerpt(kind)}] in Python, --allow-storage {kind[:40]} on "
            "the command line.",
            param=param,
        )

    def check_row(self, url: str) -> None:
        """Check a URL that a row names.

        Raises:
            InvalidRequestError: If its kind is not allowed, or it names a server that is not.
        """
        self.check(url, param="path")
        kind = url_kind(url)
        if kind in STORAGE_KINDS and not STORAGE_KINDS[kind].names_server:
            return
        if not self._allows(kind, url):
            server = f"{kind}://{_server(url) or ''}"
            raise InvalidRequestError(
                f"The server {excerpt(server)} is not allowed, because only a row names it. If you "
                f"trust it, allow it: allow_storage=[{excerpt(server)}] in Python, "
                f"--allow-storage {server[:60]} on the command line.",
                param="path",
            )

    def _allows(self, kind: str, url: str) -> bool:
        return kind in self._kinds or (kind, _server(url)) in self._servers


DEFAULT_POLICY = StoragePolicy()
"""Allows `STORAGE_KINDS` only."""


def names_server(url: str) -> bool:
    """Return whether a URL is of one of `STORAGE_KINDS`, and names its server."""
    kind = STORAGE_KINDS.get(url_kind(url))
    return kind is not None and kind.names_server


def _server(url: str) -> str | None:
    """Return the host and port of a URL, without a user name, or None if it has none."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2].lower() or None
    except ValueError:
        return None
