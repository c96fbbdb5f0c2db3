"""The error tree. Every error this project raises on purpose is one of these.

ImageVariationError
 +-- InvalidRequestError            400  a field breaks a rule of the contract
 |    +-- InvalidImageError              the picture is no square PNG under 4 MB
 |    +-- SourceError                    what was passed as an image cannot be read
 |    +-- ModelNotFoundError             the engine has no such model
 |    +-- ContentPolicyError             the engine refuses the picture
 |    +-- BillingLimitError              the account's budget is used up
 |    +-- EngineNotFoundError            no installed engine has that name
 +-- AuthenticationError            401  the key is missing or wrong
 +-- PermissionDeniedError          403  the key is right, but may not do this
 +-- NotFoundError                  404  there is no such address
 |    +-- EndpointRemovedError           the host has no image variations (any more)
 +-- ConflictError                  409  another request stands in the way
 +-- PayloadTooLargeError           413  the body cannot be legal at this length
 +-- RateLimitError                 429  too many requests; wait and try again
 |    +-- QuotaExceededError             the plan's quota is used up; waiting does not help
 +-- EngineError                    500  the engine failed
 |    +-- EngineConnectionError     502  the engine's server cannot be reached, or hung up
 |    |    +-- EngineTimeoutError   504  it did not answer in time
 |    +-- EngineResponseError            it answered with something that is no answer
 |    +-- MissingExtraError              an optional dependency is not installed
 +-- OutputError                    500  a result cannot be decoded or written
 |    +-- DownloadError                  a picture cannot be downloaded
 |         +-- ExpiredURLError      403  the picture's signed URL is no longer valid
 +-- ServiceUnavailableError        503  the engine is not ready, or draining

Each class carries the `status_code`, `type`, `code` and `param` it has on the wire, so that an
error becomes an HTTP error body and is read back as the same class (`error_from_wire`). Statuses,
types and codes are those recorded from the vendor's image endpoints where such a recording exists.
The vendor's image endpoints mostly left `param` null; ours name the field.
"""

from collections.abc import Iterator
from typing import ClassVar

__all__ = [
    "AuthenticationError",
    "BillingLimitError",
    "ConflictError",
    "ContentPolicyError",
    "DownloadError",
    "EndpointRemovedError",
    "EngineConnectionError",
    "EngineError",
    "EngineNotFoundError",
    "EngineResponseError",
    "EngineTimeoutError",
    "ExpiredURLError",
    "ImageVariationError",
    "InvalidImageError",
    "InvalidRequestError",
    "MissingExtraError",
    "ModelNotFoundError",
    "NotFoundError",
    "OutputError",
    "PayloadTooLargeError",
    "PermissionDeniedError",
    "QuotaExceededError",
    "RateLimitError",
    "ServiceUnavailableError",
    "SourceError",
    "error_from_wire",
    "shown",
]


class ImageVariationError(Exception):
    """The root of the tree. Raised itself only for a status that no class below stands for.

    Attributes:
        message: One sentence or two naming the value, the limit and the next step.
        status_code: The HTTP status of this error on the wire.
        type: The wire's `type`.
        code: The wire's `code`, or None.
        param: The request field at fault, or None.
        request_id: The server's name for the request, which its operators will ask for, or None.
        retry_after: The seconds after which the server says to try again, or None.
    """

    default_status_code: ClassVar[int] = 500
    default_type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None
    default_param: ClassVar[str | None] = None

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status_code = self.default_status_code
        self.type = self.default_type
        self.code = self.default_code
        self.param = param if param is not None else self.default_param
        self.request_id: str | None = None
        self.retry_after: float | None = None


# The request is at fault...


class InvalidRequestError(ImageVariationError):
    """A field of the request breaks a rule of the contract, or an option is out of range."""

    default_status_code = 400
    default_type = "invalid_request_error"


class InvalidImageError(InvalidRequestError):
    """The picture is no valid PNG, not square, not under 4 MB, or cannot be decoded."""

    default_code = "invalid_image_format"
    default_param = "image"


class SourceError(InvalidRequestError):
    """What was passed as an image cannot be read: no such file, a folder, an unknown format."""

    default_code = "invalid_source"
    default_param = "image"


class ModelNotFoundError(InvalidRequestError):
    """The engine offers no model of that name."""

    default_code = "model_not_found"
    default_param = "model"


class ContentPolicyError(InvalidRequestError):
    """The engine refuses the picture for what it shows."""

    default_code = "content_policy_violation"


class BillingLimitError(InvalidRequestError):
    """The account's hard budget limit is reached. The vendor answers 400 here, not 429."""

    default_code = "billing_hard_limit_reached"


class EngineNotFoundError(InvalidRequestError):
    """No installed engine has that name."""

    default_code = "engine_not_found"
    default_param = "engine"


# Access, addresses and load...


class AuthenticationError(ImageVariationError):
    """The key is missing or wrong."""

    default_status_code = 401
    default_type = "invalid_request_error"
    default_code = "invalid_api_key"


class PermissionDeniedError(ImageVariationError):
    """The key is valid but may not do this."""

    default_status_code = 403
    default_type = "invalid_request_error"


class NotFoundError(ImageVariationError):
    """Nothing answers at this address."""

    default_status_code = 404
    default_type = "invalid_request_error"


