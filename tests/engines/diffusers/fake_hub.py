"""A Hugging Face Hub on loopback: it serves small repositories to the Hub's own library.

It answers as the real one does: `api/models/...` describes a repository, `resolve` redirects large
files to another host, and errors carry `X-Error-Code`. It can be told to fail.
"""

import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

__all__ = ["FakeHub", "Fault", "HubRepository", "hub_environment", "read_files", "run_fake_hub"]

_LARGE = (".safetensors", ".bin", ".ckpt")
"""The files that are stored with Git LFS."""


@dataclass
class HubRepository:
    """A repository: its files, and who may read it.

    Attributes:
        files: The content of each file, by path.
        revisions: The names of the revision. All have the same files.
        is_gated: Whether a token must have accepted a license before it may read files.
        is_private: Whether it looks as if it did not exist to anyone without an accepted token.
    """

    files: Mapping[str, bytes]
    revisions: tuple[str, ...] = ("main",)
    is_gated: bool = False
    is_private: bool = False

    @property
    def commit(self) -> str:
        """The commit among the revisions, or else one that the files determine."""
        for revision in self.revisions:
            if re.fullmatch("[0-9a-f]{40}", revision):
                return revision
        digest = hashlib.sha1()
        for path, content in sorted(self.files.items()):
            digest.update(path.encode() + content)
        return digest.hexdigest()


@dataclass
class Fault:
    """What goes wrong with the requests whose path contains a text.

    Attributes:
        path: The text.
        status: The status to answer. None serves the file, but only its beginning.
        headers: Headers of the answer.
        after: How many bytes of the body to send.
        end: What happens after these bytes: the connection is closed, reset, or does nothing.
        times: How many requests fail.
    """

    path: str
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    after: int = 0
    end: str = "close"
    times: int = 1


@dataclass
class HubRequest:
    """A request that arrived."""

    method: str
    path: str
    range: str | None
    authorization: str | None
    host: str


class FakeHub:
    """A running hub.

    Attributes:
        repositories: What it serves, by name.
        accepted_tokens: The tokens that may read gated and private repositories.
        known_tokens: Other tokens of accounts. Any other token is not valid.
        faults: What goes wrong next.
        requests: What arrived, in order.
        ignores_ranges: Whether a request for the rest of a file gets all of it.
        seconds_per_chunk: How long each 64 KiB of a large file take.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.storage_url = f"http://localhost:{port}/storage"
        self.repositories: dict[str, HubRepository] = {}
        self.accepted_tokens: set[str] = set()
        self.known_tokens: set[str] = set()
        self.faults: list[Fault] = []
        self.requests: list[HubRequest] = []
        self.ignores_ranges = False
        self.seconds_per_chunk = 0.0
        self.stop_event = threading.Event()
        self._lock = threading.Lock()

    def downloads(self) -> list[HubRequest]:
        """Return the requests for the content of large files."""
        return [request for request in self.requests if request.path.startswith("/storage/")]

    def next_fault(self, path: str) -> Fault | None:
        """Return what goes wrong with a request, and count it."""
        with self._lock:
            for fault in self.faults:
                if fault.path in path and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None


@contextmanager
def run_fake_hub() -> Iterator[FakeHub]:
    """Run a hub on a free port while the block runs."""

    class Handler(_Handler):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub = Handler.hub = FakeHub(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        hub.stop_event.set()
        server.shutdown()
        thread.join()
        server.server_close()


def hub_environment(hub: FakeHub, cache: Path) -> dict[str, str]:
    """Return the variables of a user whose Hub is the fake one, and who has no token."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    }


