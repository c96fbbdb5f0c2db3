"""The error tree: every error that this project raises on purpose is one of these classes.

ImageVariationError
 +-- InvalidRequestError            400  a field or an option is not valid
 |    +-- InvalidImageError              the image is corrupt, or breaks a rule of the contract
 |    +-- SourceError                    the source cannot be read as an image
 |    +-- ModelNotFoundError             the engine does not have this model
 |    +-- ContentPolicyError             the engine refuses the image because of its content
 |    +-- BillingLimitError              the account has reached its budget limit
 |    +-- EngineNotFoundError            no installed engine has this name
 |    +-- ToolCallError                  a model called the tool in a way that cannot work
 +-- AuthenticationError            401  the API key is missing or wrong
 +-- PermissionDeniedError          403  the API key does not allow this
 +-- NotFoundError                  404  the address does not exist
 |    +-- EndpointRemovedError           the host does not offer image variations
 +-- ConflictError                  409  the request conflicts with another request
 +-- PayloadTooLargeError           413  the body is longer than any valid request
 +-- RateLimitError                 429  too many requests: wait, then try again
 |    +-- QuotaExceededError             the plan's quota is used up: waiting does not help
 +-- EngineError                    500  the engine failed
 |    +-- EngineConnectionError     502  the engine's server cannot be reached, or hung up
 |    |    +-- EngineTimeoutError   504  the engine's server did not answer in time
 |    +-- EngineResponseError            the engine's server sent an unusable answer
 |    +-- MissingExtraError              an optional package is not installed
 |    +-- ModelNotDownloadedError        the files of the engine's model are not on this machine
 +-- OutputError                    500  a result cannot be read or written
 |    +-- DownloadError                  an image cannot be downloaded
 |         +-- ExpiredURLError      403  the image's signed URL has expired
 +-- ServiceUnavailableError        503  starting, shutting down, or out of room for images

Each error has the `status_code`, `type`, `code` and `param` of its HTTP error body. The server
writes the body from the error, and the client turns the body back into the same class
(`error_response`). Where a recording of the vendor's image endpoints exists, status, type and code
are the recorded ones. The vendor mostly left `param` null; we name the field.
"""

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
    "ModelNotDownloadedError",
    "ModelNotFoundError",
    "NotFoundError",
    "OutputError",
    "PayloadTooLargeError",
    "PermissionDeniedError",
    "QuotaExceededError",
    "RateLimitError",
    "ServiceUnavailableError",
    "SourceError",
    "ToolCallError",
    "excerpt",
    "install_command",
]


class ImageVariationError(Exception):
    """The base class. It is raised itself only for an HTTP status without a more specific class.

    Attributes:
        message: What is wrong, the limit, and what to do next, in one or two sentences.
        hint: The end of the message, if only a developer can follow it: an option or a permission
            that would help. Otherwise None.
        status_code: The HTTP status.
        type: The `type` in the error body.
        code: The `code` in the error body, or None.
        param: The request field at fault, or None.
        request_id: The server's ID for the request, or None. Quote it when you ask its operators.
        retry_after: How many seconds the server asks you to wait before you try again, or None.
    """

    default_status_code: ClassVar[int] = 500
    default_type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None
    default_param: ClassVar[str | None] = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        hint: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        full_message = f"{message} {hint}" if hint else message
        super().__init__(full_message)
        self.message = full_message
        self.hint = hint
        self.status_code = self.default_status_code
        self.type = self.default_type
        self.code = self.default_code
        self.param = param if param is not None else self.default_param
        self.request_id: str | None = None
        self.retry_after = retry_after

    @property
    def problem(self) -> str:
        """The message without the hint: what is wrong, for a user or a model."""
        return self.message.removesuffix(self.hint or "").rstrip()


# The request is at fault.


class InvalidRequestError(ImageVariationError):
    """Raised if a field of the request breaks a rule of the contract or an option is not valid."""

    default_status_code = 400
    default_type = "invalid_request_error"


class InvalidImageError(InvalidRequestError):
    """Raised if the image is corrupt, or is not a square PNG under 4 MB where one is required."""

    default_code = "invalid_image_format"
    default_param = "image"


class SourceError(InvalidRequestError):
    """Raised if the source cannot be read: a missing file, a folder, an unsupported format."""

    default_code = "invalid_source"
    default_param = "image"


class ModelNotFoundError(InvalidRequestError):
    """Raised if the engine does not have the requested model."""

    default_code = "model_not_found"
    default_param = "model"


class ContentPolicyError(InvalidRequestError):
    """Raised if the engine refuses the image because of its content."""

    default_code = "content_policy_violation"


class BillingLimitError(InvalidRequestError):
    """Raised if a limit on costs is reached: the account's budget, or `max_billed_calls`."""

    default_code = "billing_hard_limit_reached"


class EngineNotFoundError(InvalidRequestError):
    """Raised if no installed engine has the requested name."""

    default_code = "engine_not_found"
    default_param = "engine"


class ToolCallError(InvalidRequestError):
    """Raised if a model calls the tool in a way that cannot work, such as with an unknown image.

    The message is for the model. The tool answers with it, and the agent continues.
    """

    default_code = "invalid_tool_call"


# Access, addresses and load.


class AuthenticationError(ImageVariationError):
    """Raised if the API key is missing or wrong."""

    default_status_code = 401
    default_type = "invalid_request_error"
    default_code = "invalid_api_key"


