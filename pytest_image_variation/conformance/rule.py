"""A rule of the contract, with the check that tests it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, NoReturn, Protocol, TypeVar, get_args

__all__ = ["LEVELS", "Level", "Rule", "SkipCheck", "Subject", "Violation", "skip"]

Level = Literal["MUST", "SHOULD", "MAY"]
"""As in RFC 2119. The vendor's specification and its recorded responses require a MUST. Some
programs rely on a SHOULD, or it helps their authors to find mistakes. A MAY is an extra."""

LEVELS: tuple[Level, ...] = get_args(Level)
"""The levels, strongest first."""

S = TypeVar("S")


class Subject(Protocol):
    """The probe of a server, a client or an engine under test."""

    def request_lines(self) -> Sequence[str]:
        """Return a line for each request of the last check, if curl cannot repeat it."""
        ...


class Violation(AssertionError):
    """A rule is broken.

    Attributes:
        got: What was found instead.
        curl: Command lines that repeat the requests. The last one shows the violation.
    """

    def __init__(self, got: str, curl: Sequence[str] = ()) -> None:
        super().__init__(got)
        self.got = got
        self.curl = tuple(curl)


class SkipCheck(Exception):
    """A rule cannot be checked here; the message says why."""


def skip(reason: str) -> NoReturn:
    """Skip a check that cannot be made.

    Raises:
        SkipCheck: Always.
    """
    raise SkipCheck(reason)


@dataclass(frozen=True, slots=True)
class Rule(Generic[S]):
    """A rule, and how to check it."""

    id: str
    """Short and unique, for lists and reports."""
    level: Level
    text: str
    """The rule in one sentence."""
    check: Callable[[S], None]
    """Raises `Violation` if the rule is broken, and `SkipCheck` if it cannot be checked."""
