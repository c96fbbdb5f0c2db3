import pickle
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import fsspec
import pytest

from langchain_image_variation import VariationBatch
from langchain_image_variation.exceptions import InvalidRequestError, SourceError
from langchain_image_variation.files.outputs import OutputFolder
from langchain_image_variation.files.storage_policy import (
    STORAGE_KINDS,
    StoragePolicy,
    names_server,
)
from langchain_image_variation.files.stored_outputs import open_outputs
from langchain_image_variation.source.read import read_stored_file

# A name with an underscore is not the scheme of a URL, so it is a folder.
OTHER_KINDS = sorted(
    kind for kind in fsspec.available_protocols() if kind not in STORAGE_KINDS and "_" not in kind
)


@contextmanager
def listening() -> Iterator[tuple[str, socket.socket]]:
    """Listen on a loopback port in the block."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield f"127.0.0.1:{server.getsockname()[1]}", server


def test_fsspec_knows_other_kinds() -> None:
    """The next tests cover the kinds that send web requests, open other URLs or run programs."""
    assert {"cached", "github", "http", "reference", "webhdfs", "zip"} <= {*OTHER_KINDS}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_other_kinds_are_not_opened(kind: str) -> None:
    """A kind that is not a store is refused in rows and for outputs, before it connects."""
    with listening() as (address, server):
        url = f"{kind}://{address}/photo.png"
        with pytest.raises(SourceError, match="path must be a path on this machine"):
            read_stored_file(url, {})
        with pytest.raises(InvalidRequestError, match="output_dir must be a path on this machine"):
            open_outputs(url)
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize("kind", sorted(k for k, v in STORAGE_KINDS.items() if v.names_server))
def test_row_cannot_name_a_server(kind: str) -> None:
    """A row that names a server is refused before anything connects, unless it is allowed."""
    with listening() as (address, server):
        url = f"{kind}://me@{address}/photo.png"
        with pytest.raises(SourceError, match=f"allow it: allow_storage=.'{kind}://127"):
            read_stored_file(url, {})
        with pytest.raises(BlockingIOError):
            server.accept()
        policy = StoragePolicy([f"{kind}://{address}/other"])
        pickle.loads(pickle.dumps(policy)).check_row(url)
        StoragePolicy([kind.upper()]).check_row(url)
        for other_url in (f"{kind}://{address}1/a.png", f"{kind}://{address}@evil/a.png"):
            with pytest.raises(InvalidRequestError, match="is not allowed"):
                policy.check_row(other_url)


def test_allowed_server_of_another_kind() -> None:
    """Allowing a server of another kind allows only this server, for the caller and for rows."""
    policy = StoragePolicy(["webdav://cloud.example"])
    policy.check("webdav://cloud.example/a", param="path")
    policy.check_row("webdav://user@CLOUD.example/a")
    for url in ("webdav://other.example/a", "ftp://cloud.example/a", "webdav://cloud.example:1/a"):
        with pytest.raises(InvalidRequestError):
            policy.check_row(url)


@pytest.mark.parametrize("entry", ["", "https", "https://a.example", "a b", "sftp:///x", "sftp:/a"])
def test_bad_entries_are_refused(entry: str) -> None:
    """An entry is a kind or a server, and web URLs cannot be allowed."""
    with pytest.raises(InvalidRequestError, match="allow_storage") as caught:
        StoragePolicy([entry])
    assert caught.value.param == "allow_storage"


def test_a_path_with_a_colon_names_no_server() -> None:
    """A file or a folder named like a kind of URL, such as ftp:photos, is on this machine."""
    assert names_server("ftp://host/photos")
    assert not names_server("ftp:photos")
    outputs = VariationBatch("ftp:photos", engine="instant").outputs
    assert isinstance(outputs, OutputFolder)
