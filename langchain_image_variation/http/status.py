"""What the status of an HTTP response says about sending the request again."""

__all__ = ["is_temporary"]

_TEMPORARY_STATUSES = {408, 409, 429}
_NOT_IMPLEMENTED = 501


def is_temporary(status: int) -> bool:
    """Return whether the same request may succeed later: 408, 409, 429, or 5xx other than 501."""
    return status in _TEMPORARY_STATUSES or (status >= 500 and status != _NOT_IMPLEMENTED)
