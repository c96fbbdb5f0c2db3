"""What vcrpy is given as its persister where nothing is kept on disk."""

from typing import Any

__all__ = ["Nothing"]


class Nothing:
    """A persister of vcrpy: there is nothing to load, and nothing is saved."""

    @staticmethod
    def load_cassette(path: object, serializer: object) -> tuple[list[Any], list[Any]]:
        """Return no interactions."""
        return [], []

    @staticmethod
    def save_cassette(path: object, cassette_dict: object, serializer: object) -> None:
        """Leave it."""
