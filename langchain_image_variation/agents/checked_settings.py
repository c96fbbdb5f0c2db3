"""`CheckedSettings`: settings that are checked whenever they change, for the frameworks' tools."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import ConfigDict, PrivateAttr, model_validator

from langchain_image_variation.agents.loaded_engines import LoadedEngines
from langchain_image_variation.agents.settings import ToolSettings
from langchain_image_variation.agents.settings_check import check_settings

__all__ = ["CheckedSettings"]


class CheckedSettings(ToolSettings):
    """Settings that an assignment and a copy check as completely as the constructor does.

    An error leaves the settings as they were. Other fields of a tool, which a framework defines,
    are checked only by the constructor, as in the framework's own tools.

    Raises:
        ImageVariationError: See `check_settings`.
        InvalidRequestError: See `ToolSettings`.
        pydantic.ValidationError: If a setting does not exist, or has a wrong type or value.
    """

    # `__setattr__` checks more, and before the value is there.
    model_config = ConfigDict(validate_assignment=False)

    _engines: LoadedEngines = PrivateAttr(default_factory=LoadedEngines)

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_settings(self, self._engines)
        self._follow_settings()
        return self

    def _follow_settings(self) -> None:
        """Update what depends on the settings. Called once they are valid."""

    def __setattr__(self, name: str, value: Any) -> None:
        is_other = name in type(self).model_fields or hasattr(type(self), name)
        if name not in ToolSettings.model_fields and (is_other or name.startswith("_")):
            super().__setattr__(name, value)
            return
        super().__setattr__(name, self._check_changes({name: value})[name])
        self._follow_settings()

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with other settings.

        Raises:
            ImageVariationError: If the settings do not fit together. See `check_settings`.
            pydantic.ValidationError: If a setting does not exist, or has a wrong type or value.
        """
        changes = {**(update or {})}
        others = type(self).model_fields.keys() - ToolSettings.model_fields.keys()
        settings = {name: value for name, value in changes.items() if name not in others}
        changes |= self._check_changes(settings)
        copy = super().model_copy(update=changes, deep=deep)
        copy._follow_settings()
        return copy

    def _check_changes(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of changed settings, as the constructor would keep them.

        Raises:
            ImageVariationError: See `check_settings`.
            pydantic.ValidationError: If a setting does not exist, or has a wrong type or value.
        """
        values = {name: getattr(self, name) for name in ToolSettings.model_fields}
        settings = ToolSettings(**{**values, **changes})
        check_settings(settings, self._engines)
        return {name: getattr(settings, name) for name in changes}
