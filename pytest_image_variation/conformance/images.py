"""The images that the kit sends, by name.

`python -m pytest_image_variation.conformance.images NAME` writes one to standard output. The curl
command lines in failures use that.
"""

import io
import sys
import zlib
from collections.abc import Callable, Mapping
from functools import lru_cache

from PIL import Image

from langchain_image_variation.images.pixels import open_image
from langchain_image_variation.images.png import MAX_PNG_BYTES
from pytest_image_variation import samples

__all__ = ["IMAGES", "make_image"]


@lru_cache(maxsize=64)
def make_image(name: str) -> bytes:
    """Return the file of an image.

    Raises:
        KeyError: If there is no image of that name.
    """
    return IMAGES[name]()


def _padded_png(length: int) -> bytes:
    """Return a square PNG of exactly this many bytes.

    The padding is a chunk whose name marks it as ancillary, private and safe to copy, so every
    decoder must skip it.
    """
    data = samples.square_png()
    body = b"paDd" + bytes(length - len(data) - 12)
    chunk = (len(body) - 4).to_bytes(4) + body + zlib.crc32(body).to_bytes(4)
    end = data.rindex(b"IEND") - 4
    return data[:end] + chunk + data[end:]


def _wrong_checksum() -> bytes:
    data = bytearray(samples.square_png())
    # The last byte of the checksum of IHDR, which is 13 bytes long.
    data[8 + 8 + 13 + 3] ^= 1
    return bytes(data)


def _sixteen_bit() -> bytes:
    return _encode(Image.linear_gradient("L").resize((64, 64)).convert("I;16"), "PNG")


def _flat(side: int) -> bytes:
    return _encode(Image.new("RGB", (side, side), (200, 120, 40)), "PNG")


def _square(format: str) -> bytes:
    with open_image(samples.square_png()) as image:
        return _encode(image, format)


def _encode(image: Image.Image, format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


IMAGES: Mapping[str, Callable[[], bytes]] = {
    "rgb.png": samples.square_png,
    "rgba.png": lambda: samples.square_png(68, "RGBA"),
    "grey.png": lambda: samples.square_png(64, "L"),
    "grey-alpha.png": lambda: samples.square_png(64, "LA"),
    "palette.png": lambda: samples.square_png(64, "P"),
    "black-white.png": lambda: samples.square_png(64, "1"),
    "sixteen-bit.png": _sixteen_bit,
    "one-pixel.png": lambda: _flat(1),
    "256.png": lambda: samples.square_png(256),
    "2048.png": lambda: _flat(2048),
    "just-below-4-mb.png": lambda: _padded_png(MAX_PNG_BYTES - 1),
    "4-mb.png": lambda: _padded_png(MAX_PNG_BYTES),
    "wide.png": lambda: samples.non_square_png(96, 64),
    "high.png": lambda: samples.non_square_png(64, 96),
    "almost-square.png": lambda: samples.non_square_png(65, 64),
    "cut-off.png": samples.truncated_png,
    "wrong-checksum.png": _wrong_checksum,
    "broken-pixels.png": samples.corrupt_png,
    "empty.png": lambda: b"",
    "text.png": lambda: b"This is not an image.\n",
    "photo.jpg": lambda: _square("JPEG"),
    "photo.gif": lambda: _square("GIF"),
    "photo.webp": lambda: _square("WEBP"),
}
"""The function that makes each image."""


def _main() -> None:
    name = sys.argv[1] if len(sys.argv) == 2 else ""
    if name not in IMAGES:
        raise SystemExit(f"Pass the name of one image: {', '.join(IMAGES)}.")
    sys.stdout.buffer.write(make_image(name))


if __name__ == "__main__":
    _main()