class PermissionDeniedError(ImageVariationError):
    """Raised if the API key is valid but does not allow this request."""

    default_status_code = 403
    default_type = "invalid_request_error"


class NotFoundError(ImageVariationError):
    """Raised if the requested address does not exist."""

    default_status_code = 404
    default_type = "invalid_request_error"


class EndpointRemovedError(NotFoundError):
    """Raised if the host does not offer image variations; the vendor removed them in May 2026."""

    default_code = "endpoint_removed"


class ConflictError(ImageVariationError):
    """Raised if the request conflicts with one that is running or has been answered."""

    default_status_code = 409
    default_type = "invalid_request_error"


class PayloadTooLargeError(ImageVariationError):
    """Raised if the body is longer than any valid request."""

    default_status_code = 413
    default_type = "invalid_request_error"


class RateLimitError(ImageVariationError):
    """Raised if there are too many requests; wait, then try again."""

    default_status_code = 429
    default_type = "requests"
    default_code = "rate_limit_exceeded"


class QuotaExceededError(RateLimitError):
    """Raised if the plan's quota is used up; waiting does not help."""

    default_type = "insufficient_quota"
    default_code = "insufficient_quota"


# The engine is at fault.


class EngineError(ImageVariationError):
    """Raised if the engine fails to make the variations."""


class EngineConnectionError(EngineError):
    """Raised if the engine's server cannot be reached or closes the connection too early."""

    default_status_code = 502
    default_code = "connection_failed"


class EngineTimeoutError(EngineConnectionError):
    """Raised if the engine's server, or a gateway in front of it, does not answer in time."""

    default_status_code = 504
    default_code = "timeout"


class EngineResponseError(EngineError):
    """Raised if the engine's server sends an answer that does not fit the request."""

    default_code = "invalid_response"


class MissingExtraError(EngineError, ImportError):
    """Raised if an optional package is not installed; the message names the extra to install."""

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
            f"{what} needs {named}, which is not installed.",
            hint=f"Run: {install_command(requirement)}",
        )


class ModelNotDownloadedError(EngineError):
    """Raised if the files of the engine's model are not on this machine; download them first."""

    default_code = "model_not_downloaded"


class OutputError(ImageVariationError):
    """Raised if a result cannot be read, or a file cannot be written."""

    default_code = "output_failed"


class DownloadError(OutputError):
    """Raised if an image cannot be downloaded: not allowed, unreachable or too large."""

    default_code = "download_failed"


class ExpiredURLError(DownloadError):
    """Raised if the signed URL of an image has expired; request the image again."""

    default_status_code = 403
    # The same type as other 403s, so that a 403 with an unknown code does not become this class.
    default_type = "invalid_request_error"
    default_code = "url_expired"


class ServiceUnavailableError(ImageVariationError):
    """Raised if the server is shutting down or out of room, or the engine is not ready."""

    default_status_code = 503


def excerpt(value: object) -> str:
    """Return a short description of a value for a message, never a whole image in base64."""
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:20] + "…")
    if isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 10**20):
        return repr(value)
    return f"a value of type {type(value).__name__}"


def install_command(requirement: str) -> str:
    """Return the command that installs an extra, from the place its package came from.

    A package from an index is installed by its name. That is impossible for one from a checkout, a
    repository or a file: the index may not have it, or may have another one with that name.

    Args:
        requirement: The name of a package with an extra, such as "langchain-image-variation[ray]".
    """
    # Imported here because only errors need them.
    from json import loads
    from urllib.parse import urlsplit

    name, bracket, extras = requirement.partition("[")
    install = f"{_pip_command()} install"
    # https://packaging.python.org/specifications/direct-url/
    origin = loads(_direct_url(name) or "{}")
    url = urlsplit(origin.get("url", ""))
    if "dir_info" in origin:
        editable = "--editable " if origin["dir_info"].get("editable") else ""
        return f"{install} {editable}'.{bracket}{extras}', in the checkout of {name}"
    if url.scheme == "file":
        return f"{install} './{url.path.rpartition('/')[2]}{bracket}{extras}', in its folder"
    if url.scheme and url.username is None:
        source, revision = origin.get("vcs_info", {}), ""
        if source:
            revision = f"@{source['requested_revision']}" if "requested_revision" in source else ""
        prefix = f"{source['vcs']}+" if source else ""
        return f"{install} '{requirement} @ {prefix}{origin['url']}{revision}'"
    return f"{install} '{requirement}'"


def _pip_command() -> str:
    """Return "pip", or the path of this environment's pip if "pip" would be another one.

    The path is relative to the working directory. If the environment is not below it, it is "pip",
    because messages show no absolute path.
    """
    import sys
    from contextlib import suppress
    from pathlib import Path
    from shlex import quote
    from shutil import which

    programs = Path(sys.executable).parent
    own_pip, first_pip = which("pip", path=programs), which("pip")
    if own_pip is not None and (first_pip is None or Path(first_pip).parent != programs):
        with suppress(OSError, ValueError):
            return quote(str(Path(own_pip).relative_to(Path.cwd())))
    return "pip"


def _direct_url(name: str) -> str | None:
    """Return what the installer recorded about the origin of a package, in JSON."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        return distribution(name).read_text("direct_url.json")
    except (PackageNotFoundError, ValueError):
        return None
