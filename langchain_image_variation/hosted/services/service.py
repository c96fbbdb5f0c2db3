"""`Service`: a service that is billed, with its address, its key and the requests to it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
from pydantic import SecretStr

from langchain_image_variation.exceptions import (
    AuthenticationError,
    InvalidRequestError,
    ModelNotFoundError,
    NotFoundError,
)
from langchain_image_variation.hosted import settings
from langchain_image_variation.hosted.answer import Answer
from langchain_image_variation.hosted.budget import Budget
from langchain_image_variation.hosted.endpoint import Endpoint
from langchain_image_variation.hosted.services.billed_calls import BilledCalls
from langchain_image_variation.hosted.session import Session
from langchain_image_variation.http.flow import Flow
from langchain_image_variation.http.url_policy import URLPolicy

__all__ = ["Service"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Service:
    """A service, and how this process uses it.

    Args:
        title: What errors call it.
        default_url: Its real address, which `endpoint` may replace.
        endpoint: Its address, its key and its limits.
        session: The connections.
        result_urls: The policy for downloads of results.
        billed_calls: Counts the calls.
    """

    title: str
    default_url: str
    endpoint: Endpoint
    session: Session
    result_urls: URLPolicy
    billed_calls: BilledCalls

    @classmethod
    def open(
        cls,
        title: str,
        *,
        key_variable: str,
        key_scheme: str = "Bearer",
        default_url: str,
        base_url: str,
        api_key: str | SecretStr | None,
        max_billed_calls: int | None,
        timeout: float | httpx.Timeout | None,
        deadline: float | None,
        max_answer_bytes: int,
        max_retries: int,
        resend_lost: bool,
        result_urls: URLPolicy | None,
        http_client: httpx.Client | None,
    ) -> "Service":
        """Return a service with new connections, or with those of `http_client`.

        `title` is what errors call the service, `key_variable` the environment variable of its key,
        `key_scheme` the scheme of its authorization header, and `default_url` its real address. For
        the rest, see the engines.

        Raises:
            AuthenticationError: If there is no key, or a header cannot carry it.
            InvalidRequestError: If a setting is out of range; `param` names it.
        """
        api_key = settings.check_key(api_key, key_variable)
        if not api_key:
            raise AuthenticationError(f"{title} needs a key: pass api_key or set {key_variable}.")
        if result_urls is not None and not isinstance(result_urls, URLPolicy):
            raise InvalidRequestError("result_urls must be a URLPolicy.", param="result_urls")
        endpoint = Endpoint.from_settings(
            base_url=base_url,
            api_key=SecretStr(""),
            organization="",
            project="",
            timeout=timeout,
            deadline=deadline,
            max_answer_bytes=max_answer_bytes,
            max_retries=max_retries,
            resend_lost=resend_lost,
            default_headers={
                "authorization": SecretStr(f"{key_scheme} {api_key.get_secret_value()}")
            },
            key_variable=key_variable,
            address_hint=f"The service is at {default_url}.",
            service_host=httpx.URL(default_url).host,
            # None of the services documents that it knows the header.
            honors_idempotency_key=False,
        )
        return cls(
            title,
            default_url,
            endpoint,
            Session(endpoint.base_url, http_client),
            result_urls or URLPolicy(hosts=None),
            BilledCalls(max_billed_calls),
        )

    def send(
        self,
        method: str,
        path: str,
        read: Callable[[Answer], T],
        budget: Budget,
        **options: Any,
    ) -> Flow[T]:
        """Send a request. See `Endpoint.send`."""
        return self.endpoint.send(
            method, path, read, build_request=self.session.build_request, budget=budget, **options
        )

    def model_not_found_error(self, model: str, error: NotFoundError) -> ModelNotFoundError:
        """Return the error for a 404 to a request that names a model."""
        message = f"{self.title} has no model {model!r}."
        if self.endpoint.display_url.rstrip("/") != self.default_url:
            message += f" Or is base_url wrong? {self.endpoint.address_hint}"
        failure = ModelNotFoundError(message)
        failure.request_id = error.request_id
        return failure

    def submit(self, path: str, budget: Budget, **options: Any) -> Flow[Answer]:
        """Start a job, and wait for the answer even if the call is cancelled meanwhile."""
        return self.send("POST", path, Answer.as_json, budget, keep_waiting=True, **options)

    def poll(self, path: str, budget: Budget) -> Flow[Answer]:
        """Ask for the state or the result of a job, until the service answers or time is up.

        The job is paid for and runs on, so an outage of the service must not lose it.
        """
        return self.send("GET", path, Answer.as_json, budget, is_free=True, outlast_outages=True)

    def close(self) -> None:
        """Close the connections. An `http_client` that the caller passed stays open."""
        self.session.close()
