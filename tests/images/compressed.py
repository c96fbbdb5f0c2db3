"""One image as many PNG files: by Pillow's encoder and by our own, with other zlibs and filters.

Pillow's wheels bring zlib-ng; Python's module `zlib` often is another one. The files differ as
those of two machines do.
"""

import io
import zlib
from dataclasses import dataclass

from PIL import Image

from tests.images.encoder import GREY, GREY_ALPHA, RGB, RGBA, SIGNATURE, Picture

_TYPES = {"L": GREY, "LA": GREY_ALPHA, "RGB": RGB, "RGBA": RGBA}


@dataclass(frozen=True)
class Recompressed(Picture):
    """A picture whose scanlines are compressed in a given way."""

    level: int = 6
    strategy: int = zlib.Z_DEFAULT_STRATEGY

    def body(self) -> bytes:
        """Return what the IDAT chunks hold together."""
        stream = zlib.compressobj(self.level, strategy=self.strategy)
        return stream.compress(self.scanlines()) + stream.flush()


def samples(image: Image.Image) -> Picture:
    """Return an image in a plain mode as a picture of our own encoder."""
    data = image.tobytes()
    channels = len(image.getbands())
    pixels = [tuple(data[at : at + channels]) for at in range(0, len(data), channels)]
    rows = [pixels[at : at + image.width] for at in range(0, len(pixels), image.width)]
    return Picture(_TYPES[image.mode], 8, rows)


def pillow_png(image: Image.Image, level: int, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> bytes:
    """Return a file that Pillow writes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=level, compress_type=strategy)
    return buffer.getvalue()


def encodings(image: Image.Image) -> list[bytes]:
    """Return files of the same pixels, all different."""
    own = samples(image)
    files = [pillow_png(image, level) for level in (0, 1, 9)]
    files += [pillow_png(image, 6, strategy) for strategy in (zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE)]
    files += [own.with_(filters=(kind,)).png() for kind in range(5)]
    files += [own.with_(interlaced=True).png(), own.with_(pieces=3, filters=(4, 2)).png()]
    files.append(SIGNATURE + b"".join(own.chunks(zlib.compress(own.scanlines(), 0))))
    assert len(set(files)) == len(files)
    return files
