"""A rule of the contract with the check that sees whether it is kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, NoReturn, Protocol, TypeVar, get_args

__all__ = ["LEVELS", "Breach", "Level", "Rule", "Subject", "Unseen", "unseen"]

Level = Literal["MUST", "SHOULD", "MAY"]
"""As in RFC 2119. A MUST is what the vendor's specification says and its recorded answers show; a
SHOULD is what some programs rely on, or what spares their authors a search; a MAY is an extra."""

LEVELS: tuple[Level, ...] = get_args(Level)
"""The levels, the strongest first."""

S = TypeVar("S")


class Subject(Protocol):
    """What is checked, and asked for that."""

    def asked(self) -> Sequence[str]:
        """Return what was asked last, a line for each request, where no curl can ask it again."""
        ...


class Breach(AssertionError):
    """A rule is broken.

    Attributes:
        got: What was found instead.
        curl: The requests that show it, as command lines; the last is the one that does.
    """

    def __init__(self, got: str, curl: Sequence[str] = ()) -> None:
        super().__init__(got)
        self.got = got
        self.curl = tuple(curl)


class Unseen(Exception):
    """Whether the rule is kept cannot be seen here; the message says why."""


def unseen(why: str) -> NoReturn:
    """Leave a check, since there is nothing to see.

    Raises:
        Unseen: Always.
    """
    raise Unseen(why)


@dataclass(frozen=True, slots=True)
class Rule(Generic[S]):
    """A rule, and how it is checked."""

    id: str
    """Short and unique, for lists and reports."""
    level: Level
    text: str
    """The rule itself, in a sentence."""
    check: Callable[[S], None]
    """Raises `Breach` if the rule is broken, and `Unseen` if that cannot be seen."""
