"""Refuses new work while the server shuts down."""

from starlette.requests import Request

from langchain_image_variation.exceptions import ServiceUnavailableError

__all__ = ["refuse_while_draining"]


def refuse_while_draining(request: Request) -> None:
    """Refuse a request while the server shuts down.

    Raises:
        ServiceUnavailableError: If the server has received SIGTERM or SIGINT.
    """
    if request.app.state.is_draining:
        raise ServiceUnavailableError(
            "The server is shutting down. Try again later, or use another server."
        )
