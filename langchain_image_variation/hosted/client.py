"""The client: image variations from any server that speaks `POST /images/variations`.

`ImageVariationClient` and `AsyncImageVariationClient` are engines. Their `images` takes calls in
the shape of the vendor's SDK.
"""

from collections.abc import Mapping
from copy import copy as shallow_copy
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from pydantic import SecretStr

from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.exceptions import InvalidRequestError
from langchain_image_variation.hosted.budget import MAX_ANSWER_BYTES
from langchain_image_variation.hosted.not_given import NOT_GIVEN, NotGiven
from langchain_image_variation.hosted.sdk_images import AsyncImages, Images

if TYPE_CHECKING:
    import httpx

    from langchain_image_variation.hosted.client_flow import ClientFlow
    from langchain_image_variation.hosted.session import AsyncSession, Session
    from langchain_image_variation.hosted.settings import FormValue
    from langchain_image_variation.http.url_policy import URLPolicy

__all__ = ["AsyncImageVariationClient", "ImageVariationClient"]

H = TypeVar("H", "httpx.Client", "httpx.AsyncClient")


class _BaseClient(Generic[H]):
    """The settings, which the sync and the async client share."""

    _flow: "ClientFlow"

    def __init__(
        self,
        *,
        base_url: "str | httpx.URL | None" = None,
        api_key: str | SecretStr | None = None,
        organization: str | None = None,
        project: str | None = None,
        model: str | None = None,
        timeout: "float | httpx.Timeout | None" = 300.0,
        deadline: float | None = 600.0,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        max_retries: int = 2,
        resend_lost: bool = False,
        default_headers: Mapping[str, str | SecretStr] | None = None,
        default_query: Mapping[str, object] | None = None,
        extra_fields: "Mapping[str, FormValue] | None" = None,
        normalize: bool = False,
        urls: "URLPolicy | None" = None,
        result_urls: "URLPolicy | None" = None,
        http_client: H | None = None,
    ) -> None:
        # httpx takes longer to import than the rest of a program's start-up, so this waits for use.
        from langchain_image_variation.hosted import headers, parameters, settings
        from langchain_image_variation.hosted.client_flow import ClientFlow
        from langchain_image_variation.hosted.endpoint import Endpoint

        api_key = settings.check_key(api_key, "OPENAI_API_KEY")
        # They may contain keys, so from here on, no variable holds their plain values.
        default_headers = headers.check_headers("default_headers", default_headers, per_call=False)
        if base_url is None:
            base_url = settings.read_environment("OPENAI_BASE_URL")
        if base_url is None:
            raise InvalidRequestError(_NO_SERVER, param="base_url")
        endpoint = Endpoint.from_settings(
            base_url=base_url,
            api_key=api_key,
            organization=organization,
            project=project,
            timeout=timeout,
            deadline=deadline,
            max_answer_bytes=max_answer_bytes,
            max_retries=max_retries,
            resend_lost=resend_lost,
            default_headers=default_headers,
            default_query=parameters.check_parameters("default_query", default_query),
        )
        self._flow = ClientFlow(
            endpoint,
            model=model,
            extra_fields=extra_fields,
            normalize=normalize,
            result_urls=result_urls,
        )
        self._urls = urls
        self._open_session(endpoint.base_url, http_client)

    def copy(
        self,
        *,
        base_url: "str | httpx.URL | None" = None,
        api_key: str | SecretStr | None = None,
        organization: str | None = None,
        project: str | None = None,
        model: str | None = None,
        timeout: "float | httpx.Timeout | NotGiven | None" = NOT_GIVEN,
        deadline: float | NotGiven | None = NOT_GIVEN,
        max_answer_bytes: int | None = None,
        max_retries: int | None = None,
        resend_lost: bool | None = None,
        default_headers: Mapping[str, str | SecretStr] | None = None,
        set_default_headers: Mapping[str, str | SecretStr] | None = None,
        default_query: Mapping[str, object] | None = None,
        set_default_query: Mapping[str, object] | None = None,
        extra_fields: "Mapping[str, FormValue] | None" = None,
        normalize: bool | None = None,
        urls: "URLPolicy | None" = None,
        result_urls: "URLPolicy | None" = None,
        http_client: H | None = None,
    ) -> Self:
        """Return a client with the settings of this one, except for those that you pass.

        `with_options` is another name for this method. The copy shares the connections of this
        client, so closing either closes both. It opens its own only if you pass an `http_client`,
        or a `base_url` on another host.

        The arguments mean the same as in the constructor, but `default_headers` and `default_query`
        add to this client's. `set_default_headers` and `set_default_query` replace them. None keeps
        a setting, except for `timeout` and `deadline`, where it means no limit.

        Raises:
            InvalidRequestError: If a setting is out of range; `param` names it.
            AuthenticationError: If a header cannot carry the key.
        """
        from langchain_image_variation.hosted.client_flow import ClientFlow
        from langchain_image_variation.hosted.endpoint import Endpoint
        from langchain_image_variation.hosted.headers import check_headers
        from langchain_image_variation.hosted.parameters import check_parameters
        from langchain_image_variation.hosted.settings import check_key

        flow, endpoint = self._flow, self._flow.endpoint
        if api_key is not None:
            api_key = check_key(api_key, None)
        if default_headers is not None and set_default_headers is not None:
            raise _conflict_error("default_headers")
        if default_query is not None and set_default_query is not None:
            raise _conflict_error("default_query")
        if set_default_headers is None:
            headers = {
                **endpoint.default_headers,
                **check_headers("default_headers", default_headers, per_call=False),
            }
        else:
            headers = dict(
                check_headers("set_default_headers", set_default_headers, per_call=False)
            )
        # They may contain keys, which the variables of a traceback must not show.
        del default_headers, set_default_headers
        if set_default_query is None:
            added_query = check_parameters("default_query", default_query)
            default_query = {**endpoint.default_query, **added_query}
        else:
            default_query = check_parameters("set_default_query", set_default_query)
        new_endpoint = Endpoint.from_settings(
            base_url=endpoint.base_url if base_url is None else base_url,
            api_key=endpoint.api_key if api_key is None else api_key,
            organization=endpoint.organization if organization is None else organization,
            project=endpoint.project if project is None else project,
            timeout=endpoint.timeout if isinstance(timeout, NotGiven) else timeout,
            deadline=endpoint.deadline_setting if isinstance(deadline, NotGiven) else deadline,
            max_answer_bytes=(
                endpoint.max_answer_bytes if max_answer_bytes is None else max_answer_bytes
            ),
            max_retries=endpoint.retries.max_retries if max_retries is None else max_retries,
            resend_lost=endpoint.retries.resend_lost if resend_lost is None else resend_lost,
            default_headers=headers,
            default_query=default_query,
        )
        client = shallow_copy(self)
        vars(client).pop("images", None)  # It belongs to the original.
        client._flow = ClientFlow(
            new_endpoint,
            model=flow.model if model is None else model,
            extra_fields=flow.extra_fields if extra_fields is None else extra_fields,
            normalize=flow.normalize if normalize is None else normalize,
            result_urls=flow.result_urls if result_urls is None else result_urls,
        )
        client._urls = self._urls if urls is None else urls
        is_other_host = (new_endpoint.base_url.scheme, new_endpoint.base_url.host) != (
            endpoint.base_url.scheme,
            endpoint.base_url.host,
        )
        if http_client is not None or (is_other_host and self._owns_connections):
            client._open_session(new_endpoint.base_url, http_client)
        return client

    with_options = copy

    def _open_session(self, base_url: "httpx.URL", http_client: H | None) -> None:
        raise AssertionError("each client opens its own session")

    @property
    def _owns_connections(self) -> bool:
        raise AssertionError("each client has its own session")

    @property
    def base_url(self) -> str:
        """The server's address, without a query."""
        return self._flow.endpoint.display_url

    @property
    def fingerprint(self) -> str:
        """A hash of the server, the model and the fields, but not of the key or `http_client`."""
        return self._flow.fingerprint

    def __repr__(self) -> str:
        # A traceback may show a client whose constructor failed, which has no address yet.
        detail = f"base_url={self.base_url!r}" if "_flow" in vars(self) else "not initialized"
        return f"{type(self).__name__}({detail})"


