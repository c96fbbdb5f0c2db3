"""The engine `variations`: any server that offers image variations, and known ones by name."""

from collections.abc import Mapping

import httpx
from pydantic import SecretStr

from langchain_image_variation.contract import (
    DEFAULT_MODEL,
    CreateImageVariationRequest,
    ImagesResponse,
)
from langchain_image_variation.engines.fingerprint import digest
from langchain_image_variation.exceptions import InvalidRequestError
from langchain_image_variation.hosted import settings
from langchain_image_variation.hosted.answer_images import use_data_urls
from langchain_image_variation.hosted.budget import MAX_ANSWER_BYTES
from langchain_image_variation.hosted.client import ImageVariationClient
from langchain_image_variation.hosted.known_servers import (
    UNKNOWN_SERVER,
    server_by_name,
    server_by_url,
)
from langchain_image_variation.http.url_policy import URLPolicy

__all__ = ["VariationsEngine"]


class VariationsEngine:
    """Asks a server that offers image variations; needs base_url, server or OPENAI_BASE_URL.

    Every result is a PNG of exactly the requested size, whatever the server sent. A request that a
    known server cannot serve is refused before anything is sent. `ImageVariationClient` explains
    the arguments that are not listed here.

    Args:
        server: One of `SERVERS` by name, which sets its usual values. A hosted server is also
            recognized by its base URL.
        base_url: By default the server's own, or `OPENAI_BASE_URL`.
        api_key: By default the environment variable of a known server, such as `DEEPINFRA_API_KEY`,
            if it has one. For any other server, `OPENAI_API_KEY`.
        model: The model of requests that name none, or "dall-e-2".

    Raises:
        InvalidRequestError: If the server is not known, there is no base URL, or a setting is out
            of range.
        AuthenticationError: If a header cannot carry the key.
    """

    variation_kind = "usually new images of the same subject"
    """What its variations are. Only the server knows for sure."""

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
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        max_retries: int = 2,
        resend_lost: bool = False,
        extra_fields: Mapping[str, settings.FormValue] | None = None,
        result_urls: URLPolicy | None = None,
        http_client: httpx.Client | None = None,
    ) -> None:
        if server is not None:
            self._server = server_by_name(server)
        elif base_url is not None:
            self._server = server_by_url(base_url)
        else:
            self._server = server_by_url(settings.read_environment("OPENAI_BASE_URL"))
        key_variable = self._server.key_variable
        if self._server is UNKNOWN_SERVER:
            key_variable = "OPENAI_API_KEY"
        else:
            # The key and the organization in OPENAI_* are the vendor's. No other server gets them.
            organization, project = organization or "", project or ""
        api_key = settings.check_key(api_key, key_variable)
        self._client = ImageVariationClient(
            base_url=base_url if base_url is not None else self._server.base_url,
            api_key=api_key,
            organization=organization,
            project=project,
            timeout=timeout,
            deadline=deadline,
            max_answer_bytes=max_answer_bytes,
            max_retries=max_retries,
            resend_lost=resend_lost,
            extra_fields=extra_fields,
            normalize=True,
            result_urls=result_urls,
            http_client=http_client,
        )
        self._model = settings.check_model(model) or self._server.model

    @property
    def base_url(self) -> str:
        """The server's address, without a query."""
        return self._client.base_url

    @property
    def max_n(self) -> int:
        """The maximum number of variations per call. Some known servers allow less than 10."""
        return self._server.max_n

    @property
    def fingerprint(self) -> str:
        """See `ImageVariationClient.fingerprint`. It also covers the model and the known server."""
        return digest(client=self._client.fingerprint, model=self._model, server=self._server.title)

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Ask the server for variations.

        Raises:
            InvalidRequestError: If the server is known not to support the request.
            ImageVariationError: See `ImageVariationClient.create_variation`.
        """
        server = self._server
        if request.n > server.max_n:
            raise InvalidRequestError(
                f"{server.title} makes at most {server.max_n} variations per call, got n="
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
        """Close the connections. An `http_client` that you passed stays open."""
        self._client.close()
