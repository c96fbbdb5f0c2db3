"""The server that is checked, as its author describes it."""

from dataclasses import dataclass, field

import httpx

from langchain_image_variation.exceptions import ImageVariationError
from langchain_image_variation.hosted import settings
from pytest_image_variation.conformance.capabilities import Capabilities

__all__ = ["Server"]

_LONGEST = 24 * 3600


@dataclass(frozen=True, slots=True)
class Server:
    """A server to be checked.

    Raises:
        ValueError: If `base_url` is no http or https address, or has a user name or a query; if
            `api_key` has a character that no header takes; or if `timeout` is not more than 0
            and at most a day.
    """

    base_url: str
    """Up to and with its "/v1"; what follows that in a path for variations is cut off."""
    api_key: str | None = field(default=None, repr=False)
    """The key that it wants; None if it wants none."""
    model: str | None = None
    """The model to ask for; None to leave it to the server."""
    capabilities: Capabilities = field(default_factory=Capabilities)
    """What it claims to do."""
    transport: httpx.BaseTransport | None = None
    """Where requests go instead of the network; it keeps `timeout` itself, or does not."""
    timeout: float = 300.0
    """The most seconds for one answer, from the first byte sent to the last that comes."""

    def __post_init__(self) -> None:
        """Check what is said, and write the address as it is asked."""
        try:
            url = settings.base_url(self.base_url)
            settings.secret(self.api_key, None)
        except ImageVariationError as error:
            raise ValueError(error.message) from None
        if url.query:
            raise ValueError("base_url must have no query; each request would have to repeat it.")
        if not 0 < self.timeout <= _LONGEST:
            raise ValueError(
                f"timeout must be more than 0 and at most {_LONGEST:,} seconds, got "
                f"{self.timeout:g}."
            )
        object.__setattr__(self, "base_url", str(url.copy_with(query=None)))
