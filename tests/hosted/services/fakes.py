"""Fake services on loopback, made from the documentation of fal.ai, Recraft and Replicate.

Each of them answers over real sockets, refuses what its documentation does not allow, and remembers
what it received. `faults` are answered before anything else, one for each request.
"""

import base64
import email.parser
import email.policy
import io
import itertools
import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

KEY = "secret-key-1234"


@dataclass
class Received:
    """A request that a service received."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    port: int
    """The client's end of the connection."""

    @property
    def parts(self) -> list[str]:
        """The parts of the path, without the version and the query."""
        return self.path.partition("?")[0].removeprefix("/v1").strip("/").split("/")

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def form(self) -> dict[str, bytes]:
        """The parts of a multipart body by name."""
        head = f"Content-Type: {self.headers['content-type']}\r\n\r\n".encode()
        message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + self.body)
        parts = {}
        for part in message.iter_parts():
            name = part.get_param("name", header="content-disposition")
            content = part.get_payload(decode=True)
            assert isinstance(name, str)
            assert isinstance(content, bytes)
            parts[name] = content
        return parts


@dataclass
class Reply:
    """An answer of a service. A status of 0 closes the connection instead."""

    status: int
    content: object = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        """The bytes to send."""
        if isinstance(self.content, bytes):
            return self.content
        return json.dumps(self.content).encode()


@lru_cache(maxsize=64)
def drawn_image(seed: int, side: int, kind: str = "PNG") -> bytes:
    """Return a flat image whose color depends on the seed."""
    buffer = io.BytesIO()
    color = ((seed * 37) % 256, (seed * 91) % 256, (seed * 53) % 256)
    # Strong compression would take longer than the engines.
    options = {"compress_level": 1} if kind == "PNG" else {}
    Image.new("RGB", (side, side), color).save(buffer, kind, **options)
    return buffer.getvalue()


def data_url(image: bytes) -> str:
    """Return an image as a `data:` URL."""
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    """With the default of 5, the system resets connections when several calls come at once."""


