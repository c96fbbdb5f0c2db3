"""Sends requests to a server, equal ones only once, and keeps its responses."""

import base64
import binascii
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from langchain_image_variation.hosted.budget import MAX_ANSWER_BYTES
from langchain_image_variation.hosted.retry import retry_after
from langchain_image_variation.hosted.session import new_client
from langchain_image_variation.hosted.settings import check_timeout
from langchain_image_variation.http.deadline import use_deadline
from pytest_image_variation.conformance.probe_request import Field, File, ProbeRequest
from pytest_image_variation.conformance.probe_response import ProbeResponse, mask_key
from pytest_image_variation.conformance.returned_image import ReturnedImage
from pytest_image_variation.conformance.rule import Violation, skip
from pytest_image_variation.conformance.server import Server

__all__ = ["MakeRequest", "ServerProbe", "request_with"]

_MAX_RETRIES = 5
_RETRY_SECONDS = 1.0
_MAX_RETRY_SECONDS = 60.0


class ServerProbe:
    """Sends requests to a server, equal ones only once.

    Args:
        server: The server to check.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.capabilities = server.capabilities
        self.run_id = uuid.uuid4().hex[:12]
        """Distinguishes this run from earlier ones, for servers that remember requests."""
        self._responses: dict[ProbeRequest, ProbeResponse | Violation] = {}
        self._lock = threading.Lock()
        self._rate_limited = False

    @property
    def size(self) -> str:
        """The size in most requests."""
        return self.capabilities.sizes[0]

    @property
    def is_reachable(self) -> bool:
        """Whether the server responds at all."""
        try:
            self.variation()
        except Violation:
            return False
        return True

    def require_service(self) -> None:
        """Skip a check if the server refuses even the simplest request.

        Raises:
            SkipCheck: If the server refuses that request.
        """
        if not self.is_reachable or not self.variation().entries:
            skip("A plain request gets no images; see answer-status and answer-data.")

    def request_lines(self) -> Sequence[str]:
        """Return nothing, since each violation has a curl command line."""
        return ()

    def has_sent(self, request: ProbeRequest) -> bool:
        """Return whether a request was sent already."""
        with self._lock:
            return request in self._responses

    def send(self, request: ProbeRequest) -> ProbeResponse:
        """Return the response to a request, which is sent only the first time.

        A 429 is retried a few times, after the delay that the server gives.

        Raises:
            Violation: If there is no response.
        """
        with self._lock:
            response = self._responses.get(request)
        if response is None:
            response = self._send_with_retries(request)
            with self._lock:
                self._responses[request] = response
        if isinstance(response, Violation):
            raise Violation(response.got, response.curl)
        return response

    def legal_request(self, *, image: str | None = "rgb.png", **fields: str | None) -> ProbeRequest:
        """Return a request that follows every rule, except for the changes in the arguments.

        Args:
            image: The name of the image, or None for no image.
            **fields: Replacements for the default fields. None removes a field.
        """
        defaults = {
            "model": self.server.model,
            "n": None,
            "response_format": self.capabilities.response_format,
            "size": self.size,
        }
        values = {**defaults, **fields}
        parts: list[Field | File] = [Field(k, v) for k, v in values.items() if v is not None]
        return ProbeRequest(parts=(*parts, *([File(image)] if image else [])))

    def variation(self, *, image: str | None = "rgb.png", **fields: str | None) -> ProbeResponse:
        """Return the response to `legal_request` with these arguments.

        Raises:
            Violation: If there is no response.
        """
        return self.send(self.legal_request(image=image, **fields))

    def images(self, response: ProbeResponse) -> list[ReturnedImage]:
        """Return the images of a response, whether it has base64 or URLs.

        Raises:
            SkipCheck: If it has no images that can be read.
        """
        if response.status != 200 or not response.entries:
            skip("There are no images to check; see answer-status and answer-data.")
        return [ReturnedImage.from_bytes(self._file(entry)) for entry in response.entries]

    def download(self, url: str) -> ProbeResponse:
        """Download a URL from a response, without the key.

        Raises:
            Violation: If there is no response.
        """
        return self.send(ProbeRequest("GET", url, key="none"))

    def _file(self, entry: Mapping[str, Any]) -> bytes:
        encoded, url = entry.get("b64_json"), entry.get("url")
        if isinstance(encoded, str):
            try:
                return base64.b64decode(encoded.rpartition("base64,")[2])
            except (binascii.Error, ValueError):
                skip("The base64 is invalid; see b64-plain.")
        if isinstance(url, str) and url.startswith(("http://", "https://")):
            response = self.download(url)
            if response.status == 200:
                return response.content
        skip("There is no image that can be read; see b64-string and url-read.")

    def _send_with_retries(self, request: ProbeRequest) -> ProbeResponse | Violation:
        for retry in range(_MAX_RETRIES + 1):
            response = self._send_once(request)
            if isinstance(response, Violation) or response.status != 429:
                break
            if retry == _MAX_RETRIES or self._rate_limited:
                # Waiting did not help, so do not wait for later requests either.
                self._rate_limited = True
                break
            seconds = retry_after(response.headers, str(response))
            time.sleep(_RETRY_SECONDS if seconds is None else min(seconds, _MAX_RETRY_SECONDS))
        return response

    def _send_once(self, request: ProbeRequest) -> ProbeResponse | Violation:
        server = self.server
        curl = request.curl(server.base_url, with_key=bool(server.api_key))
        curl = mask_key(curl, server.api_key)
        url, body = request.url(server.base_url), request.content()
        arguments: dict[str, Any] = {
            "headers": {**_CURL_HEADERS, **request.all_headers(server.api_key)},
            "content": iter([body or b""]) if request.chunked else body,
            "timeout": check_timeout(server.timeout),
        }
        try:
            with (
                use_deadline(time.monotonic() + server.timeout),
                self._client(url) as client,
                client.stream(request.method, url, **arguments) as response,
            ):
                content = bytearray()
                for piece in response.iter_bytes():
                    content += piece
                    if len(content) > MAX_ANSWER_BYTES:
                        got = f"a response of more than {MAX_ANSWER_BYTES:,} bytes"
                        return Violation(got, [curl])
        # An invalid URL raises several kinds of ValueError.
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            return Violation(f"no response: {_explain(error, server.timeout)}", [curl])
        status, headers = response.status_code, response.headers
        return ProbeResponse(status, headers, bytes(content), curl, server.api_key)

    @contextmanager
    def _client(self, url: str) -> Iterator[httpx.Client]:
        """Return a client for one request, so that no connection or cookie is reused."""
        if self.server.transport is not None:
            # Not closed here: it belongs to the caller.
            yield httpx.Client(transport=self.server.transport)
            return
        with new_client(httpx.URL(url)) as client:
            yield client


MakeRequest = Callable[[ServerProbe], ProbeRequest]
"""Makes the request that a rule is about."""


def request_with(*, image: str | None = "rgb.png", **fields: str | None) -> MakeRequest:
    """Return a function that calls `ServerProbe.legal_request` with these arguments."""
    return lambda probe: probe.legal_request(image=image, **fields)


# httpx would ask for a compressed response; curl does not.
_CURL_HEADERS = {"accept": "*/*", "accept-encoding": "identity"}


def _explain(error: Exception, timeout: float) -> str:
    kind = type(error).__name__
    if isinstance(error, httpx.TimeoutException):
        return f"{kind} after {timeout:g} seconds"
    if isinstance(error, httpx.ConnectError):
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ssl.SSLError):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            return f"{kind}. The certificate is not trusted, or the server does not speak TLS."
        return f"{kind}. Check that the server is running and that the URL is right."
    if isinstance(error, httpx.TransportError):
        return f"{kind}. The connection was closed, or the response is not HTTP."
    return f"{kind}. The URL is invalid."
