"""`ReturnedImage`: a file that should be an image, and what it really is."""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Self

from PIL import Image

from langchain_image_variation.exceptions import InvalidImageError
from langchain_image_variation.images.pixels import open_image

__all__ = ["ReturnedImage"]


@dataclass(frozen=True, slots=True)
class ReturnedImage:
    """A file that a server, a client or an engine returned."""

    data: bytes = field(repr=False)
    format: str | None
    """Pillow's name of the format, or None if the file is not an image."""
    size: str | None
    """The size, such as "256x256"."""
    decodable: bool
    """Whether all of its pixels can be decoded."""

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Look at a file. Raises nothing, whatever the file is."""
        return cls(data, *_inspect(data))


@lru_cache(maxsize=256)
def _inspect(data: bytes) -> tuple[str | None, str | None, bool]:
    format = size = None
    try:
        with open_image(data) as image:
            format, size = image.format, f"{image.width}x{image.height}"
            image.load()
    # Pillow's exceptions for corrupt files differ by format, and its warning may be an error.
    except (
        InvalidImageError,
        OSError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ):
        return format, size, False
    return format, size, True
