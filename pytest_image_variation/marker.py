"""The marker `image_variation`: the scenarios that a test plays, and what does not fail it."""

from typing import Any, NoReturn

import pytest

__all__ = ["LEVELS", "LINES", "settings", "stop"]

LEVELS = ("image_variation_must", "image_variation_should", "image_variation_may")
"""The markers of the conformance kit's rules."""

LINES = (
    "image_variation(*scenarios, allow_unused=False, allow_unexpected=False): the scenarios of "
    "image variations that the test plays, from cassettes or on image_variation_server, and what "
    "does not fail it.",
    *(f"{level}: a rule of the conformance kit that has this level." for level in LEVELS),
)
"""What pytest is told of all markers."""

_RELAXED = ("allow_unused", "allow_unexpected")


def stop(message: str) -> NoReturn:
    """Fail the test with a message alone."""
    pytest.fail(message, pytrace=False)


def settings(item: pytest.Item) -> tuple[tuple[str, ...], dict[str, bool]]:
    """Return the scenarios that the nearest marker names, and what the markers allow."""
    names: tuple[str, ...] = ()
    allowed = dict.fromkeys(_RELAXED, False)
    for marker in _farthest_first(item):
        names = marker.args or names
        for name, value in marker.kwargs.items():
            if name not in _RELAXED:
                stop(f"The marker image_variation takes {' and '.join(_RELAXED)}, not {name}.")
            if not isinstance(value, bool):
                stop(f"{name} of the marker image_variation must be True or False, got {value!r}.")
            allowed[name] = value
    return names, allowed


def _farthest_first(item: pytest.Item) -> list[pytest.Mark]:
    """Return the markers of a test: of module, class, function, and last those of its case."""
    case = [getattr(mark, "mark", mark) for mark in _of_case(item)]
    stacked = len(_naming(item.own_markers)) - len(_naming(case))
    if stacked > 1 or any(len(_naming(_written_at(node))) > 1 for node in item.listchain()[:-1]):
        stop(
            "Several markers image_variation at one place name scenarios; name them all in one, in "
            "the order in which they are played."
        )
    every = [mark for node in item.listchain() for mark in node.own_markers]
    return [mark for mark in every if mark.name == "image_variation"]


def _written_at(node: Any) -> list[Any]:
    """Return the markers that a module or a class has itself; those of its bases are others."""
    written = vars(getattr(node, "obj", None) or object).get("pytestmark", [])
    marks = written if isinstance(written, list | tuple) else [written]
    return [getattr(mark, "mark", mark) for mark in marks]


def _of_case(item: pytest.Item) -> Any:
    return item.callspec.marks if hasattr(item, "callspec") else ()


def _naming(marks: list[pytest.Mark]) -> list[pytest.Mark]:
    return [mark for mark in marks if mark.name == "image_variation" and mark.args]
