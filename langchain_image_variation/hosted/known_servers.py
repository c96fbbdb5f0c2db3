"""The `variations` engine: any server that speaks the path, the known ones by name."""

from collections.abc import Mapping
from dataclasses import dataclass

import httpx
from pydantic import SecretStr

from langchain_image_variation.contract import (
    DEFAULT_MODEL,
    MAX_N,
    CreateImageVariationRequest,
    ImagesResponse,
    ResponseFormat,
)
from langchain_image_variation.engines.fingerprint import digest
from langchain_image_variation.exceptions import InvalidRequestError, shown
from langchain_image_variation.hosted import settings
from langchain_image_variation.hosted.answer_images import use_data_urls
from langchain_image_variation.hosted.client import ImageVariationClient
from langchain_image_variation.http.url_policy import URLPolicy

__all__ = ["SERVERS", "Server", "VariationsEngine"]


@dataclass(frozen=True, slots=True)
class Server:
    """What is known of a server that speaks the path, from its own documentation or source."""

    title: str
    base_url: str | None = None
    """Where it is, if there is one place or one usual port."""
    host: str | None = None
    """The host by which it is recognised."""
    model: str | None = None
    """The model to use, if it has one for this."""
    needs_model: bool = False
    max_n: int = MAX_N
    """The most pictures it makes in one call."""
    key_variable: str | None = None
    """The environment variable that holds the key to it, if it needs one."""
    response_format: ResponseFormat | None = None
    """The only form that it returns, or the only one that can be read."""


SERVERS = {
    "deepinfra": Server(
        "DeepInfra",
        base_url="https://api.deepinfra.com/v1/openai",
        host="api.deepinfra.com",
        model="black-forest-labs/FLUX-1-Redux-dev",
        max_n=4,
        key_variable="DEEPINFRA_API_KEY",
        response_format="b64_json",
    ),
    "lemonade": Server(
        "Lemonade",
        base_url="http://localhost:13305/api/v1",
        needs_model=True,
        response_format="b64_json",
    ),
    "stdapi": Server("stdapi.ai", needs_model=True),
    # Its `url` is the path of a file on the server.
    "xinference": Server(
        "Xinference",
        base_url="http://localhost:9997/v1",
        needs_model=True,
        response_format="b64_json",
    ),
}
"""The servers known by name."""


class VariationsEngine:
    """Asks a server that speaks the path; needs base_url, server or OPENAI_BASE_URL.

    The arguments that `ImageVariationClient` has too are explained there. Every result is PNG of
    exactly the size asked for, whatever the server sent. What a known server cannot do is refused
    before anything is sent.

    Args:
        server: One of `SERVERS` by its key: sets what is usual for it. A hosted one is recognised
            by its base URL too.
        base_url: By default that of the server, or `OPENAI_BASE_URL`.
        api_key: To a known server, by default none or that of its own variable, such as
            `DEEPINFRA_API_KEY`; to any other, by default `OPENAI_API_KEY`.
        model: The model of requests that name none, or "dall-e-2".

    Raises:
        InvalidRequestError: If there is no such server, no base URL, or a setting is out of range.
        AuthenticationError: If the key cannot be sent in a header.
    """

    def __init__(
        self,
        *,
        server: str | None = None,
        base_url: str | None = None,
        api_key: str | SecretStr | None = None,
        organization: str | None = None,
        project: str | None = None,
        model: str | None = None,
        timeout: float | httpx.Timeout | None = 300.0,
        deadline: float | None = 600.0,
        max_retries: int = 2,
        resend_lost: bool = False,
        extra_fields: Mapping[str, settings.FormValue] | None = None,
        result_urls: URLPolicy | None = None,
        http_client: httpx.Client | None = None,
    ) -> None:
        address = base_url if base_url is not None else settings.environment("OPENAI_BASE_URL")
        known = _named(server) if server is not None else _at(address)
        if known is not _UNKNOWN:
            # The environment's key and organisation are the vendor's, and none of this server's
            # business.
            organization, project = organization or "", project or ""
        api_key = settings.secret(
            api_key, "OPENAI_API_KEY" if known is _UNKNOWN else known.key_variable
        )
        self._client = ImageVariationClient(
            base_url=base_url if base_url is not None else known.base_url,
            api_key=api_key,
            organization=organization,
            project=project,
            timeout=timeout,
            deadline=deadline,
            max_retries=max_retries,
            resend_lost=resend_lost,
            extra_fields=extra_fields,
            normalize=True,
            result_urls=result_urls,
            http_client=http_client,
        )
        self._server = known
        self._model = settings.model_name(model) or known.model

    @property
    def base_url(self) -> str:
        """The server's address, without a query."""
        return self._client.base_url

    @property
    def fingerprint(self) -> str:
        """As that of `ImageVariationClient`."""
        return digest(client=self._client.fingerprint, model=self._model, server=self._server.title)

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Ask the server for variations.

        Raises:
            InvalidRequestError: If the server is known not to do what is asked for.
            ImageVariationError: As `ImageVariationClient.create_variation`.
        """
        server = self._server
        if request.n > server.max_n:
            raise InvalidRequestError(
                f"{server.title} makes at most {server.max_n} variations a call, got n="
                f"{request.n}.",
                param="n",
            )
        changes: dict[str, object] = {}
        if request.model == DEFAULT_MODEL:
            if self._model is None and server.needs_model:
                raise InvalidRequestError(
                    f"{server.title} needs the name of one of its models; pass model.",
                    param="model",
                )
            if self._model is not None:
                changes["model"] = self._model
        if server.response_format is not None:
            changes["response_format"] = server.response_format
        answer = self._client.create_variation(request.model_copy(update=changes))
        if request.response_format == "url" and server.response_format == "b64_json":
            use_data_urls(answer)
        return answer

    def close(self) -> None:
        """Close the connections, but not those of an `http_client` of the caller's."""
        self._client.close()


_UNKNOWN = Server("The server")


def _named(name: str | None) -> Server:
    if name is None:
        return _UNKNOWN
    if name not in SERVERS:
        raise InvalidRequestError(
            f"server must be one of {', '.join(map(repr, SERVERS))}, got {shown(name)}; for any "
            "other, pass base_url alone.",
            param="server",
        )
    return SERVERS[name]


def _at(address: str | None) -> Server:
    host = None if address is None else settings.base_url(address).host
    known = (server for server in SERVERS.values() if server.host is not None)
    return next((server for server in known if server.host == host), _UNKNOWN)
