"""The errors of images that a stopped or cancelled request does not make."""

from langchain_image_variation.exceptions import EngineError

__all__ = ["CancelledJobError", "UnsentCallError"]


class UnsentCallError(EngineError):
    """Raised instead of a call that the request no longer needs."""

    def __init__(self, title: str) -> None:
        super().__init__(f"Interrupted before the call to {title} was sent. It costs nothing.")


class CancelledJobError(EngineError):
    """Raised in a call whose job is then cancelled."""

    def __init__(self, title: str) -> None:
        super().__init__(f"Interrupted: a job at {title} was cancelled, so it may not be billed.")
