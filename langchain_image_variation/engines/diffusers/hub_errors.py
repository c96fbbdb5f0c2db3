"""Turns failures of the Hub and of the cache into errors of the tree, each with a next step."""

import errno
import os
import shlex
from typing import Any
from urllib.parse import urlsplit

from langchain_image_variation.error_translation import ErrorTranslation
from langchain_image_variation.exceptions import (
    AuthenticationError,
    EngineConnectionError,
    EngineError,
    EngineTimeoutError,
    ImageVariationError,
    ModelNotDownloadedError,
    ModelNotFoundError,
    OutputError,
    PermissionDeniedError,
    RateLimitError,
    excerpt,
)

__all__ = [
    "ANOTHER_FOLDER",
    "half_precision_error",
    "hub_page",
    "kinds",
    "pull_command",
    "status_code",
    "translate_hub_errors",
    "unwritable_cache_error",
]

ANOTHER_FOLDER = "set HF_HUB_CACHE to another folder"

_CONTINUE = "A download continues where it stopped, so try again."
_MAX_WAIT = 3600.0
"""The longest wait in seconds that an error repeats from the Hub's `Retry-After`."""


def hub_page(repository: str, endpoint: str | None) -> str:
    """Return the address of a repository's page at the Hub."""
    from huggingface_hub import constants

    return f"{endpoint or constants.ENDPOINT}/{repository}"


def translate_hub_errors(
    model: str, repository: str, revision: str, *, endpoint: str | None = None
) -> ErrorTranslation:
    """Return a context manager that replaces every error of the Hub's library and of the disk.

    Args:
        model: The name of the model, as the user knows it.
        repository: The repository that is read, as "owner/name".
        revision: The commit, tag or branch that is read.
        endpoint: The Hub's address, or None for the default.
    """
    translator = _Translator(model, repository, revision, endpoint)
    return ErrorTranslation(translator.make_error)


class _Translator:
    def __init__(self, model: str, repository: str, revision: str, endpoint: str | None) -> None:
        self._model, self._repository, self._revision = model, repository, revision
        self._page = hub_page(repository, endpoint)
        self._host = urlsplit(self._page).netloc.rpartition("@")[2]

    def make_error(self, error: Exception) -> ImageVariationError:
        """Return the error for one of the library or of the operating system."""
        # The library hides some errors behind one that says only that a file is not in the cache.
        cause = error.__cause__
        if isinstance(cause, Exception) and "LocalEntryNotFoundError" in kinds(error):
            error = cause
        status = status_code(error)
        if status is not None:
            return self._refusal(error, status)
        names = kinds(error)
        if "OfflineModeIsEnabled" in names:
            return self._offline()
        if "HFValidationError" in names:
            return ModelNotFoundError(
                f"{excerpt(self._repository)} is not the name of a repository, such as "
                "'owner/name'."
            )
        if "TimeoutException" in names:
            return EngineTimeoutError(
                f"{self._host} sent nothing for too long while the model {self._model!r} was "
                f"downloaded. {_CONTINUE} On a slow connection, set HF_HUB_DOWNLOAD_TIMEOUT to "
                "more seconds."
            )
        if names & {"ConnectError", "ProxyError", "UnsupportedProtocol"}:
            return self._unreachable(error)
        if "HTTPError" in names or "Consistency check failed" in str(error):
            return EngineConnectionError(
                f"The connection to {self._host} broke while the model {self._model!r} was "
                f"downloaded. {_CONTINUE}"
            )
        if isinstance(error, OSError):
            return self._disk_error(error)
        return EngineError(
            f"The model {self._model!r} cannot be read from the repository {self._repository!r}: "
            f"{type(error).__name__}."
        )

    def _refusal(self, error: Exception, status: int) -> ImageVariationError:
        """Return the error for an answer of the Hub that is not a success."""
        response: Any = error.response  # type: ignore[attr-defined]  # the caller has checked it
        code = response.headers.get("X-Error-Code")
        text = response.headers.get("X-Error-Message") or ""
        if code == "GatedRepo":
            return self._gated(status)
        if status == 401 and "Invalid credentials" in text:
            return AuthenticationError(
                f"{self._host} refuses your token. Set HF_TOKEN to a valid one, or run: hf auth "
                "login."
            )
        if status == 401:
            # The Hub does not say whether a repository exists to those who may not see it.
            return AuthenticationError(
                f"The repository {self._repository!r} does not exist, or is private. Check its "
                f"name. If it is private, set HF_TOKEN to a token that may read it, or run: hf "
                "auth login."
            )
        if status == 403:
            return PermissionDeniedError(
                f"{self._host} does not let you read the repository {self._repository!r}. Look at "
                f"{self._page}, and check what the token in HF_TOKEN may read."
            )
        if code == "RevisionNotFound":
            return ModelNotFoundError(
                f"The repository {self._repository!r} has no revision {self._revision!r}. Its page "
                f"lists them: {self._page}"
            )
        if status == 404:
            return ModelNotFoundError(
                f"{self._host} has no repository {self._repository!r}, or it lacks a file of the "
                f"model {self._model!r}. Check the name."
            )
        if status == 429:
            return RateLimitError(
                f"{self._host} gets too many requests from you. Wait, then try again. With a token "
                "in HF_TOKEN, it allows more.",
                retry_after=_retry_after(response),
            )
        if status >= 500:
            return EngineConnectionError(
                f"{self._host} failed with HTTP {status} while the model {self._model!r} was "
                "downloaded. Try again later: a download continues where it stopped."
            )
        return EngineError(
            f"{self._host} answered HTTP {status} when asked for the model {self._model!r}."
        )

    def _gated(self, status: int) -> ImageVariationError:
        accept = f"Accept its license at {self._page}"
        if status == 401:
            return AuthenticationError(
                f"The model {self._model!r} is gated: its owner wants to know who uses it. "
                f"{accept}, then set HF_TOKEN to a token of your account, or run: hf auth login."
            )
        return PermissionDeniedError(
            f"The model {self._model!r} is gated, and your account has no access yet. {accept}, "
            "with the account that the token in HF_TOKEN belongs to."
        )

    def _offline(self) -> ImageVariationError:
        return ModelNotDownloadedError(
            f"The model {self._model!r} is not on this machine, and HF_HUB_OFFLINE is set, "
            "so it cannot be downloaded.",
            hint="Unset HF_HUB_OFFLINE, or copy the cache of a machine that has the model.",
        )

    def _unreachable(self, error: Exception) -> ImageVariationError:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return EngineConnectionError(
                f"The certificate of {self._host} cannot be verified. If your network inspects "
                "traffic, set SSL_CERT_FILE to its certificates."
            )
        return EngineConnectionError(
            f"{self._host} cannot be reached, so the model {self._model!r} cannot be downloaded. "
            f"Check the network, and the proxy in HTTPS_PROXY. {_CONTINUE} On a machine without a "
            "network, copy the cache of a machine that has the model. HF_ENDPOINT names a mirror."
        )

    def _disk_error(self, error: OSError) -> ImageVariationError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return OutputError(
                f"The disk is full, so the model {self._model!r} is incomplete. Free some space, "
                f"or {ANOTHER_FOLDER}. {_CONTINUE}"
            )
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            return unwritable_cache_error()
        reason = os.strerror(error.errno) if error.errno else type(error).__name__
        return OutputError(
            f"The files of the model {self._model!r} cannot be written: {reason}. Check the folder "
            f"for models, or {ANOTHER_FOLDER}."
        )


