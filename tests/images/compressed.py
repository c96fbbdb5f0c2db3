"""One image as many PNG files, by Pillow's encoder and our own, with other zlibs and filters.

Pillow's wheels contain zlib-ng, and Python's `zlib` module is often another implementation. The
files differ as the files of two machines do.
"""

import io
import zlib
from dataclasses import dataclass

from PIL import Image

from tests.images.encoder import GRAY, GRAY_ALPHA, RGB, RGBA, SIGNATURE, SampleImage

_TYPES = {"L": GRAY, "LA": GRAY_ALPHA, "RGB": RGB, "RGBA": RGBA}


@dataclass(frozen=True)
class Recompressed(SampleImage):
    """An image whose scanlines are compressed with other settings."""

    level: int = 6
    strategy: int = zlib.Z_DEFAULT_STRATEGY

    def body(self) -> bytes:
        """Return the joined content of the IDAT chunks."""
        stream = zlib.compressobj(self.level, strategy=self.strategy)
        return stream.compress(self.scanlines()) + stream.flush()


def sample_image(image: Image.Image) -> SampleImage:
    """Convert an image in a plain mode for our own encoder."""
    data = image.tobytes()
    channels = len(image.getbands())
    pixels = [tuple(data[i : i + channels]) for i in range(0, len(data), channels)]
    rows = [pixels[i : i + image.width] for i in range(0, len(pixels), image.width)]
    return SampleImage(_TYPES[image.mode], 8, rows)


def pillow_png(image: Image.Image, level: int, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> bytes:
    """Return a file that Pillow writes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=level, compress_type=strategy)
    return buffer.getvalue()


def encodings(image: Image.Image) -> list[bytes]:
    """Return different files with the same pixels."""
    ours = sample_image(image)
    files = [pillow_png(image, level) for level in (0, 1, 9)]
    files += [pillow_png(image, 6, strategy) for strategy in (zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE)]
    files += [ours.replace_fields(filters=(kind,)).png() for kind in range(5)]
    files += [
        ours.replace_fields(interlaced=True).png(),
        ours.replace_fields(pieces=3, filters=(4, 2)).png(),
    ]
    files.append(SIGNATURE + b"".join(ours.chunks(zlib.compress(ours.scanlines(), 0))))
    assert len(set(files)) == len(files)
    return files
