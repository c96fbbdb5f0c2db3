"""The names of result files, from a template such as `{stem}-{hash}-{index}`."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from string import Formatter

from langchain_image_variation.exceptions import InvalidRequestError, excerpt

__all__ = [
    "DATED_NAME",
    "DEFAULT_TEMPLATE",
    "RESULT_NAME",
    "SHEET",
    "NameTemplate",
    "drop_suffix",
    "safe_name",
]

DEFAULT_TEMPLATE = "{stem}-{hash}-{index}"
"""Gives the same pixels the same name on every machine, and different pixels different names."""

SHEET = "sheet"
"""The index of a contact sheet."""

RESULT_NAME = re.compile(r"\w[\w.-]{0,39}-[0-9a-f]{8,64}-[0-9]+\.png")
"""Matches the names of PNG files from `DEFAULT_TEMPLATE`. No file system treats them specially."""

_FIELDS = ("stem", "index", "seed", "hash")
_NUMBERS = ("index", "seed")
_WIDTH = re.compile(r"0[1-9][0-9]?")
_LITERAL = re.compile(r"[\w. -]*")
_SUFFIX = re.compile(r"\.(?:png|jpe?g|webp)", re.IGNORECASE)
_STEM_LENGTH = 40
_STEM_BYTES = 100
"""Encrypted file systems such as eCryptfs allow names of at most 143 bytes."""
_HASH_LENGTHS = (8, 16, 64)
_MAX_NAME_BYTES = 255
"""The longest file name that the common file systems of Linux, macOS and Windows allow."""
_DEVICE_NAME = re.compile(r"(?:aux|con|nul|prn|com\d|lpt\d)(?:\..*)?", re.IGNORECASE | re.ASCII)
"""Names that Windows reserves for devices, with any suffix."""
_LONGEST_SEED = 2**64
_DATE = r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
# The end of a result's name. A number that could be a date does not count as a hash.
_HASH_AND_INDEX = re.compile(rf"-(?!{_DATE}-)[0-9a-f]{{8,64}}-(\d+|{SHEET})$")

DATED_NAME = re.compile(rf".*-{_DATE}-[0-9]+\.png", re.DOTALL)
"""Matches names whose hash could be a date. They may belong to a user's own images."""