class EndpointRemovedError(NotFoundError):
    """The host answers, but has no image variations: the vendor removed them in May 2026."""

    default_code = "endpoint_removed"


class ConflictError(ImageVariationError):
    """The request contradicts one that is running or was answered."""

    default_status_code = 409
    default_type = "invalid_request_error"


class PayloadTooLargeError(ImageVariationError):
    """The body is longer than any legal request."""

    default_status_code = 413
    default_type = "invalid_request_error"


class RateLimitError(ImageVariationError):
    """Too many requests. Waiting helps."""

    default_status_code = 429
    default_type = "requests"
    default_code = "rate_limit_exceeded"


class QuotaExceededError(RateLimitError):
    """The plan's quota is used up. Waiting does not help."""

    default_type = "insufficient_quota"
    default_code = "insufficient_quota"


# The engine is at fault...


class EngineError(ImageVariationError):
    """The engine could not make the variations."""


class EngineConnectionError(EngineError):
    """The engine's server cannot be reached, or hung up before it had answered."""

    default_status_code = 502
    default_code = "connection_failed"


class EngineTimeoutError(EngineConnectionError):
    """The engine's server, or a gateway before it, did not answer in time."""

    default_status_code = 504
    default_code = "timeout"


class EngineResponseError(EngineError):
    """The engine's server answered with something that is no answer to the request."""

    default_code = "invalid_response"


class MissingExtraError(EngineError, ImportError):
    """An optional dependency is not installed. The message names the extra that brings it."""

    default_code = "missing_extra"

    @classmethod
    def for_package(cls, what: str, package: str | None, requirement: str) -> "MissingExtraError":
        """Return the error that says what needs a package, and how to install it.

        Args:
            what: What needs the package; the message begins with it.
            package: The name of the package that could not be imported, if it is known.
            requirement: What to install, such as "langchain-image-variation[ray]".
        """
        named = f"the package {package!r}" if package else "a package"
        return cls(
            f"{what} needs {named}, which is not installed. Run: pip install '{requirement}'"
        )


class OutputError(ImageVariationError):
    """A result holds no readable picture, or a file cannot be written."""

    default_code = "output_failed"


class DownloadError(OutputError):
    """A picture cannot be downloaded: refused by the address policy, unreachable or too large."""

    default_code = "download_failed"


class ExpiredURLError(DownloadError):
    """The signed URL of a picture is no longer valid; ask for the picture anew."""

    default_status_code = 403
    # As other 403s: a 403 of an unknown code is then never read back as this class.
    default_type = "invalid_request_error"
    default_code = "url_expired"


class ServiceUnavailableError(ImageVariationError):
    """The engine is not ready yet, or is shutting down."""

    default_status_code = 503


def shown(value: object) -> str:
    """Return a value as a message may show it: short, and never a whole picture in base64."""
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:20] + "…")
    if isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 10**12):
        return repr(value)
    return f"a value of type {type(value).__name__}"


def error_from_wire(
    status_code: int,
    message: str,
    *,
    type: str | None = None,
    code: str | None = None,
    param: str | None = None,
) -> ImageVariationError:
    """Return the error that a wire error body stands for.

    The class is found by `code`, then by `type` and status, then by status; 408 is an
    `EngineTimeoutError`, any other 4xx an `InvalidRequestError` and any other 5xx an `EngineError`.
    The error keeps what the wire said.

    Args:
        status_code: The HTTP status of the answer.
        message: The sentence of the body; an empty one becomes "HTTP <status>".
        type: The body's `type`, if it had one.
        code: The body's `code`, if it had one.
        param: The body's `param`, if it had one.
    """
    error = _class_for(status_code, type, code, param)(message or f"HTTP {status_code}")
    error.status_code = status_code
    error.type = type if type is not None else error.default_type
    error.code = code
    error.param = param
    return error


_ALIASES: dict[str | None, type[ImageVariationError]] = {
    "invalid_image": InvalidImageError,
    "missing_file_mimetype": InvalidImageError,
    "moderation_blocked": ContentPolicyError,
    "unsupported_file_mimetype": InvalidImageError,
}
"""Codes with which GPT Image says what has another code on the older endpoint."""


def _class_for(
    status_code: int, type: str | None, code: str | None, param: str | None
) -> type[ImageVariationError]:
    if (code, param) == ("invalid_value", "model"):
        # What the vendor says of its own retired models.
        return ModelNotFoundError
    if code in _ALIASES:
        return _ALIASES[code]
    if status_code == 408:
        return EngineTimeoutError
    classes = list(_subclasses(ImageVariationError))
    for known in classes:
        if code is not None and known.default_code == code:
            return known
    for known in classes:
        if (known.default_status_code, known.default_type) == (status_code, type):
            return known
    for known in classes:
        if known.default_status_code == status_code:
            return known
    if 400 <= status_code < 500:
        return InvalidRequestError
    return EngineError if status_code >= 500 else ImageVariationError


def _subclasses(base: type[ImageVariationError]) -> Iterator[type[ImageVariationError]]:
    """Yield this module's classes below `base`, the general before the special."""
    direct = [child for child in base.__subclasses__() if child.__module__ == __name__]
    yield from direct
    for child in direct:
        yield from _subclasses(child)
