"""The options of a single call, in the shape of the vendor's SDK."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import httpx
from pydantic import SecretStr

from langchain_image_variation.contract import CreateImageVariationRequest
from langchain_image_variation.exceptions import InvalidRequestError
from langchain_image_variation.hosted.endpoint import Endpoint
from langchain_image_variation.hosted.headers import HeaderValues, check_headers
from langchain_image_variation.hosted.not_given import NotGiven
from langchain_image_variation.hosted.parameters import (
    FormFields,
    Parameters,
    check_parameters,
    form_fields,
)
from langchain_image_variation.hosted.settings import check_timeout

__all__ = ["CallOptions"]


# Without a repr, because headers and query may contain keys.
@dataclass(frozen=True, slots=True, repr=False)
class CallOptions:
    """Options of one call. Each takes precedence over the client's."""

    timeout: httpx.Timeout | None
    """None keeps the setting of the client."""
    headers: HeaderValues
    query: Parameters
    contract_fields: Mapping[str, object]
    """Fields of the contract that `extra_body` sets. They are validated like arguments."""
    form: FormFields
    """All other fields of `extra_body`."""

    @classmethod
    def from_arguments(
        cls,
        *,
        extra_headers: Mapping[str, str | SecretStr] | None,
        extra_query: Parameters | None,
        extra_body: Parameters | None,
        timeout: object,
    ) -> "CallOptions":
        """Return the options that the arguments of a call set, after checking them.

        Raises:
            InvalidRequestError: If one of them cannot be sent; `param` names it.
        """
        headers = check_headers("extra_headers", extra_headers, per_call=True)
        extra_headers = None
        fields = dict(check_parameters("extra_body", extra_body))
        if "image" in fields:
            raise InvalidRequestError(
                "extra_body must not contain 'image'; pass it as the argument image.",
                param="extra_body",
            )
        names = CreateImageVariationRequest.model_fields.keys() & fields.keys()
        return cls(
            timeout=None if isinstance(timeout, NotGiven) else check_timeout(timeout),
            headers=headers,
            query=check_parameters("extra_query", extra_query),
            contract_fields={name: fields.pop(name) for name in names},
            form=form_fields(fields),
        )

    def override(self, endpoint: Endpoint) -> Endpoint:
        """Return an endpoint with the options of this call."""
        if self.timeout is None and not self.headers and not self.query:
            return endpoint
        return replace(
            endpoint,
            timeout=endpoint.timeout if self.timeout is None else self.timeout,
            default_headers={**endpoint.default_headers, **self.headers},
            default_query={**endpoint.default_query, **self.query},
        )
