"""Query parameters and form fields beyond the contract, encoded as in the vendor's SDK."""

from collections.abc import Mapping
from typing import Any

from langchain_image_variation.exceptions import InvalidRequestError, excerpt

__all__ = ["FormFields", "Parameters", "check_parameters", "flatten", "form_fields", "is_encodable"]

Parameters = Mapping[str, object]
"""Values by name: a string, a number, a boolean, None, or a list or mapping of these."""

FormFields = Mapping[str, str | list[str]]
"""Form fields by name. A list is sent as one field for each of its items."""

_MAX_DEPTH = 8


def check_parameters(param: str, values: Parameters | None) -> Parameters:
    """Return a copy of parameters that `flatten` can encode.

    Args:
        param: The argument that contains them.
        values: Its value.

    Raises:
        InvalidRequestError: If they are not a mapping by name, or a value cannot be encoded.
    """
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise InvalidRequestError(f"{param} must be a mapping of names to values.", param=param)
    for name, value in values.items():
        if not isinstance(name, str) or not is_encodable(name):
            raise InvalidRequestError(
                f"{param} has the name {excerpt(name)}, which is not a string.", param=param
            )
        _check_value(param, name, value, 1)
    return dict(values)


def _check_value(param: str, name: str, value: Any, depth: int) -> None:
    if isinstance(value, Mapping | list | tuple) and depth < _MAX_DEPTH:
        if isinstance(value, Mapping):
            for key in value:
                _check_value(param, name, key, _MAX_DEPTH)
        for item in value.values() if isinstance(value, Mapping) else value:
            _check_value(param, name, item, depth + 1)
        return
    is_plain = isinstance(value, str | int | float) or value is None
    if not is_plain or (isinstance(value, str) and not is_encodable(value)):
        raise InvalidRequestError(
            f"{param} must give {excerpt(name)} as a string, number, boolean or None, or as a list "
            f"or mapping of these, got {excerpt(value)}.",
            param=param,
        )


def flatten(values: Parameters) -> list[tuple[str, str]]:
    """Return names and texts: ``{"a": [1], "b": {"c": True}}`` as ``a[]=1`` and ``b[c]=true``.

    None is left out.
    """
    return [item for name, value in values.items() for item in _flatten_value(name, value)]


def _flatten_value(name: str, value: Any) -> list[tuple[str, str]]:
    if value is None:
        return []
    if isinstance(value, Mapping):
        return [
            item for key, inner in value.items() for item in _flatten_value(f"{name}[{key}]", inner)
        ]
    if isinstance(value, list | tuple):
        return [item for inner in value for item in _flatten_value(f"{name}[]", inner)]
    return [(name, str(value).lower() if isinstance(value, bool) else str(value))]


def form_fields(values: Parameters) -> FormFields:
    """Return parameters as the fields of a form."""
    fields: dict[str, list[str]] = {}
    for name, text in flatten(values):
        fields.setdefault(name, []).append(text)
    return dict(fields)


def is_encodable(text: str) -> bool:
    """Return whether a text can be encoded in UTF-8: it contains no lone surrogate."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
