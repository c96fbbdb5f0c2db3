"""JSON schemas for hosts, without titles, which only cost tokens."""

from typing import Any

from pydantic import BaseModel

__all__ = ["json_schema"]


def json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the schema of a model, without titles, which repeat the names of its fields."""
    schema: dict[str, Any] = _without_titles(model.model_json_schema())
    return schema


def _without_titles(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_titles(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    # A field may have the name "title". Its value is a schema.
    return {
        key: _without_titles(value)
        for key, value in schema.items()
        if key != "title" or not isinstance(value, str)
    }
