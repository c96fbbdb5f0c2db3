"""Cross-origin requests: lets web pages of other origins call the server and read its answers."""

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from langchain_image_variation.exceptions import PermissionDeniedError, excerpt
from langchain_image_variation.server.envelope import error_answer

__all__ = ["CORS"]


class CORS(CORSMiddleware):
    """An ASGI middleware for the CORS protocol of the Fetch standard.

    Pages may send any header and read any header. They cannot send cookies, which the server does
    not use: a page sends its key in a header.

    Args:
        app: The app inside.
        origins: The origins of the pages, as browsers send them, or "*" for all.
    """

    def __init__(self, app: ASGIApp, *, origins: Collection[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=["*"],
            # SDKs send many headers. "*" does not include Authorization, so each
            # header that a page asks for is named in the answer.
            allow_headers=["*"],
            # Browsers ask for this before a public page may call an address in a private network.
            allow_private_network=True,
            expose_headers=["*"],
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """Return the answer to a browser that asks whether a page may send a request."""
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        origin, method = request_headers["origin"], request_headers["access-control-request-method"]
        if self.is_allowed_origin(origin):
            reason = f"Web pages cannot send the method {excerpt(method)}."
        else:
            reason = (
                f"Web pages of the origin {excerpt(origin)} cannot call this server. If it is "
                "yours, allow it: --cors-origin ORIGIN, or create_app(cors_origins=[ORIGIN])."
            )
        refusal = error_answer(PermissionDeniedError(reason))
        refusal.headers["vary"] = response.headers.get("vary", "Origin")
        return refusal
