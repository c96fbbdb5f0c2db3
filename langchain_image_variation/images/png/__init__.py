"""`SquarePNG`: the only form in which a picture enters a request.

The check reads the structure of the file and decodes nothing, so it takes milliseconds whatever
the picture holds, and a decompression bomb is refused before anything is inflated. Rules and chunk
names are those of the PNG specification, third edition (W3C, 2025); "square" and "less than 4MB"
are the contract's.
"""

import hashlib
from dataclasses import dataclass, field

from langchain_image_variation.exceptions import InvalidImageError
from langchain_image_variation.images.png import chunks

__all__ = ["MAX_PNG_BYTES", "MAX_PNG_SIDE", "SquarePNG"]

MAX_PNG_BYTES = 4 * 1024 * 1024
"""A picture must be smaller than this, in bytes: the contract's "less than 4MB"."""

MAX_PNG_SIDE = 8192
"""A picture may be at most this wide and high, in pixels: 8 times the largest `size`."""


@dataclass(frozen=True, slots=True)
class SquarePNG:
    """A valid square PNG of less than 4 MB. One exists only if it passed every check.

    Checked are the signature, the header, each chunk's length, name, place and checksum, the
    closing IEND, that width and height are equal, and both limits. Pixels are not decoded:
    `langchain_image_variation.images.pixels.decode` does that, and raises the same error.

    The bytes are kept as they are, with whatever text, EXIF or hidden colours are in them. To leave
    those out is the part of `load_source`; what alpha does not show in full goes with
    `langchain_image_variation.images.pixels.on_white`.

    Args:
        data: The bytes of the file.

    Raises:
        InvalidImageError: If a rule is broken; the message says which, and what was found.
    """

    data: bytes = field(repr=False)
    side: int = field(init=False)
    """Width and height in pixels."""
    bit_depth: int = field(init=False)
    """Bits per sample (or per palette index): 1, 2, 4, 8 or 16."""
    color_type: int = field(init=False)
    """The PNG colour type: 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGB with alpha."""
    chunk_names: frozenset[str] = field(init=False, repr=False, compare=False)
    """The names of the chunks in the file."""

    def __post_init__(self) -> None:
        """Check the file and fill in the fields read from its header."""
        if not isinstance(self.data, bytes):
            name = type(self.data).__name__
            raise InvalidImageError(f"image must be the bytes of a PNG file, got {name}.")
        header, names = _checked(self.data)
        object.__setattr__(self, "side", header.width)
        object.__setattr__(self, "bit_depth", header.bit_depth)
        object.__setattr__(self, "color_type", header.color_type)
        object.__setattr__(self, "chunk_names", frozenset(name.decode() for name in names))

    @property
    def sha256(self) -> str:
        """The SHA-256 of the file's bytes, in hex."""
        return hashlib.sha256(self.data).hexdigest()


def _checked(data: bytes) -> tuple[chunks.Header, set[bytes]]:
    if not data:
        raise InvalidImageError("image is empty; pass the bytes of a PNG file.")
    if not data.startswith(chunks.SIGNATURE):
        raise InvalidImageError("image is not a PNG file: the PNG signature is missing.")
    if len(data) >= MAX_PNG_BYTES:
        raise InvalidImageError(
            f"image has {len(data):,} bytes; it must have less than {MAX_PNG_BYTES:,} (4 MB)."
        )
    header, names = chunks.check_order(chunks.read(data))
    if header.width != header.height:
        raise InvalidImageError(
            f"image must be square, got {header.width}x{header.height} pixels; crop or pad it "
            "first."
        )
    if header.width > MAX_PNG_SIDE:
        raise InvalidImageError(
            f"image is {header.width}x{header.height} pixels; the limit is "
            f"{MAX_PNG_SIDE}x{MAX_PNG_SIDE}."
        )
    return header, names
