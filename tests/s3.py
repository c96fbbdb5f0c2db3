"""S3 on loopback, which moto serves."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
import pytest

pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")
serving = pytest.importorskip("werkzeug.serving")

# These libraries use deprecated functions themselves.
S3_MARKS = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:moto"),
]


@contextmanager
def serving_s3(requests: list[str]) -> Iterator[str]:
    """Serve S3 during the block, and add the method and key of each request to a list."""
    s3 = moto_server.DomainDispatcherApplication(moto_server.create_backend_app)

    def serve(environ: dict[str, Any], start: Any) -> Any:
        requests.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        return s3(environ, start)

    server = serving.make_server("127.0.0.1", 0, serve, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Create an empty bucket, and configure fsspec so that every process finds it."""
    monkeypatch.setenv("FSSPEC_S3_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("FSSPEC_S3_KEY", "key")
    monkeypatch.setenv("FSSPEC_S3_SECRET", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    # fsspec reads the environment when it is imported, and in this process it already is.
    options = {"endpoint_url": endpoint, "key": "key", "secret": "secret"}
    monkeypatch.setitem(fsspec.config.conf, "s3", options)
    files = fsspec.filesystem("s3")
    files.mkdir("bucket")
    yield files
    files.rm("bucket", recursive=True)