def _conflict_error(name: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"Pass either {name}, which adds to the client's, or set_{name}, which replaces them.",
        param=name,
    )


_NO_SERVER = (
    "There is no default server for image variations: the vendor removed its own in May 2026. Pass "
    "base_url or set OPENAI_BASE_URL to a server that has the path. Or use the engine 'gpt-image', "
    "a hosted model that needs a key, or 'local', which runs on this machine."
)


class ImageVariationClient(_BaseClient["httpx.Client"]):
    """Asks a server for variations. This is an engine, and safe to share between threads.

    There is no default server, because the vendor removed its own: pass `base_url` or set
    `OPENAI_BASE_URL`. Results that the server returns as URLs are downloaded immediately, because
    the URLs soon expire. `Image.read` returns their bytes, or raises the error if the download
    failed.

    Calls written for the vendor's SDK work with only the import changed: the arguments of
    `images.create_variation`, `with_options`, `copy`, `default_headers`, `default_query` and
    `timeout` mean the same. These parts of the SDK are not supported:

    - `with_raw_response`, `with_streaming_response` and the methods of other endpoints
    - `api_key` as a function, and `http_client` other than one of httpx
    - `omit` and `NOT_GIVEN`: leave the argument out, or pass `api_key=""` to send no key
    - headers that the client has to set itself, such as `Host`, `Content-Type` or
      `Content-Length`; contract fields in `extra_body` that are out of range

    Args:
        base_url: The server's address up to "/images/variations". By default `OPENAI_BASE_URL`.
        api_key: Sent as a bearer token. By default `OPENAI_API_KEY`. "" sends none.
        organization: By default `OPENAI_ORG_ID`. "" sends none.
        project: By default `OPENAI_PROJECT_ID`. "" sends none.
        model: The model of requests that name none, or "dall-e-2".
        timeout: The longest silence of the server, in seconds or as an `httpx.Timeout`. None sets
            no limit. If it is a number, connecting may take at most 10 seconds of it.
        deadline: The longest time a call may take, in seconds, including all attempts, waits and
            downloads. None sets no limit.
        max_answer_bytes: The maximum number of bytes that a call may receive in its answer and its
            downloads together. `result_urls` limits each download.
        max_retries: How often to retry after 408, 409, 429, 5xx, or a connection that failed
            before any answer. All attempts of a call carry the same `Idempotency-Key`.
        resend_lost: Whether to retry even if the server did not answer in time or its answer was
            cut short. A server that ignores `Idempotency-Key` then bills twice.
        default_headers: Sent with every request to the server, but not with downloads. They take
            precedence over the headers that the client derives from its other settings.
        default_query: Query parameters, added to the URL of every request to the server. httpx
            logs URLs, so pass keys as headers.
        extra_fields: Form fields that the server takes beyond the contract.
        normalize: Whether to convert results to PNG of exactly the requested size. Set this if
            you use the client as an engine.
        urls: The hosts that `images.create_variation` may fetch a source from.
        result_urls: How to download results from other hosts. By default from any public host,
            over https.
        http_client: Your own httpx client, for proxies, certificates or tests. It is not closed.
            While it waits for the headers of an answer, only `timeout` limits each read.

    Raises:
        InvalidRequestError: If there is no `base_url`, or a setting is out of range.
        AuthenticationError: If a header cannot carry the key.
    """

    fingerprint = _BaseClient.fingerprint
    _session: "Session"

    def _open_session(self, base_url: "httpx.URL", http_client: "httpx.Client | None") -> None:
        from langchain_image_variation.hosted.session import Session

        self._session = Session(base_url, http_client)

    @property
    def _owns_connections(self) -> bool:
        return self._session.owns_client

    @cached_property
    def images(self) -> Images:
        """The call in the shape of the vendor's SDK."""
        return Images(self._flow, self._session, self._urls)

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Ask the server for variations.

        Returns:
            The server's answer, with at most `request.n` images. Those at URLs have been downloaded
            already. If that failed, `Image.read` raises the error.

        Raises:
            InvalidRequestError: If the server rejects the request. Subclasses say why, among them
                `ModelNotFoundError`, `ContentPolicyError` and `BillingLimitError`.
            AuthenticationError: If the key is missing or wrong (401).
            PermissionDeniedError: If the key does not allow this (403).
            EndpointRemovedError: If the host has no image variations (404 without a reason).
            NotFoundError: If the server does not find something else (404).
            ConflictError: If the request conflicts with another one (409).
            PayloadTooLargeError: If the request is too large for the server (413).
            RateLimitError: If the server has too many requests after all attempts (429);
                `QuotaExceededError` if waiting does not help.
            EngineTimeoutError: If the server did not answer in time.
            EngineConnectionError: If the server cannot be reached, or hung up.
            EngineResponseError: If the answer is not an `ImagesResponse`, is cut short or too long.
            ServiceUnavailableError: If the server is not ready (503).
            EngineError: If the server failed in another way (5xx).
            ImageVariationError: If the server redirects (3xx). The client does not follow, so it
                sends the image only to the server that you chose.
        """
        flow = self._flow.request(request, self._session.build_request)
        return self._session.run(flow)

    def close(self) -> None:
        """Close the connections. An `http_client` that you passed stays open."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncImageVariationClient(_BaseClient["httpx.AsyncClient"]):
    """The async twin of `ImageVariationClient`, for asyncio and trio, with the same settings.

    Each event loop has its own connections, and `close` closes only those of the calling loop. An
    `http_client` belongs to the loop of its first call.

    Raises:
        InvalidRequestError: If there is no `base_url`, or a setting is out of range.
        AuthenticationError: If a header cannot carry the key.
    """

    fingerprint = _BaseClient.fingerprint
    _session: "AsyncSession"

    def _open_session(self, base_url: "httpx.URL", http_client: "httpx.AsyncClient | None") -> None:
        from langchain_image_variation.hosted.session import AsyncSession

        self._session = AsyncSession(base_url, http_client)

    @property
    def _owns_connections(self) -> bool:
        return self._session.owns_client

    @cached_property
    def images(self) -> AsyncImages:
        """The call in the shape of the vendor's async SDK."""
        return AsyncImages(self._flow, self._session, self._urls)

    async def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Do what `ImageVariationClient.create_variation` does, without blocking the loop.

        Raises:
            ImageVariationError: See `ImageVariationClient.create_variation`.
        """
        return await self._session.run(self._flow.request(request, self._session.build_request))

    async def close(self) -> None:
        """Close the connections of this event loop. Your own `http_client` stays open."""
        await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
