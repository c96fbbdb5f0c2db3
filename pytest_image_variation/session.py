"""What a test holds of whatever answers it: an address, a journal, and the scenarios it expects."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_image_variation.expectations import Asked, Expectations
from pytest_image_variation.forms import Picture

__all__ = ["Exchange", "Session"]

_SECRET = {
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
    """A request, and what came of it."""

    method: str
    path: str
    """The path below the server's root, such as "/v1/images/variations"."""
    headers: Mapping[str, str] = field(repr=False)
    """Names in lower case; keys, cookies, organisation and project are left out."""
    fields: Mapping[str, str]
    """The form fields beside the picture, as they were sent."""
    picture: Picture | None
    """The picture's size in pixels, mode and hash, if the request had one."""
    has_key: bool = False
    """Whether a key was sent."""
    scenario: str | None = None
    """The scenario by which it was answered, or None for the server's own answer."""
    status: int | None = None
    """The status of the answer, once it is sent."""


class Session:
    """A test's own view of the server on loopback, of the cassettes, or of a live server.

    Args:
        base_url: What to give a client: up to and with "/v1".
        api_key: A key to give it.
    """

    def __init__(self, base_url: str, api_key: str) -> None:
        self.base_url = base_url
        """What to give a client: up to and with "/v1"."""
        self.api_key = api_key
        """A key to give a client that wants one."""
        self.expectations = Expectations()
        """What was asked for, and what came of it."""
        self._journal: list[Exchange] = []

    @property
    def journal(self) -> tuple[Exchange, ...]:
        """The requests so far, in the order in which they came."""
        return tuple(self._journal)

    def scenario(self, name: str, *, times: int = 1) -> None:
        """Expect requests that fit a scenario, and answer them by it.

        From now on, a request that fits no scenario is unexpected: it is answered with a 400 that
        says why, and fails the test.

        Args:
            name: One of `pytest_image_variation.scenarios.SCENARIOS`.
            times: How often.

        Raises:
            ValueError: If there is no such scenario, or `times` is no whole number from 1.
        """
        self.expectations.expect(name, times)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r})"

    def enter(self, asked: Asked, headers: Mapping[str, str]) -> Exchange:
        """Begin the journal's entry of a request."""
        kept = {name.lower(): value for name, value in headers.items()}
        exchange = Exchange(
            method=asked.method,
            path=asked.path,
            headers={name: value for name, value in kept.items() if name not in _SECRET},
            fields=asked.form.fields,
            picture=asked.picture,
            has_key=asked.has_key,
        )
        self._journal.append(exchange)
        return exchange
