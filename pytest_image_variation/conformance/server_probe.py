"""What is asked of a server, and what it answers."""

import base64
import binascii
import io
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NoReturn, Self
from urllib.parse import urlsplit

import httpx
from PIL import Image

from langchain_image_variation.error_response import Error
from pytest_image_variation.conformance.capabilities import Capabilities
from pytest_image_variation.conformance.question import Field, File, Question
from pytest_image_variation.conformance.rule import Breach, unseen

__all__ = ["Answer", "Picture", "Server", "ServerProbe"]

_SECONDS = 300.0
_WAITS = 5
_LONGEST_WAIT = 60.0


@dataclass(frozen=True, slots=True)
class Server:
    """A server to be checked.

    Raises:
        ValueError: If the address is none.
    """

    base_url: str
    """Up to and with its "/v1"."""
    api_key: str | None = field(default=None, repr=False)
    """The key that it wants; None if it wants none."""
    model: str | None = None
    """The model to ask for; None to leave it to the server."""
    capabilities: Capabilities = field(default_factory=Capabilities)
    """What it claims to do."""
    transport: httpx.BaseTransport | None = None
    """Where requests go instead of the network."""

    def __post_init__(self) -> None:
        """Check the address."""
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError("base_url must begin with http:// or https://.")

    @property
    def shown_url(self) -> str:
        """The address as reports have it: without a name and a password, or a query."""
        address = urlsplit(self.base_url)
        host = address.netloc.rpartition("@")[2]
        return f"{address.scheme}://{host}{address.path.rstrip('/')}"


