"""The server under test, as you describe it."""

from dataclasses import dataclass, field

import httpx

from langchain_image_variation.exceptions import ImageVariationError
from langchain_image_variation.hosted import settings
from pytest_image_variation.conformance.capabilities import Capabilities

__all__ = ["Server"]

_MAX_TIMEOUT = 24 * 3600


@dataclass(frozen=True, slots=True)
class Server:
    """A server to check.

    Raises:
        ValueError: If `base_url` is not an http or https URL, or has a user name or a query; if
            `api_key` has a character that headers do not allow; or if `timeout` is not more than
            0 and at most one day.
    """

    base_url: str
    """Up to and including "/v1". A trailing "/images/variations" is removed."""
    api_key: str | None = field(default=None, repr=False)
    """The key that the server requires, or None if it requires none."""
    model: str | None = None
    """The model to request, or None to use the server's default."""
    capabilities: Capabilities = field(default_factory=Capabilities)
    """What the server supports."""
    transport: httpx.BaseTransport | None = None
    """Sends the requests instead of the network. It must enforce `timeout` itself."""
    timeout: float = 300.0
    """The most seconds for one response, from the first byte sent to the last byte received."""

    def __post_init__(self) -> None:
        """Check the values, and normalize the base URL."""
        try:
            url = settings.check_base_url(self.base_url)
            settings.check_key(self.api_key, None)
        except ImageVariationError as error:
            raise ValueError(error.message) from None
        if url.query:
            raise ValueError("base_url must not have a query. Remove it and everything after it.")
        if not 0 < self.timeout <= _MAX_TIMEOUT:
            raise ValueError(
                f"timeout must be more than 0 and at most {_MAX_TIMEOUT:,} seconds, got "
                f"{self.timeout:g}."
            )
        object.__setattr__(self, "base_url", str(url.copy_with(query=None)))
