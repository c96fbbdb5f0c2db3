"""The errors of images that a stopped or cancelled request does not make."""

from langchain_image_variation.exceptions import EngineError

__all__ = [
    "CancelledJobError",
    "RunningCallError",
    "UnsentCallError",
    "cancelled_job_error",
    "running_call_error",
    "unsent_call_error",
]


class UnsentCallError(EngineError):
    """Raised instead of a call that the request no longer needs."""


class CancelledJobError(EngineError):
    """Raised in a call whose job was cancelled."""


class RunningCallError(EngineError):
    """Raised if a call that was sent neither ends in time nor can be cancelled."""


# Functions, because an error can be pickled only if its class takes a message.


def unsent_call_error(title: str) -> UnsentCallError:
    """Return the error of a call that was not sent to a service."""
    return UnsentCallError(f"Interrupted before the call to {title} was sent. It costs nothing.")


def cancelled_job_error(title: str) -> CancelledJobError:
    """Return the error of a call whose job was cancelled by a service."""
    return CancelledJobError(
        f"Interrupted: a job at {title} was cancelled, so it may not be billed."
    )


def running_call_error(title: str) -> RunningCallError:
    """Return the error of a call that a service works on, although nobody waits for it."""
    return RunningCallError(
        f"Interrupted: a call to {title} could not be stopped, so it is probably billed."
    )
