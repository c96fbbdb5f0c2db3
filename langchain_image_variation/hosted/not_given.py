"""The default of arguments for which None has a meaning of its own, such as "no timeout"."""

__all__ = ["NOT_GIVEN", "NotGiven"]


class NotGiven:
    """The type of `NOT_GIVEN`, which leaves the client's own setting in place."""

    def __repr__(self) -> str:
        return "NOT_GIVEN"


NOT_GIVEN = NotGiven()
