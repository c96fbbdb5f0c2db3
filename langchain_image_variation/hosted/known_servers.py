"""The servers that the `variations` engine knows by name, and what each of them can do."""

from dataclasses import dataclass

from langchain_image_variation.contract import MAX_N, ResponseFormat
from langchain_image_variation.exceptions import InvalidRequestError, excerpt
from langchain_image_variation.hosted.settings import check_base_url

__all__ = ["SERVERS", "UNKNOWN_SERVER", "Server", "server_by_name", "server_by_url"]


@dataclass(frozen=True, slots=True)
class Server:
    """A server that offers image variations, according to its own documentation or source."""

    title: str
    base_url: str | None = None
    """Its address, if it runs at a fixed address or usually on one local port."""
    host: str | None = None
    """The host that identifies it in a base URL."""
    model: str | None = None
    """The model to use by default."""
    needs_model: bool = False
    """Whether every request must name one of its models."""
    max_n: int = MAX_N
    """The maximum number of images it makes in one call."""
    key_variable: str | None = None
    """The environment variable that holds its key, if it needs one."""
    response_format: ResponseFormat | None = None
    """The only form that it returns, or the only one that a client can read."""


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
    # Its `url` is a path on the server's disk.
    "xinference": Server(
        "Xinference",
        base_url="http://localhost:9997/v1",
        needs_model=True,
        response_format="b64_json",
    ),
}
"""The servers by name."""

UNKNOWN_SERVER = Server("The server")
"""Any other server. Nothing is assumed about it."""


def server_by_name(name: str) -> Server:
    """Return a server by its name.

    Raises:
        InvalidRequestError: If no server has that name.
    """
    if name not in SERVERS:
        raise InvalidRequestError(
            f"server must be one of {', '.join(map(repr, SERVERS))}, got {excerpt(name)}; for any "
            "other server, pass base_url alone.",
            param="server",
        )
    return SERVERS[name]


def server_by_url(base_url: str | None) -> Server:
    """Return the server that a base URL leads to, or `UNKNOWN_SERVER`.

    Raises:
        InvalidRequestError: If the base URL is not an http or https URL.
    """
    host = None if base_url is None else check_base_url(base_url).host
    for server in SERVERS.values():
        if server.host is not None and server.host == host:
            return server
    return UNKNOWN_SERVER