def read_files(folder: Path) -> dict[str, bytes]:
    """Return the content of all files below a folder, as a repository has them."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def handle(self) -> None:
        # A client that gives up hangs up.
        with suppress(ConnectionError):
            super().handle()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        request = HubRequest(
            self.command,
            path,
            self.headers["Range"],
            self.headers["Authorization"],
            self.headers["Host"],
        )
        self.hub.requests.append(request)
        fault = self.hub.next_fault(path)
        if fault is not None and fault.status is not None:
            self._answer(fault.status, b"fault", fault.headers)
        elif path.startswith("/storage/"):
            self._send_stored(path.rpartition("/")[2], fault)
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
            self._describe(match[1], match[2])
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            self._list(match[1], match[2])
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(match[1], match[2], match[3], fault)
        else:
            self._answer(404, b"unknown path")

    def _repository(
        self, name: str, revision: str, *, needs_license: bool = True
    ) -> HubRepository | None:
        """Return a repository, or answer why it cannot be read."""
        repository = self.hub.repositories.get(name)
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
        if token and token not in self.hub.accepted_tokens | self.hub.known_tokens:
            text = "Invalid credentials in Authorization header"
            self._refuse(401, None, text)
            return None
        if repository is None or (repository.is_private and token not in self.hub.accepted_tokens):
            # The real Hub says 401 to those without a token, so that names cannot be guessed.
            self._refuse(404 if token else 401, "RepoNotFound", "Repository not found")
            return None
        if needs_license and repository.is_gated and token not in self.hub.accepted_tokens:
            text = "Access to this model is restricted."
            self._refuse(403 if token else 401, "GatedRepo", text)
            return None
        if revision not in (*repository.revisions, repository.commit):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return repository

    def _refuse(self, status: int, code: str | None, text: str) -> None:
        headers = {"X-Error-Message": text, **({"X-Error-Code": code} if code else {})}
        self._answer(status, json.dumps({"error": text}).encode(), headers)

    def _describe(self, name: str, revision: str) -> None:
        repository = self._repository(name, revision, needs_license=False)
        if repository is not None:
            siblings = [
                {
                    "rfilename": path,
                    "size": len(content),
                    "blobId": hashlib.sha1(content).hexdigest(),
                    **({"lfs": _lfs(content, "sha256")} if path.endswith(_LARGE) else {}),
                }
                for path, content in repository.files.items()
            ]
            self._answer_json({"id": name, "sha": repository.commit, "siblings": siblings})

    def _list(self, name: str, revision: str) -> None:
        repository = self._repository(name, revision)
        if repository is not None:
            self._answer_json(
                [
                    {
                        "type": "file",
                        "path": path,
                        "size": len(content),
                        "oid": hashlib.sha1(content).hexdigest(),
                        **({"lfs": _lfs(content, "oid")} if path.endswith(_LARGE) else {}),
                    }
                    for path, content in repository.files.items()
                ]
            )

    def _resolve(self, name: str, revision: str, path: str, fault: Fault | None) -> None:
        repository = self._repository(name, revision)
        if repository is None:
            return
        content = repository.files.get(path)
        headers = {"X-Repo-Commit": repository.commit}
        if content is None:
            code = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            self._answer(404, b"", {**headers, **code})
        elif path.endswith(_LARGE):
            sha256 = hashlib.sha256(content).hexdigest()
            headers["X-Linked-Size"] = str(len(content))
            headers["X-Linked-Etag"] = f'"{sha256}"'
            headers["Location"] = f"{self.hub.storage_url}/{sha256}"
            self._answer(302, b"", headers)
        else:
            etag = hashlib.sha1(content).hexdigest()
            self._answer(200, content, {**headers, "ETag": f'"{etag}"'}, fault)

    def _send_stored(self, sha256: str, fault: Fault | None) -> None:
        content = next(
            content
            for repository in self.hub.repositories.values()
            for content in repository.files.values()
            if hashlib.sha256(content).hexdigest() == sha256
        )
        match = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        status, headers = 200, {"ETag": f'"{sha256}"'}
        if match and not self.hub.ignores_ranges:
            start = int(match[1])
            if start >= len(content):
                self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            status, content = 206, content[start:]
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        sent = content if fault is None else content[: fault.after]
        for start in range(0, len(sent), 65536):
            if self.hub.stop_event.wait(self.hub.seconds_per_chunk):
                return
            self.wfile.write(sent[start : start + 65536])
        if fault is not None:
            self._break_off(fault.end)

    def _break_off(self, end: str) -> None:
        self.close_connection = True
        self.wfile.flush()
        if end == "stall":
            self.hub.stop_event.wait(60)
        elif end == "reset":
            # The client gets what was sent before the connection is reset.
            time.sleep(0.2)
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()

    def _answer_json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(
        self,
        status: int,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        fault: Fault | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if fault is None else body[: fault.after])
            if fault is not None:
                self._break_off(fault.end)


def _lfs(content: bytes, hash_name: str) -> dict[str, Any]:
    sha256 = hashlib.sha256(content).hexdigest()
    return {hash_name: sha256, "size": len(content), "pointerSize": 134}
