"""What is asked of a server, each question once."""

import base64
import binascii
import ssl
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from langchain_image_variation.hosted.answer import MAX_ANSWER_BYTES
from langchain_image_variation.hosted.retry import retry_after
from langchain_image_variation.hosted.session import new_client
from langchain_image_variation.hosted.settings import check_timeout
from langchain_image_variation.http.deadline import use_deadline
from pytest_image_variation.conformance.answer import Answer, Picture, masked
from pytest_image_variation.conformance.question import Field, File, Question
from pytest_image_variation.conformance.rule import Breach, unseen
from pytest_image_variation.conformance.target import Server

__all__ = ["ServerProbe"]

_WAITS = 5
_WAIT = 1.0
_LONGEST_WAIT = 60.0


class ServerProbe:
    """Asks a server, each question once.

    Args:
        server: The server to be asked.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.capabilities = server.capabilities
        self.run = uuid.uuid4().hex[:12]
        """Tells this run from others, for what a server remembers."""
        self._known: dict[Question, Answer | Breach] = {}
        self._lock = threading.Lock()
        self._in_vain = False

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

    @property
    def serves(self) -> bool:
        """Whether the plainest request gets pictures, whatever they are."""
        return self.answers and bool(self.variation().entries)

    def asked(self) -> Sequence[str]:
        """Return nothing: each breach has the command line that asks again."""
        return ()

    def knows(self, question: Question) -> bool:
        """Whether a question was asked already."""
        with self._lock:
            return question in self._known

    def ask(self, question: Question) -> Answer:
        """Return the answer to a question; it is asked only if it was not before.

        An answer that says to come back later is waited for, a few times.

        Raises:
            Breach: If there is no answer.
        """
        with self._lock:
            known = self._known.get(question)
        if known is None:
            known = self._asked(question)
            with self._lock:
                self._known[question] = known
        if isinstance(known, Breach):
            raise Breach(known.got, known.curl)
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

    def _asked(self, question: Question) -> Answer | Breach:
        """Ask, and ask again while the server says to come back later."""
        for wait in range(_WAITS + 1):
            found = self._sent(question)
            if isinstance(found, Breach) or found.status != 429:
                break
            if wait == _WAITS or self._in_vain:
                # It would be in vain each time.
                self._in_vain = True
                break
            seconds = retry_after(found.headers, str(found))
            time.sleep(_WAIT if seconds is None else min(seconds, _LONGEST_WAIT))
        return found

    def _sent(self, question: Question) -> Answer | Breach:
        server = self.server
        curl = masked(question.curl(server.base_url, with_key=bool(server.api_key)), server.api_key)
        url, body = question.url(server.base_url), question.content()
        request: dict[str, Any] = {
            "headers": {**_AS_CURL, **question.all_headers(server.api_key)},
            "content": iter([body or b""]) if question.chunked else body,
            "timeout": check_timeout(server.timeout),
        }
        try:
            with (
                use_deadline(time.monotonic() + server.timeout),
                self._client(url) as client,
                client.stream(question.method, url, **request) as response,
            ):
                content = bytearray()
                for piece in response.iter_bytes():
                    content += piece
                    if len(content) > MAX_ANSWER_BYTES:
                        return Breach(f"an answer of more than {MAX_ANSWER_BYTES:,} bytes", [curl])
        # What is no address raises ValueErrors of several kinds.
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            return Breach(f"no answer: {_why(error, server.timeout)}", [curl])
        status, headers = response.status_code, response.headers
        return Answer(status, headers, bytes(content), curl, server.api_key)

    @contextmanager
    def _client(self, url: str) -> Iterator[httpx.Client]:
        """Give a client for one question: no connection is kept, and no cookie."""
        if self.server.transport is not None:
            # It is not ours to close.
            yield httpx.Client(transport=self.server.transport)
            return
        with new_client(httpx.URL(url)) as client:
            yield client


# httpx would ask for compression, which curl does not.
_AS_CURL = {"accept": "*/*", "accept-encoding": "identity"}


def _why(error: Exception, timeout: float) -> str:
    kind = type(error).__name__
    if isinstance(error, httpx.TimeoutException):
        return f"{kind}; it had {timeout:g} seconds"
    if isinstance(error, httpx.ConnectError):
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ssl.SSLError):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            return f"{kind}; its certificate is not trusted, or it does not speak TLS"
        return f"{kind}; is the server running, and is its address right?"
    if isinstance(error, httpx.TransportError):
        return f"{kind}; the connection ended, or what came is no HTTP"
    return f"{kind}; this is no address"
