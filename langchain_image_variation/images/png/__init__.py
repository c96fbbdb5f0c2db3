"""`SquarePNG`: the only form in which an image enters a request.

The check reads the structure of the file and decodes nothing. It takes milliseconds for any image,
and it refuses a decompression bomb before anything is decompressed. Rules and chunk names follow
the PNG specification, third edition (W3C, 2025). "Square" and "less than 4MB" are rules of the
contract.
"""

import hashlib
from dataclasses import dataclass, field

from langchain_image_variation.exceptions import InvalidImageError
from langchain_image_variation.images.formats import recognize_supported, recognize_unsupported
from langchain_image_variation.images.png import chunks

__all__ = ["MAX_PNG_BYTES", "MAX_PNG_SIDE", "SquarePNG"]

MAX_PNG_BYTES = 4 * 1024 * 1024
"""An image must have fewer bytes than this: the contract says "less than 4MB"."""

MAX_PNG_SIDE = 8192
"""The largest width and height of an image, in pixels: 8 times the largest `size`."""


@dataclass(frozen=True, slots=True)
class SquarePNG:
    """A valid square PNG under 4 MB. An instance exists only if the file passed every check.

    The constructor checks the signature, the header, the length, name, position and checksum of
    each chunk, the final IEND, that width and height are equal, and both limits. It does not decode
    the pixels: `decode_png` does, and raises the same error.

    The bytes stay as they are, including text, EXIF and hidden colors. `load_source` removes those,
    and `langchain_image_variation.images.pixels.flatten_on_white` removes alpha too.

    Args:
        data: The bytes of the file.

    Raises:
        InvalidImageError: If the file breaks a rule. The message names the rule and the value.
    """

    data: bytes = field(repr=False)
    side: int = field(init=False)
    """Width and height in pixels."""
    bit_depth: int = field(init=False)
    """Bits per sample (or per palette index): 1, 2, 4, 8 or 16."""
    color_type: int = field(init=False)
    """The PNG color type: 0 gray, 2 RGB, 3 palette, 4 gray with alpha, 6 RGB with alpha."""
    chunk_names: frozenset[str] = field(init=False, repr=False, compare=False)
    """The names of the chunks in the file."""

    def __post_init__(self) -> None:
        """Check the file and read the fields from its header."""
        if not isinstance(self.data, bytes):
            name = type(self.data).__name__
            raise InvalidImageError(f"image must be the bytes of a PNG file, got {name}.")
        header, names = _check(self.data)
        object.__setattr__(self, "side", header.width)
        object.__setattr__(self, "bit_depth", header.bit_depth)
        object.__setattr__(self, "color_type", header.color_type)
        object.__setattr__(self, "chunk_names", frozenset(name.decode() for name in names))

    @property
    def sha256(self) -> str:
        """The SHA-256 of the file's bytes, in hex."""
        return hashlib.sha256(self.data).hexdigest()


def _check(data: bytes) -> tuple[chunks.Header, set[bytes]]:
    if not data:
        raise InvalidImageError("image is empty; pass the bytes of a PNG file.")
    if not data.startswith(chunks.SIGNATURE):
        raise InvalidImageError(f"image is not a PNG file: {_describe_other_file(data)}.")
    if len(data) >= MAX_PNG_BYTES:
        raise InvalidImageError(
            f"image has {len(data):,} bytes; it must have fewer than {MAX_PNG_BYTES:,} (4 MB)."
        )
    header, names = chunks.check_order(chunks.read_chunks(data))
    if header.width != header.height:
        raise InvalidImageError(
            f"image must be square, got {header.width}x{header.height} pixels; crop or pad it "
            "first."
        )
    if header.width > MAX_PNG_SIDE:
        raise InvalidImageError(
            f"image is {header.width}x{header.height} pixels; the limit is "
            f"{MAX_PNG_SIDE}x{MAX_PNG_SIDE}. Scale it down first."
        )
    return header, names


def _describe_other_file(data: bytes) -> str:
    """Return what a file is that is not a PNG file, and what to do instead."""
    if (format := recognize_supported(data)) is not None:
        return f"it is a {format} file; convert it to PNG first"
    kind = recognize_unsupported(data)
    if kind is None:
        return "the PNG signature is missing"
    return f"it is {kind.name}; pass the bytes of a PNG file"