class NameTemplate:
    """A template for the names of result files, without their suffix.

    Args:
        text: Letters, digits, spaces, dots, dashes and underscores, and these fields: `{stem}`,
            the source's name; `{index}`, the number of the image from 1; `{seed}`, the seed of the
            image, or "none" if the engine reports none; and `{hash}`, a hash of its pixels. Numbers
            may be padded with zeros to a width, as in `{index:02}`.

    Raises:
        InvalidRequestError: If it is empty, has other characters or fields, begins with a dot, a
            dash or a space, or ends with a dot, a space or the suffix of an image file.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._parts = [
                (literal, field, width or "", conversion)
                for literal, field, width, conversion in Formatter().parse(text)
            ]
        except ValueError:
            raise self._error("has an unmatched brace") from None
        self.fields = {field for _, field, _, _ in self._parts if field is not None}
        for literal, field, width, conversion in self._parts:
            if not _LITERAL.fullmatch(literal):
                raise self._error(
                    "may contain only letters, digits, spaces, dots, dashes, underscores and fields"
                )
            if field is None:
                continue
            if field not in _FIELDS or conversion:
                fields = ", ".join(f"{{{name}}}" for name in _FIELDS)
                raise self._error(f"has an unknown field; the fields are {fields}")
            if width and (field not in _NUMBERS or not _WIDTH.fullmatch(width)):
                raise self._error("may set a width only for numbers, as in {index:02}")
        if not text or text[0] in ".- " or text[-1] in ". ":
            raise self._error("must begin and end with a letter, a digit or a field")
        if _SUFFIX.fullmatch(os.path.splitext(text)[1]):
            raise self._error("must not have a suffix, which depends on the format of the file")

    def check(self, stems: Sequence[str], n: int) -> None:
        """Check that each image gets a unique name, and that no name is too long.

        Args:
            stems: The name of each source, at least one.
            n: The number of images for each.

        Raises:
            InvalidRequestError: If the names could repeat, be too long or be reserved by Windows.
        """
        images = [(stem, index) for stem in stems for index in range(1, n + 1)]
        # Some file systems ignore case.
        counts = Counter(
            next(self.names(stem, f"{number:08x}" * 8, index, index)).casefold()
            for number, (stem, index) in enumerate(images)
        )
        repeated_names = [(name, count) for name, count in counts.items() if count > 1]
        if repeated_names:
            name, count = repeated_names[0]
            is_index_missing = n > 1 and not self.fields & {"index", "seed"}
            field = "index" if is_index_missing else "hash" if "stem" in self.fields else "stem"
            raise self._error(f"gives {count} images the name {excerpt(name)}; add {{{field}}}")
        if device_name := next(filter(_DEVICE_NAME.fullmatch, counts), None):
            raise self._error(f"gives the name {device_name!r}, which Windows reserves")
        for stem in stems:
            *_, longest = self.names(stem, "0" * 64, SHEET, _LONGEST_SEED)
            # The suffix has up to five characters.
            if len(os.fsencode(longest)) + 5 > _MAX_NAME_BYTES:
                raise self._error(f"gives names longer than {_MAX_NAME_BYTES} bytes; shorten it")

    def names(self, stem: str, digest: str, index: int | str, seed: int | None) -> Iterator[str]:
        """Yield names for an image, without suffix. Use the first one that is not taken.

        The second and third differ from the first in the number of digits of the hash, which is
        added if the template has none.

        Args:
            stem: The source's name.
            digest: The SHA-256 of the image's pixels, in hex.
            index: The number of the image from 1, or `SHEET`.
            seed: The seed of the image, if it has one.
        """
        values = {"stem": safe_name(stem), "index": index, "seed": "none" if seed is None else seed}
        is_sheet_unmarked = index == SHEET and "index" not in self.fields
        end = f"-{SHEET}" if is_sheet_unmarked else ""
        if "hash" not in self.fields:
            yield f"{self._format(values)}{end}"
        for length in _HASH_LENGTHS:
            name = self._format(values | {"hash": digest[:length]})
            yield f"{name}{end}" if "hash" in self.fields else f"{name}{end}-{digest[:length]}"

    def _format(self, values: dict[str, int | str]) -> str:
        text = ""
        for literal, field, width, _ in self._parts:
            value = values[field] if field is not None else ""
            text += literal + (format(value, width) if isinstance(value, int) else value)
        return text

    def _error(self, rule: str) -> InvalidRequestError:
        return InvalidRequestError(
            f"The name template {excerpt(self.text)} {rule}.", param="template"
        )


def drop_suffix(name: str) -> str:
    """Return a name that someone has typed, without the suffix of an image file."""
    stem, suffix = os.path.splitext(name.strip())
    return stem if _SUFFIX.fullmatch(suffix) else name


def safe_name(name: str) -> str:
    """Return the stem of the file names of results, from the name of their source.

    The hash and index of an earlier result are dropped. Characters that could confuse a file
    system, a terminal or a shell are replaced, so the stem never begins with a dot or a dash. Long
    names are cut. The same name gives the same stem on every machine.
    """
    # macOS decomposes accented letters in file names.
    name = unicodedata.normalize("NFC", _HASH_AND_INDEX.sub("", name))
    stem = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:_STEM_LENGTH]
    stem = stem.encode()[:_STEM_BYTES].decode(errors="ignore").strip("-.")
    if "." in stem and _DEVICE_NAME.fullmatch(stem):
        stem = f"_{stem}"[:_STEM_LENGTH].strip("-.")
    return stem or "image"
