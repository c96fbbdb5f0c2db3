"""TLS: which certificates are trusted, and why one is not."""

import os
import ssl
from functools import lru_cache

import httpx

from langchain_image_variation.exceptions import InvalidRequestError

__all__ = ["describe_tls_failure", "ssl_context"]

_FILE, _FOLDER, _KEY_LOG = "SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"


def ssl_context() -> ssl.SSLContext:
    """Return httpx's default context. The environment may name the certificates to trust.

    Raises:
        InvalidRequestError: If an environment variable names no certificates, or a file that cannot
            be opened; `param` names the variable.
    """
    return _new_context(os.environ.get(_FILE), os.environ.get(_FOLDER), os.environ.get(_KEY_LOG))


# Creating a context reads about 150 certificates, which takes longer than a request.
@lru_cache(maxsize=4)
def _new_context(file: str | None, folder: str | None, key_log: str | None) -> ssl.SSLContext:
    # OpenSSL takes a list of folders, and ignores those that do not exist.
    if folder and not file and not any(map(os.path.isdir, folder.split(os.pathsep))):
        raise _environment_error(_FOLDER, "a folder with certificates, prepared by c_rehash")
    try:
        if file:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except (OSError, ValueError):
        raise _environment_error(_FILE, "a file with certificates in PEM format") from None
    try:
        return httpx.create_ssl_context()
    except (OSError, ValueError):
        if key_log:
            raise _environment_error(_KEY_LOG, "a writable file") from None
        raise InvalidRequestError(
            "The certificates of the package certifi cannot be read; reinstall it, or set "
            f"{_FILE}.",
            param=_FILE,
        ) from None


def _environment_error(name: str, content: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"The environment variable {name} must name {content}. Correct it or unset it.", param=name
    )


def describe_tls_failure(error: BaseException) -> str | None:
    """Return what is wrong with a server's certificate, and what to do about it.

    Args:
        error: Why a connection failed.

    Returns:
        The end of a sentence that begins with the server's name, or None if TLS did not fail.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _CERTIFICATE_FAILURES.get(cause.verify_code, _OTHER_CERTIFICATE_FAILURE)
        if isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return None  # The server hung up.
        if isinstance(cause, ssl.SSLError):
            return (
                "does not speak TLS, or no version that this machine accepts; is https right in "
                "its address?"
            )
        cause = cause.__cause__ or cause.__context__
    return None


_OTHER_CERTIFICATE_FAILURE = "has a certificate that is not valid; ask its operators to fix it."
_UNTRUSTED = (
    f"has a certificate whose issuer is not trusted; if you trust it, set {_FILE} to a file with "
    "its certificate."
)
_OTHER_NAME = "has a certificate for another name; check the host in its address."
_CERTIFICATE_FAILURES = {
    9: "has a certificate that is not valid yet; check the clock of this machine.",
    10: "has a certificate that has expired; ask its operators to renew it.",
    18: f"has a self-signed certificate; if you trust it, set {_FILE} to a file that contains it.",
    19: _UNTRUSTED,
    20: _UNTRUSTED,
    21: _UNTRUSTED,
    62: _OTHER_NAME,
    64: _OTHER_NAME,
}
"""By the codes X509_V_ERR_* of OpenSSL (x509_vfy.h)."""
