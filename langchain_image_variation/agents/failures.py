"""Separates a model's mistakes, which it can correct, from failures, which are for developers."""

import contextlib
import sys
from collections.abc import Callable, Set
from types import TracebackType
from typing import Self

from langchain_image_variation import exceptions
from langchain_image_variation.agents.arguments import Exposable
from langchain_image_variation.agents.conversation import Conversation
from langchain_image_variation.agents.failure_log import log_failure, log_refusal
from langchain_image_variation.exceptions import (
    AuthenticationError,
    BillingLimitError,
    ContentPolicyError,
    DownloadError,
    EndpointRemovedError,
    EngineConnectionError,
    EngineError,
    EngineNotFoundError,
    EngineTimeoutError,
    ImageVariationError,
    InvalidImageError,
    InvalidRequestError,
    MissingExtraError,
    ModelNotDownloadedError,
    NotFoundError,
    OutputError,
    PayloadTooLargeError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitError,
    ServiceUnavailableError,
    ToolCallError,
)

__all__ = ["ToolErrorTranslation", "text_for_model"]

_LATER = "Try again later, or tell the user."
_NOT_SET_UP = (
    "This tool is not set up correctly. Calling it again will not help; tell the user that its "
    "operator must correct it."
)
_USED_UP = "The budget of this tool is used up. Calling it again will not help; tell the user."
_REFUSED = "The image engine did not accept this image. Vary another one, or tell the user."

_REFUSED_PROMPT = (
    "The image engine refused the image or the prompt because of its content. Change the prompt, "
    "vary another image, or tell the user."
)

_TEXTS: dict[type[ImageVariationError], str] = {
    ImageVariationError: f"The tool failed. {_LATER}",
    InvalidRequestError: _NOT_SET_UP,
    InvalidImageError: _REFUSED,
    ContentPolicyError: (
        "The image engine refused this image because of its content. Vary another one, or tell the "
        "user."
    ),
    BillingLimitError: _USED_UP,
    EngineNotFoundError: _NOT_SET_UP,
    AuthenticationError: _NOT_SET_UP,
    PermissionDeniedError: _NOT_SET_UP,
    NotFoundError: _NOT_SET_UP,
    EndpointRemovedError: _NOT_SET_UP,
    PayloadTooLargeError: _REFUSED,
    RateLimitError: f"The image engine has too many requests at the moment. {_LATER}",
    QuotaExceededError: _USED_UP,
    EngineError: f"The image engine failed. {_LATER}",
    EngineConnectionError: f"The image engine could not be reached. {_LATER}",
    EngineTimeoutError: f"The image engine did not answer in time. {_LATER}",
    MissingExtraError: _NOT_SET_UP,
    ModelNotDownloadedError: _NOT_SET_UP,
    OutputError: f"Images could not be read or saved. {_LATER}",
    DownloadError: f"The new images could not be downloaded. {_LATER}",
    ServiceUnavailableError: f"The image engine is not ready. {_LATER}",
}
"""The text for the model about a failure, by class. A class without a text has its base's text."""


class ToolErrorTranslation:
    """A context manager that replaces each error of a call with one whose text a model may read.

    - A *mistake of the model* is a `ToolCallError`, or a `ContentPolicyError` of an engine. An
      answer replaces it: an error of the class that the framework shows to the model.
    - Anything else is a *failure*. It is logged. An error of the same class and with the same
      attributes replaces it, whose message says only what a model can do, because retries put the
      text of an error into a message. An error from outside the tree becomes an `EngineError`.

    Both have the original error as `__cause__`. Exceptions that are not errors pass through:
    `KeyboardInterrupt`, the one that cancels a task, and the one with which LangGraph pauses a
    graph. This is a class for the same reason as `ErrorTranslation`.

    Args:
        raise_on: The classes of failures that are raised. Other failures become answers too.
        answer: Makes an answer from its text.
        exposed: The arguments that the model may set. An engine may refuse its prompt.
    """

    def __init__(
        self,
        raise_on: tuple[type[Exception], ...],
        answer: Callable[[str], Exception],
        exposed: Set[Exposable],
    ) -> None:
        self._raise_on, self._answer, self._exposed = raise_on, answer, exposed
        self.conversation: Conversation | None = None
        """The conversation of the call, once it is known. The log names its folder."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception) and not _controls_graph(error):
            raise self._replacement(error) from error

    def _replacement(self, error: Exception) -> Exception:
        if isinstance(error, ToolCallError):
            return self._answer(error.message)
        folder = self.conversation.scope if self.conversation is not None else None
        if isinstance(error, ContentPolicyError):
            log_refusal(error, folder)
            with_prompt = "prompt" in self._exposed
            return self._answer(_REFUSED_PROMPT if with_prompt else text_for_model(error))
        log_failure(error, folder)
        failure = _with_text_for_model(error)
        return failure if isinstance(failure, self._raise_on) else self._answer(failure.message)


def _controls_graph(error: Exception) -> bool:
    """Return whether LangGraph raised an exception to pause or redirect a graph.

    LangGraph is not imported here: if it raised an exception, it is imported already.
    """
    module = sys.modules.get("langgraph.errors")
    signal_class = getattr(module, "GraphBubbleUp", None)
    return isinstance(signal_class, type) and isinstance(error, signal_class)


def text_for_model(error: ImageVariationError) -> str:
    """Return the text for the model about a failure: what it can do, without a developer's hint."""
    return next(_TEXTS[base] for base in type(error).__mro__ if base in _TEXTS)


def _with_text_for_model(error: Exception) -> ImageVariationError:
    """Return an error of the same class with the text for the model."""
    if not isinstance(error, ImageVariationError):
        return EngineError(_TEXTS[ImageVariationError])
    # A developer's subclass may make its own text, which may contain anything, or fail to do so.
    with contextlib.suppress(Exception):
        copy = _copy(error, type(error))
        if str(copy) == copy.message == text_for_model(error):
            return copy
    tree = vars(exceptions).values()
    return _copy(error, next(base for base in type(error).__mro__ if base in tree))


def _copy(
    error: ImageVariationError, error_class: type[ImageVariationError]
) -> ImageVariationError:
    text = text_for_model(error)
    # The constructors of a developer's subclass may have other parameters.
    copy = Exception.__new__(error_class, text)
    vars(copy).update({**vars(error), "message": text, "hint": None})
    return copy
