"""Small files that need much memory or work if they are decoded without care.

Run as a program, this module loads them all. For each it prints a line of JSON: the name, the
expected and the actual outcome, the length, and the growth of the peak memory in bytes.
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
from tests.images.valid import random_image

DECOMPRESSED_BYTES = 400 * 2**20
"""The decompressed size of each compressed chunk."""

LOADED = "loaded"
"""The outcome of a file whose image is loaded, and nothing else in it."""


def files() -> Iterator[tuple[str, bytes, str]]:
    """Yield a name, a file, and the start of the expected error or `LOADED`."""
    sample, zeros = random_image(RGB, 8), _zeros(DECOMPRESSED_BYTES)
    corrupt = "image is a corrupt PNG"
    text = b"Comment" + b"\0\0"
    yield "zTXt", sample.replace_fields(first=chunk(b"zTXt", text + zeros)).png(), LOADED
    yield "zTXt after", sample.replace_fields(last=chunk(b"zTXt", text + zeros) * 5).png(), LOADED
    yield "iTXt", sample.replace_fields(first=chunk(b"iTXt", b"k\0\1\0\0\0" + zeros)).png(), LOADED
    yield "iCCP", sample.replace_fields(first=chunk(b"iCCP", text + zeros)).png(), corrupt
    yield (
        "large tEXt",
        sample.replace_fields(first=chunk(b"tEXt", b"k\0" + b"v" * 2**23)).png(),
        LOADED,
    )
    yield "many texts", sample.replace_fields(first=chunk(b"tEXt", b"k\0v") * 16_000).png(), LOADED
    yield (
        "too many texts",
        sample.replace_fields(first=chunk(b"tEXt") * 300_000).png(),
        "image exceeds the limit of",
    )
    yield "zeros", SIGNATURE + bytes(2**23), corrupt
    yield "many IDAT", sample.replace_fields(last=b"", pieces=10**6).png(), LOADED
    empty = chunk(b"IDAT") * 16_000
    yield "empty IDAT", sample.replace_fields(second=empty).png(), LOADED
    yield "pixels behind the last", _file(sample.header(), zeros), corrupt
    wide = struct.pack(">II5B", 60_000, 60_000, 8, 2, 0, 0, 0)
    yield "many pixels", _file(wide, zeros), "image is 60000x60000, 3,600,000,000 pixels"
    long = struct.pack(">II5B", 2**31 - 1, 2**31 - 1, 16, 6, 0, 0, 1)
    yield "most pixels", _file(long, zeros), "image is 2147483647x2147483647"
    frames = chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))
    frame = chunk(b"fcTL", bytes(26)) + chunk(b"fdAT", bytes(4) + zeros)
    yield "animated PNG", sample.replace_fields(first=frames, last=frame * 3).png(), LOADED
    yield "animated GIF", _animation("GIF"), LOADED
    yield "animated WebP", _animation("WEBP"), LOADED
    screen = b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6)
    pixels = "image exceeds the limit of 89,478,485 pixels"
    yield "large GIF", screen + b",\0\0\0\0\xff\xff\xff\xff\0\2\2\4\1\0;", pixels
    yield "endless TIFF", _endless_tiff(), LOADED


def _zeros(length: int) -> bytes:
    """Return a zlib stream (RFC 1950) of zeros. It is a thousandth of their length."""
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
    """Return a TIFF whose list of pages leads back to the first page."""
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "TIFF")
    data = bytearray(buffer.getvalue())
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    struct.pack_into("<I", data, start + 2 + 12 * count, start)
    return bytes(data)


def _peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    """Load every bomb and print the outcome."""
    bombs = list(files())
    # Modules that are imported on first use take memory too.
    load_source(random_image(RGB, 8).replace_fields(first=chunk(b"gAMA", b"\0\1\x86\xa0")).png())
    for name, data, expected in bombs:
        peak_before = _peak()
        try:
            load_source(data)
            outcome = LOADED
        except ImageVariationError as error:
            outcome = error.message
        print(json.dumps([name, expected, outcome, len(data), _peak() - peak_before]))


if __name__ == "__main__":
    main()
