"""`RequestIDs`: uses Serve's ID for each request instead of a second one."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from langchain_image_variation.server.envelope import LOGGED_ID, REQUEST_ID_KEY

__all__ = ["RequestIDs"]

_HEADER = b"x-request-id"


class RequestIDs:
    """An ASGI app that gives requests the ID of Serve.

    Serve's proxy takes the ID from the client's header, or makes one. It passes the ID on in the
    same header, and sends it with every answer. So the app must not send another.

    Args:
        app: The app inside.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = dict(scope["headers"]).get(_HEADER, b"")
        if LOGGED_ID.fullmatch(request_id):
            scope.setdefault("state", {})[REQUEST_ID_KEY] = request_id.decode()

        async def send_without_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [pair for pair in message["headers"] if pair[0].lower() != _HEADER]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, send_without_id)