def unwritable_cache_error() -> OutputError:
    """Return the error for a cache that cannot be written to."""
    return OutputError(
        f"The folder for models cannot be written to. Change its permissions, or {ANOTHER_FOLDER}."
    )


def pull_command(model: str, revision: str | None, *, dtype: str | None = None) -> str:
    """Return the command that downloads a model, for messages.

    Args:
        model: Its name.
        revision: The revision that the user named, if any.
        dtype: The type of numbers whose files are needed, if not that of this machine.
    """
    options = {"--revision": revision, "--dtype": dtype}
    words = [word for name, value in options.items() if value for word in (name, value)]
    return shlex.join(["image-variation", "pull", model, *words])


def half_precision_error(model: str, revision: str | None) -> ModelNotDownloadedError:
    """Return the error for a model that needs other files than those in half precision.

    Args:
        model: Its name.
        revision: The revision that the user named, if any.
    """
    from huggingface_hub import constants

    problem = f"The model {model!r} is on this machine in half precision only"
    command = pull_command(model, revision, dtype="float32")
    if not constants.HF_HUB_OFFLINE:
        return ModelNotDownloadedError(
            f"{problem}.", hint=f"Run `{command}`, or pass download=True."
        )
    return ModelNotDownloadedError(
        f"{problem}, and HF_HUB_OFFLINE is set, so the other files cannot be downloaded.",
        hint=f"Run `{command}` on a machine with a network, and copy its cache. Or use a GPU that "
        "computes in float16.",
    )


def kinds(error: Exception) -> frozenset[str]:
    """Return the names of an error's classes.

    Version 1 of the Hub's library raises errors of httpx, version 2 those of httpx2.
    """
    return frozenset(kind.__name__ for kind in type(error).__mro__)


def status_code(error: Exception) -> int | None:
    """Return the HTTP status of an answer that the library raised as an error, or None."""
    response = getattr(error, "response", None)
    return getattr(response, "status_code", None)


def _retry_after(response: Any) -> float | None:
    try:
        seconds = float(response.headers.get("Retry-After", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds <= _MAX_WAIT else None
