"""The marker `image_variation`: the scenarios that a test plays, and what it tolerates."""

from typing import Any, NoReturn

import pytest

__all__ = ["LEVELS", "LINES", "fail", "ignore_sdk_warning", "settings"]

LEVELS = ("image_variation_must", "image_variation_should", "image_variation_may")
"""The markers for the rules of the conformance kit."""

LINES = (
    "image_variation(*scenarios, allow_unused=False, allow_unexpected=False): play these image "
    "variation scenarios, from cassettes or on image_variation_server. The test fails if a "
    "scenario stays unused or a request is unexpected, unless you allow it.",
    *(f"{level}: a rule of the conformance kit with this level." for level in LEVELS),
)
"""The descriptions for `pytest --markers`."""

_ALLOWANCES = ("allow_unused", "allow_unexpected")


def fail(message: str) -> NoReturn:
    """Fail the test with a message and no traceback."""
    pytest.fail(message, pytrace=False)


def ignore_sdk_warning(item: pytest.Item) -> None:
    """Let a test call the SDK's method, which is deprecated."""
    # The whole text of the SDK's warning is "deprecated".
    item.add_marker(
        pytest.mark.filterwarnings("ignore:deprecated$:DeprecationWarning"), append=False
    )


def settings(item: pytest.Item) -> tuple[tuple[str, ...], dict[str, bool]]:
    """Return the scenarios that the closest marker names, and what all markers allow."""
    names: tuple[str, ...] = ()
    allowances = dict.fromkeys(_ALLOWANCES, False)
    for marker in _farthest_first(item):
        if not marker.args and not marker.kwargs:
            fail(
                "The marker image_variation names no scenario. Name one, such as "
                "image_variation('success_b64_n1'). Without the marker, a test uses the server."
            )
        names = marker.args or names
        for name, value in marker.kwargs.items():
            if name not in _ALLOWANCES:
                fail(f"The marker image_variation takes {' and '.join(_ALLOWANCES)}, not {name}.")
            if not isinstance(value, bool):
                fail(f"{name} of the marker image_variation must be True or False, got {value!r}.")
            allowances[name] = value
    return names, allowances


def _farthest_first(item: pytest.Item) -> list[pytest.Mark]:
    """Return a test's markers: those of its module first, those of its parameters last."""
    parameter_marks = [getattr(mark, "mark", mark) for mark in _parameter_marks(item)]
    function_mark_count = len(_naming_markers(item.own_markers)) - len(
        _naming_markers(parameter_marks)
    )
    ambiguous = any(len(_naming_markers(_pytestmark(node))) > 1 for node in item.listchain()[:-1])
    if function_mark_count > 1 or ambiguous:
        fail(
            "Several image_variation markers in one place name scenarios. Name all of them in one "
            "marker, in the order in which they are played."
        )
    marks = [mark for node in item.listchain() for mark in node.own_markers]
    return [mark for mark in marks if mark.name == "image_variation"]


def _pytestmark(node: Any) -> list[Any]:
    """Return the markers of a module or a class itself, without those of its base classes."""
    value = vars(getattr(node, "obj", None) or object).get("pytestmark", [])
    marks = value if isinstance(value, list | tuple) else [value]
    return [getattr(mark, "mark", mark) for mark in marks]


def _parameter_marks(item: pytest.Item) -> Any:
    return item.callspec.marks if hasattr(item, "callspec") else ()


def _naming_markers(marks: list[pytest.Mark]) -> list[pytest.Mark]:
    """Return the markers that name scenarios."""
    return [mark for mark in marks if mark.name == "image_variation" and mark.args]