@dataclass(frozen=True, slots=True)
class Picture:
    """What a file turns out to be."""

    data: bytes = field(repr=False)
    kind: str | None
    """Pillow's name of its format, or None if it is no picture."""
    size: str | None
    """Such as "256x256"."""
    decodes: bool
    """Whether all of its pixels can be read."""

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Look at a file. What it cannot be, it is not, so this raises nothing."""
        return cls(data, *_seen(data))


@lru_cache(maxsize=256)
def _seen(data: bytes) -> tuple[str | None, str | None, bool]:
    kind = size = None
    try:
        with Image.open(io.BytesIO(data)) as image:
            kind, size = image.format, f"{image.width}x{image.height}"
            image.load()
    # What Pillow raises for broken files differs by format.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return kind, size, False
    return kind, size, True


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, and the command line that asks for it."""

    status: int
    headers: httpx.Headers
    content: bytes
    curl: str
    api_key: str | None = field(default=None, repr=False)

    def breach(self, got: str) -> NoReturn:
        """Say that this answer breaks a rule.

        Raises:
            Breach: Always.
        """
        raise Breach(got, [self.curl])

    def must(self, condition: bool, got: Callable[[], str] | str) -> None:
        """Say so if a condition is not met.

        Raises:
            Breach: If it is not.
        """
        if not condition:
            self.breach(got if isinstance(got, str) else got())

    def __str__(self) -> str:
        """Return status and body as a failure shows them: short, and without the key."""
        text = self.content[:2000].decode("utf-8", "replace")
        if self.api_key:
            text = text.replace(self.api_key, "***")
        text = " ".join(text.split())
        return f"{self.status} {text if len(text) <= 300 else text[:300] + '…'}".strip()

    @property
    def json(self) -> Any:
        """The body's JSON, or None if it is none."""
        try:
            return json.loads(self.content)
        except ValueError:
            return None

    def succeeded(self) -> Self:
        """Return this answer if it is a success.

        Raises:
            Breach: If it is none.
        """
        self.must(self.status == 200, lambda: str(self))
        return self

    def refused(self, *statuses: int) -> Self:
        """Return this answer if it is a refusal.

        Raises:
            Breach: If it is none, or has another status.
        """
        self.must(self.status in (statuses or (400,)), lambda: str(self))
        return self

    @property
    def entries(self) -> list[Mapping[str, Any]]:
        """The entries of `data` that are objects; none if there is nothing of that kind."""
        content = self.json if self.status == 200 else None
        data = content.get("data") if isinstance(content, dict) else None
        return (
            [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []
        )

    @property
    def error(self) -> Mapping[str, Any] | None:
        """The error in the contract's envelope, or None."""
        content = self.json
        error = content.get("error") if isinstance(content, dict) else None
        return error if isinstance(error, dict) else None

    @property
    def known_error(self) -> Error:
        """The error in the contract's envelope.

        Raises:
            Unseen: If there is none.
        """
        error = self.error
        if error is None:
            unseen("There is no error in the contract's envelope to look at; see error-envelope.")
        return Error.model_validate(error)


class ServerProbe:
    """Asks a server, each question once.

    Args:
        server: The server to be asked.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.capabilities = server.capabilities
        self._answers: dict[Question, Answer] = {}
        self._lock = threading.Lock()
        # With no connection kept there is nothing to close.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.Client(transport=server.transport, limits=limits, timeout=_SECONDS)

    @property
    def size(self) -> str:
        """The size of which most pictures are asked for."""
        return self.capabilities.sizes[0]

    @property
    def answers(self) -> bool:
        """Whether the server answers at all, whatever."""
        try:
            self.variation()
        except Breach:
            return False
        return True

    def knows(self, question: Question) -> bool:
        """Whether a question was asked already."""
        with self._lock:
            return question in self._answers

    def ask(self, question: Question) -> Answer:
        """Return the answer to a question; it is asked only if it was not before.

        An answer that says to come back later is waited for, a few times.

        Raises:
            Breach: If there is no answer.
        """
        with self._lock:
            known = self._answers.get(question)
        if known is None:
            known = self._asked(question)
            with self._lock:
                self._answers[question] = known
        return known

    def legal(self, *, picture: str | None = "rgb.png", **fields: str | None) -> Question:
        """Return a question that keeps every rule, but for what the arguments say.

        Args:
            picture: The picture's name, or None for none.
            **fields: Fields that are sent instead of the usual ones; None leaves one out.
        """
        usual = {
            "model": self.server.model,
            "n": None,
            "response_format": self.capabilities.response_format,
            "size": self.size,
        }
        sent = {**usual, **fields}
        parts: list[Field | File] = [Field(k, v) for k, v in sent.items() if v is not None]
        return Question(parts=(*parts, *([File(picture)] if picture else [])))

    def variation(self, *, picture: str | None = "rgb.png", **fields: str | None) -> Answer:
        """Ask `legal`.

        Raises:
            Breach: If there is no answer.
        """
        return self.ask(self.legal(picture=picture, **fields))

    def pictures(self, answer: Answer) -> list[Picture]:
        """Return the pictures of an answer, whether base64 or addresses.

        Raises:
            Unseen: If there are none to look at.
        """
        if answer.status != 200 or not answer.entries:
            unseen("There are no pictures to look at; see answer-status and answer-data.")
        return [Picture.of(self._file(entry)) for entry in answer.entries]

    def read(self, url: str) -> Answer:
        """Read an address from an answer, without the key.

        Raises:
            Breach: If there is no answer.
        """
        return self.ask(Question("GET", url, key="none"))

    def _file(self, entry: Mapping[str, Any]) -> bytes:
        encoded, url = entry.get("b64_json"), entry.get("url")
        if isinstance(encoded, str):
            try:
                return base64.b64decode(encoded.rpartition("base64,")[2])
            except (binascii.Error, ValueError):
                unseen("There is no base64 to look at; see b64-plain.")
        if isinstance(url, str) and url.startswith(("http://", "https://")):
            answer = self.read(url)
            if answer.status == 200:
                return answer.content
        unseen("There is no picture that can be read; see b64-string and url-read.")

    def _asked(self, question: Question) -> Answer:
        server = self.server
        curl = question.curl(server.shown_url, with_key=bool(server.api_key))
        headers = question.all_headers(server.api_key)
        body = question.content()
        url = question.url(server.base_url.rstrip("/"))
        for wait in range(_WAITS + 1):
            content = iter([body or b""]) if question.chunked else body
            try:
                response = self._client.request(
                    question.method, url, headers=headers, content=content
                )
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise Breach(f"no answer: {type(error).__name__}", [curl]) from None
            if response.status_code != 429 or wait == _WAITS:
                break
            time.sleep(_seconds(response.headers.get("retry-after")))
        return Answer(
            response.status_code, response.headers, response.content, curl, server.api_key
        )


def _seconds(retry_after: str | None) -> float:
    try:
        return min(max(float(retry_after or 1), 0.0), _LONGEST_WAIT)
    except ValueError:
        return 1.0
