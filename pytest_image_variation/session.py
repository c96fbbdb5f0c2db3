"""A test's session with a server or with the cassettes: its address, journal and scenarios."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_image_variation.expectations import Expectations, ReceivedRequest
from pytest_image_variation.forms import SentImage

__all__ = ["Exchange", "Session"]

_SECRET_HEADERS = {
    "api-key",
    "authorization",
    "cookie",
    "openai-organization",
    "openai-project",
    "proxy-authorization",
    "x-api-key",
    "x-auth-token",
    "x-goog-api-key",
}


@dataclass(slots=True)
class Exchange:
    """A request and its response, as the journal keeps them."""

    method: str
    path: str
    """The path below the server's root, such as "/v1/images/variations"."""
    headers: Mapping[str, str] = field(repr=False)
    """Names are in lower case. Keys, cookies, organization and project are left out."""
    fields: Mapping[str, str]
    """The form fields other than the image, as they were sent."""
    image: SentImage | None
    """Facts about the image, such as its size in pixels, or None if none was sent."""
    has_key: bool = False
    """Whether the request had a key."""
    scenario: str | None = None
    """The scenario that answered the request, or None if the server's app answered it."""
    status: int | None = None
    """The status of the response, or None while it is not sent yet."""


class Session:
    """What one test sees of the loopback server, of the cassettes, or of a live server.

    Args:
        base_url: The base URL for clients, up to and including "/v1".
        api_key: The key for clients.
    """

    def __init__(self, base_url: str, api_key: str) -> None:
        self.base_url = base_url
        """The base URL for clients, up to and including "/v1"."""
        self.api_key = api_key
        """The key for clients that need one."""
        self.expectations = Expectations()
        """The scenarios that the test expects, and which requests matched them."""
        self._journal: list[Exchange] = []

    @property
    def journal(self) -> tuple[Exchange, ...]:
        """All requests so far, in the order in which they arrived."""
        return tuple(self._journal)

    def scenario(self, name: str, *, times: int = 1) -> None:
        """Expect requests that match a scenario, and answer them with it.

        After the first call, every request must match a scenario. One that matches none gets a
        400 that explains the mismatch, and fails the test.

        Args:
            name: One of `pytest_image_variation.scenarios.SCENARIOS`.
            times: How many times to play the scenario.

        Raises:
            ValueError: If the scenario does not exist, or `times` is not a positive integer.
        """
        self.expectations.expect(name, times)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r})"

    def add_to_journal(self, request: ReceivedRequest, headers: Mapping[str, str]) -> Exchange:
        """Add a request to the journal, and return its entry for the response."""
        lower_case = {name.lower(): value for name, value in headers.items()}
        exchange = Exchange(
            method=request.method,
            path=request.path,
            headers={k: v for k, v in lower_case.items() if k not in _SECRET_HEADERS},
            fields=request.form.fields,
            image=request.image,
            has_key=request.has_key,
        )
        self._journal.append(exchange)
        return exchange
