"""Small files that ask for much memory or work, and what becomes of each.

Run as a program, it loads them all and prints a line of JSON for each: its name, what should come
of it and what came, its length, and by how many bytes the peak of the process's memory grew.
"""

import io
import json
import resource
import struct
import sys
import zlib
from collections.abc import Iterator

from PIL import Image

from langchain_image_variation.exceptions import ImageVariationError
from langchain_image_variation.source import load_source
from tests.images.encoder import RGB, SIGNATURE, chunk
from tests.images.valid import drawn

INFLATED = 400 * 2**20
"""What one of the compressed chunks would inflate to, in bytes."""

LOADED = "loaded"
"""What comes of a file that is read as if it had nothing in it but its picture."""


def files() -> Iterator[tuple[str, bytes, str]]:
    """Yield a name, a file, and the beginning of its error or `LOADED`."""
    picture, zeros = drawn(RGB, 8), _zeros(INFLATED)
    corrupt = "image is a corrupt PNG"
    text = b"Comment" + b"\0\0"
    yield "zTXt", picture.with_(first=chunk(b"zTXt", text + zeros)).png(), LOADED
    yield "zTXt after", picture.with_(last=chunk(b"zTXt", text + zeros) * 5).png(), LOADED
    yield "iTXt", picture.with_(first=chunk(b"iTXt", b"k\0\1\0\0\0" + zeros)).png(), LOADED
    yield "iCCP", picture.with_(first=chunk(b"iCCP", text + zeros)).png(), corrupt
    yield "large tEXt", picture.with_(first=chunk(b"tEXt", b"k\0" + b"v" * 2**23)).png(), LOADED
    yield "many texts", picture.with_(first=chunk(b"tEXt", b"k\0v") * 16_000).png(), LOADED
    yield "too many texts", picture.with_(first=chunk(b"tEXt") * 300_000).png(), "image has more"
    yield "zeros", SIGNATURE + bytes(2**23), corrupt
    yield "many IDAT", picture.with_(last=b"", pieces=10**6).png(), LOADED
    empty = chunk(b"IDAT") * 16_000
    yield "empty IDAT", picture.with_(second=empty).png(), LOADED
    yield "pixels behind the last", _file(picture.header(), zeros), corrupt
    wide = struct.pack(">II5B", 60_000, 60_000, 8, 2, 0, 0, 0)
    yield "many pixels", _file(wide, zeros), "image is 60000x60000, 3,600,000,000 pixels"
    long = struct.pack(">II5B", 2**31 - 1, 2**31 - 1, 16, 6, 0, 0, 1)
    yield "most pixels", _file(long, zeros), "image is 2147483647x2147483647"
    frames = chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))
    frame = chunk(b"fcTL", bytes(26)) + chunk(b"fdAT", bytes(4) + zeros)
    yield "animated PNG", picture.with_(first=frames, last=frame * 3).png(), LOADED
    yield "animated GIF", _animation("GIF"), LOADED
    yield "animated WebP", _animation("WEBP"), LOADED
    screen = b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6)
    pixels = "image has more than 89,478,485 pixels"
    yield "large GIF", screen + b",\0\0\0\0\xff\xff\xff\xff\0\2\2\4\1\0;", pixels
    yield "endless TIFF", _endless_tiff(), LOADED


def _zeros(length: int) -> bytes:
    """Return a zlib stream (RFC 1950) of so many zeros, a thousandth of them long."""
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    count = length // 2**20
    checksum = (length % 65521) << 16 | 1
    return b"\x78\xda" + block * count + b"\x03\0" + struct.pack(">I", checksum)


def _file(header: bytes, body: bytes) -> bytes:
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND")


def _animation(format: str) -> bytes:
    frames = [Image.new("L", (64, 64), number % 256) for number in range(400)]
    buffer = io.BytesIO()
    frames[0].save(buffer, format, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def _endless_tiff() -> bytes:
    """Return a TIFF whose list of pages leads back to its first."""
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "TIFF")
    data = bytearray(buffer.getvalue())
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    struct.pack_into("<I", data, at + 2 + 12 * count, at)
    return bytes(data)


def _peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    """Load every bomb and say what came of it."""
    bombs = list(files())
    # Modules that are imported at first use take memory too.
    load_source(drawn(RGB, 8).with_(first=chunk(b"gAMA", b"\0\1\x86\xa0")).png())
    for name, data, expected in bombs:
        before = _peak()
        try:
            load_source(data)
            outcome = LOADED
        except ImageVariationError as error:
            outcome = error.message
        print(json.dumps([name, expected, outcome, len(data), _peak() - before]))


if __name__ == "__main__":
    main()
