"""Logs failures of the tool, and hints for its developer, without secrets or image data."""

import logging
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType

from langchain_image_variation.exceptions import ContentPolicyError

__all__ = ["log_failure", "log_hint", "log_refusal", "log_unawaited_images"]

_LOGGER = logging.getLogger("langchain_image_variation.tool")

_MAX_TEXT = 2_000
"""The maximum number of characters of an error to log. Texts of libraries may contain a request."""

_MAX_SEARCHED = 10 * _MAX_TEXT
"""The maximum number of characters of an error that are searched for secrets."""

_MAX_CHAIN = 20
"""The maximum number of errors of a chain to log."""

_MAX_HINTS = 100
"""The number of hints to remember. Hints name files and hosts that users choose."""

_SECRETS: Mapping[re.Pattern[str], str] = MappingProxyType(
    {
        # Characters that control a terminal, end a line or reverse what follows.
        re.compile(
            r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]+"
        ): " ",
        # The user name, the password and the query of a URL.
        re.compile(r"(\w://)[^\s/@'\"]+@"): r"\1…@",
        re.compile(r"(\w://[^\s?'\"]{1,2000}\?)[^\s'\"]+"): r"\1…",
        # A header or a parameter, as text, JSON or Python.
        re.compile(r"(cookie['\"]?\s*[:=]\s*(?:b?['\"])?)[^\n'\"]+", re.IGNORECASE): r"\1…",
        re.compile(
            r"(authorization|(?:access|api)[-_]?key|\bkey|credentials?|passw(?:or)?d|secret|\bsig|"
            r"signature|token)(['\"]?\s*[:=]\s*)"
            r"(?:b?'[^'\n]{1,2000}'|b?\"[^\"\n]{1,2000}\"|"
            r"(?:b?['\"])?(?:(?:basic|bearer|key|token)\s+)?[^\s'\",;}\])]+)",
            re.IGNORECASE,
        ): r"\1\2…",
        # Keys of AWS, GitHub, Google, Hugging Face, OpenAI, Replicate and Slack.
        re.compile(
            r"\b(AIza|AKIA|gh[a-z]_|github_pat_|hf_|r8_|sk[-_]|xox[a-z]-|(?i:bearer) )[\w.*-]{6,}"
        ): r"\1…",
        # The bytes of a file as Python shows them, base64, perhaps in lines of 76 characters, and
        # numbers.
        re.compile(r"(?:\\{1,4}(?:x[0-9a-f]{2}|[nrt'\"])[^\\\n]{0,16}){8,}"): "…",
        re.compile(r"[A-Za-z0-9+/=_-]{60,}"): "…",
        re.compile(r"(?:\b\d{1,3},\s{0,2}){20,}"): "…",
    }
)
"""What is masked in the text of an error, and what replaces it."""


def log_failure(error: Exception, conversation_folder: str | None) -> None:
    """Log an error and its chain with their tracebacks, at the level ERROR.

    The texts are cut and masked, because errors of other libraries may contain anything. Handlers
    get stand-ins, which have the names, the frames and the chain of the errors.

    Args:
        error: The error.
        conversation_folder: The name of the conversation's own folder, if it has one. It is an
            attribute of the record.
    """
    _LOGGER.error(
        "The tool failed with %s: %s",
        type(error).__name__,
        " ".join(_masked_text(error).split()),
        exc_info=_stand_in(error, _MAX_CHAIN, set()),
        extra={"conversation_folder": conversation_folder},
    )


def log_refusal(error: ContentPolicyError, conversation_folder: str | None) -> None:
    """Log at the level INFO why an engine refused an image. The model does not learn the reason.

    Args:
        error: The refusal.
        conversation_folder: As for `log_failure`.
    """
    _LOGGER.info(
        "The engine refused an image: %s",
        _masked_text(error),
        extra={"conversation_folder": conversation_folder},
    )


def log_unawaited_images(handles: Sequence[str], conversation_folder: str | None) -> None:
    """Log at the level INFO what was saved although the call was cancelled or interrupted.

    Args:
        handles: The names of the results.
        conversation_folder: As for `log_failure`.
    """
    _LOGGER.info(
        "The call was cancelled or interrupted. Its finished images are saved, because they are "
        "paid for: %s.",
        ", ".join(handles),
        extra={"conversation_folder": conversation_folder},
    )


@lru_cache(maxsize=_MAX_HINTS)
def log_hint(text: str) -> None:
    """Log a hint for the developer at the level WARNING, once."""
    _LOGGER.warning("%s", _mask(text))


def _stand_in(error: BaseException, chain_length: int, known_ids: set[int]) -> Exception:
    """Return an exception that a traceback shows like another one, but with its text masked.

    Args:
        error: The other exception.
        chain_length: How many errors of the chain the stand-in may have.
        known_ids: The ids of the errors that have a stand-in. The chain and the members of an error
            are shown once: those of a group may lead back to the group.
    """
    if id(error) in known_ids:
        chain_length = 0
    known_ids.add(id(error))
    text, error_class = _masked_text(error), type(error)
    names = {"__module__": error_class.__module__, "__qualname__": error_class.__qualname__}
    stand_in: Exception
    if isinstance(error, BaseExceptionGroup) and chain_length > 0:
        group_class = type(error_class.__name__, (ExceptionGroup,), names)
        members = [
            _stand_in(member, chain_length - 1, known_ids)
            for member in error.exceptions[:_MAX_CHAIN]
        ]
        stand_in = group_class(_mask(error.message), members)
    else:
        stand_in = type(error_class.__name__, (Exception,), names)(text)
    if chain_length > 0:
        # Setting the cause suppresses the context, as in the original.
        if error.__cause__ is not None:
            stand_in.__cause__ = _stand_in(error.__cause__, chain_length - 1, known_ids)
        elif error.__context__ is not None and not error.__suppress_context__:
            stand_in.__context__ = _stand_in(error.__context__, chain_length - 1, known_ids)
    notes = getattr(error, "__notes__", None)
    for note in notes[:_MAX_CHAIN] if isinstance(notes, list) else ():
        stand_in.add_note(_masked_text(note))
    return stand_in.with_traceback(error.__traceback__)


def _masked_text(error: object) -> str:
    """Return the text of an error or of a note, masked."""
    try:
        return _mask(str(error))
    # An error's own `__str__` may raise any error.
    except Exception:
        return ""


def _mask(text: str) -> str:
    text = text[:_MAX_SEARCHED]
    for pattern, replacement in _SECRETS.items():
        text = pattern.sub(replacement, text)
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…"
