"""Reading a JSON text piece by piece without holding its pictures twice."""

from typing import Any

from pydantic_core import from_json

__all__ = ["JSONText"]

_SHORT = 4096
_MAX_FRAME = 1024 * 1024
_BACKSLASH = ord("\\")
# A private character, so that no server means it.
_MARK = "\ue000"


class JSONText:
    """A JSON text that is fed in pieces. Its long strings are set aside as they come in.

    A picture in base64 is then held once, while parsing the whole text at its end would hold it in
    the text and again in the string. What is left is the frame, which is parsed by pydantic.
    """

    def __init__(self) -> None:
        self._frame = bytearray()
        self._aside: list[str] = []
        self._string: bytearray | None = None

    def feed(self, piece: bytes) -> None:
        """Take the next piece.

        Raises:
            ValueError: If the text beside its long strings has more than 1 MB, or a long string is
                no JSON string.
        """
        position = 0
        while position < len(piece):
            quote = piece.find(b'"', position)
            part = piece[position : quote if quote >= 0 else len(piece)]
            if self._string is None:
                self._frame += part
            else:
                self._string += part
            if len(self._frame) > _MAX_FRAME:
                raise ValueError("the text is too long")
            if quote < 0:
                return
            self._at_quote()
            position = quote + 1

    def content(self) -> Any:
        """Return what the whole text holds.

        Raises:
            ValueError: If it is no JSON.
        """
        if self._string is not None:
            raise ValueError("the text ends inside a string")
        frame = bytes(self._frame).removeprefix(b"\xef\xbb\xbf")
        return self._restored(from_json(frame))

    def _at_quote(self) -> None:
        if self._string is None:
            self._string = bytearray()
            return
        if _backslashes(self._string) % 2:
            self._string += b'"'
            return
        string, self._string = self._string, None
        if len(string) > _SHORT:
            self._aside.append(_text(string))
            string = bytearray(f"{_MARK}{len(self._aside) - 1}".encode())
        self._frame += b'"' + string + b'"'

    def _restored(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self._restored(key): self._restored(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._restored(item) for item in value]
        if isinstance(value, str) and value.startswith(_MARK):
            index = value[len(_MARK) :]
            if index.isdecimal() and int(index[:9]) < len(self._aside):
                return self._aside[int(index[:9])]
        return value


def _backslashes(string: bytearray) -> int:
    """Return how many backslashes a string ends with: after an odd number, a quote is escaped."""
    end = len(string)
    while end and string[end - 1] == _BACKSLASH:
        end -= 1
    return len(string) - end


def _text(string: bytearray) -> str:
    if b"\\" in string:
        return str(from_json(b'"' + bytes(string) + b'"'))
    return string.decode("utf-8")