class FakeService:
    """A service. Subclasses define `answer`."""

    scheme = "Bearer"
    """The scheme of its authorization header."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.faults: deque[Reply] = deque()
        self.faults_after_post: list[Reply] = []
        """Answers to the requests that follow the first job."""
        self.url = ""
        self.polls_until_done = 0
        self.endless_seeds: set[int] = set()
        """The seeds of images that are never done."""
        self.lost_answers = 0
        """How many answers are lost after the service accepted a job."""
        self.accepts_jobs = threading.Event()
        """Answers to POST wait for it."""
        self.accepts_jobs.set()
        self.is_stopping = threading.Event()
        self.cancelled: list[str] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()

    def answer(self, request: Received) -> Reply:
        """Return the answer to a request with the right key."""
        raise NotImplementedError

    def paths(self, method: str | None = None) -> list[str]:
        """Return the paths of the requests in the order of their arrival."""
        return [one.path for one in self.received if method in (None, one.method)]

    def handle(self, request: Received) -> Reply:
        """Record a request and answer it."""
        with self._lock:
            self.received.append(request)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            fault = self.faults.popleft() if self.faults else None
        try:
            if fault is not None:
                return fault
            if request.path.startswith("/files/"):
                assert "authorization" not in request.headers
            elif request.headers.get("authorization") != f"{self.scheme} {KEY}":
                return self.unauthorized()
            reply = self.answer(request)
            if request.method == "POST" and self.faults_after_post:
                self.faults.extend(self.faults_after_post)
                self.faults_after_post = []
            if request.method == "POST":
                self.accepts_jobs.wait(60)
            if request.method == "POST" and self.lost_answers:
                self.lost_answers -= 1
                return Reply(0)
            return reply
        finally:
            with self._lock:
                self._at_once -= 1

    def unauthorized(self) -> Reply:
        """Return the answer to a request with a wrong key."""
        return Reply(401, {"detail": "Invalid token."})

    @contextmanager
    def running(self) -> Iterator["FakeService"]:
        """Serve on a free port of loopback."""
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                length = int(self.headers.get("content-length", 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                body, port = self.rfile.read(length), self.client_address[1]
                reply = service.handle(Received(self.command, self.path, headers, body, port))
                if reply.status == 0:
                    self.close_connection = True
                    return
                self.send_response(reply.status)
                kind = "text/plain" if isinstance(reply.content, bytes) else "application/json"
                for name, value in ({"content-type": kind} | reply.headers).items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(reply.body)))
                # The client may have gone away.
                with suppress(ConnectionError):
                    self.end_headers()
                    self.wfile.write(reply.body)

            do_POST = do_PUT = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        with _Server(("127.0.0.1", 0), Handler) as server:
            self.url = f"http://127.0.0.1:{server.server_address[1]}"
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield self
            finally:
                self.is_stopping.set()
                server.shutdown()
                thread.join()


class FakeRecraft(FakeService):
    """`POST /images/variateImage`, as documented under "Remix image" and "Errors"."""

    def __init__(self) -> None:
        super().__init__()
        self._own_seeds = itertools.count(start=100, step=100)

    def answer(self, request: Received) -> Reply:
        """Return up to six images."""
        if (request.method, request.path) != ("POST", "/images/variateImage"):
            return Reply(404, b"404 page not found")
        form = {name: value for name, value in request.form.items() if name != "image"}
        image = Image.open(io.BytesIO(request.form["image"]))
        n = int(form.get("n", b"1"))
        width, height = (int(side) for side in form["size"].split(b"x"))
        if not (256 <= min(image.size) and max(image.size) <= 4096 and 1 <= n <= 6):
            return Reply(400, {"code": "invalid_request_parameter", "message": "out of range"})
        seed = int(form["random_seed"]) if "random_seed" in form else next(self._own_seeds)
        if seed in self.endless_seeds:
            self.is_stopping.wait(60)
        assert width == height
        assert form["response_format"] == b"b64_json"
        kind = {b"png": "PNG", b"webp": "WEBP"}[form["image_format"]]
        images = [drawn_image(seed + i, width, kind) for i in range(n)]
        data = [
            {"image_id": str(i), "b64_json": base64.b64encode(image).decode()}
            for i, image in enumerate(images)
        ]
        return Reply(200, {"created": 1, "credits": 40, "data": data})

    def unauthorized(self) -> Reply:
        """Return the documented answer, in plain text."""
        return Reply(401, b"request unauthorized")


class FakeFal(FakeService):
    """The queue of fal.ai, with FLUX Redux."""

    scheme = "Key"

    def __init__(self) -> None:
        super().__init__()
        self.refused_seeds: set[int] = set()
        self.failing_seeds: set[int] = set()
        self._jobs: dict[str, dict[str, Any]] = {}

    def answer(self, request: Received) -> Reply:
        """Answer a request to the queue."""
        parts = request.parts
        if request.method == "POST":
            if parts[:2] != ["fal-ai", "flux-1"]:
                return Reply(404, {"detail": "Application not found"})
            job_id = f"job-{len(self._jobs)}"
            self._jobs[job_id] = {"input": request.json, "polls": 0}
            links = {
                name: f"https://attacker.example/{name}"
                for name in ("response_url", "status_url", "cancel_url")
            }
            return Reply(200, {"status": "IN_QUEUE", "request_id": job_id, **links})
        assert parts[:3] == ["fal-ai", "flux-1", "requests"]
        job = self._jobs[parts[3]]
        if parts[4:] == ["status"]:
            job["polls"] += 1
            is_endless = job["input"]["seed"] in self.endless_seeds
            done = job["polls"] > self.polls_until_done and not is_endless
            status = "COMPLETED" if done else ("IN_QUEUE", "IN_PROGRESS")[job["polls"] % 2]
            details = {"queue_position": 0, "logs": None, "metrics": {"inference_time": 1.5}}
            return Reply(200 if done else 202, {"status": status, **details})
        if parts[4:] == ["cancel"]:
            assert request.method == "PUT"
            self.cancelled.append(parts[3])
            return Reply(202, {"status": "CANCELLATION_REQUESTED"})
        return self._result(job["input"])

    def _result(self, job: dict[str, Any]) -> Reply:
        seed, size = job["seed"], job["image_size"]
        assert size["width"] == size["height"]
        if seed in self.failing_seeds:
            detail = {"loc": ["body"], "msg": "Unsafe.", "type": "content_policy_violation"}
            return Reply(422, {"detail": [detail]})
        image = {"url": data_url(drawn_image(seed, size["width"])), "content_type": "image/png"}
        return Reply(
            200,
            {
                "images": [image],
                "seed": seed,
                "has_nsfw_concepts": [seed in self.refused_seeds],
                "prompt": "",
            },
        )


class FakeReplicate(FakeService):
    """Predictions of Replicate, with FLUX Redux."""

    def __init__(self) -> None:
        super().__init__()
        self.errors_by_seed: dict[int, str] = {}
        self._jobs: dict[str, dict[str, Any]] = {}

    def answer(self, request: Received) -> Reply:
        """Answer a request about predictions, or for a file."""
        parts = request.parts
        if parts[0] == "files":
            seed, side = parts[1].split("-")
            return Reply(200, drawn_image(int(seed), int(side)), {"content-type": "image/png"})
        is_model = parts[:3] == ["models", "black-forest-labs", "flux-redux-dev"]
        if request.method == "POST" and (is_model or parts == ["predictions"]):
            job_id = f"p{len(self._jobs)}"
            self._jobs[job_id] = {"input": request.json["input"], "polls": 0}
            return Reply(201, self._prediction(job_id))
        if parts[0] != "predictions":
            return Reply(404, {"detail": "The requested resource could not be found."})
        if parts[2:] == ["cancel"]:
            self.cancelled.append(parts[1])
            return Reply(200, {**self._prediction(parts[1]), "status": "canceled"})
        self._jobs[parts[1]]["polls"] += 1
        return Reply(200, self._prediction(parts[1]))

    def _prediction(self, job_id: str) -> dict[str, Any]:
        job = self._jobs[job_id]
        seed = job["input"]["seed"]
        side = {"0.25": 512, "1": 1024}[job["input"]["megapixels"]]
        prediction = {
            "id": job_id,
            "model": "black-forest-labs/flux-redux-dev",
            "version": "hidden",
            "input": job["input"],
            "error": None,
            "output": None,
            "status": "processing",
            "urls": {"get": f"{self.url}/v1/predictions/{job_id}"},
        }
        if job["polls"] < self.polls_until_done or seed in self.endless_seeds:
            return prediction
        if seed in self.errors_by_seed:
            return {**prediction, "status": "failed", "error": self.errors_by_seed[seed]}
        return {**prediction, "status": "succeeded", "output": [f"{self.url}/files/{seed}-{side}"]}


class FakeImages(FakeService):
    """A server with `POST /images/edits` and `POST /images/variations`."""

    def answer(self, request: Received) -> Reply:
        """Return as many images as the form asks for."""
        assert request.path in ("/images/edits", "/images/variations")
        images = [drawn_image(seed, 256) for seed in range(int(request.form["n"]))]
        data = [{"b64_json": base64.b64encode(image).decode()} for image in images]
        return Reply(200, {"created": 1, "data": data})


SERVICES: dict[str, Callable[[], FakeService]] = {
    "fal": FakeFal,
    "recraft": FakeRecraft,
    "replicate": FakeReplicate,
}
"""The services by the name of their engine."""
