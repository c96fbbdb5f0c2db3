"""The corpus of corrupt PNG files: square images with every kind of damage, one per file."""

import struct
import zlib
from collections.abc import Iterator

from tests.images.encoder import (
    GRAY,
    INDEXED,
    RGB,
    RGBA,
    SIGNATURE,
    SampleImage,
    chunk,
    join_chunks,
    split_chunks,
)
from tests.images.valid import ancillary, random_image

ANCILLARY = {name: (before, after) for name, before, after in ancillary()}


def groups() -> dict[str, list[tuple[str, bytes]]]:
    """Return every corrupt file with a name that describes the damage, by kind of damage."""
    return {
        "signature": list(_signatures()),
        "header": list(_headers()),
        "checksum": list(_checksums()),
        "order": list(_orders()),
        "cut": list(_cuts()),
        "length": list(_lengths()),
        "stream": list(_streams()),
        "value": list(_values()),
    }


def _signatures() -> Iterator[tuple[str, bytes]]:
    """Damage to the signature, from PngSuite, and the damage that it is meant to detect (5.2)."""
    rest = random_image(RGB, 8).png()[8:]
    for name, start in {
        "no signature": b"",
        "high bit cleared": b"\x09PNG\r\n\x1a\n",
        "CR LF to LF": b"\x89PNG\n\x1a\n",
        "LF to CR LF": b"\x89PNG\r\r\n\x1a\r\n",
        "LF to CR": b"\x89PNG\r\r\x1a\r",
        "CR to LF": b"\x89PNG\n\n\x1a\n",
        "cut at the end of text": b"\x89PNG\r\n",
        "lower case": b"\x89png\r\n\x1a\n",
        "MNG": b"\x8aMNG\r\n\x1a\n",
        "NUL bytes left out": SIGNATURE,
    }.items():
        yield name, start + (rest.replace(b"\0", b"") if start == SIGNATURE else rest)
    yield "line ends of the whole file", (SIGNATURE + rest).replace(b"\n", b"\r\n")
    yield "seven bits", bytes(byte & 127 for byte in SIGNATURE + rest)


def _headers() -> Iterator[tuple[str, bytes]]:
    valid_image = random_image(RGB, 8)
    _, *others = split_chunks(valid_image.png())
    for changes in (
        *({"width": 0}, {"height": 0}, {"width": 2**31, "height": 2**31}),
        *({"width": 2**32 - 1}, {"compression": 1}, {"compression": 255}),
        *({"filtering": 1}, {"filtering": 64}, {"interlace": 2}, {"interlace": 255}),
        *({"width": 8, "height": 8}, {"width": 10, "height": 10}, {"interlace": 1}),
    ):
        yield f"IHDR {changes}", join_chunks([(b"IHDR", valid_image.header(**changes)), *others])
    for color_type in range(8):
        for depth in (0, 1, 2, 3, 4, 7, 8, 16, 32, 99):
            if (color_type, depth) != (RGB, 8):
                # The legal pairs are wrong too: the pixels are not theirs.
                body = valid_image.header(color_type=color_type, depth=depth)
                yield f"type {color_type} depth {depth}", join_chunks([(b"IHDR", body), *others])
    for length in (0, 12, 14):
        body = (valid_image.header() + b"\0")[:length]
        yield f"IHDR of {length} bytes", join_chunks([(b"IHDR", body), *others])


def _checksums() -> Iterator[tuple[str, bytes]]:
    indexed = random_image(INDEXED, 4)
    full = indexed.replace_fields(trns=(9,), pieces=3).chunks()
    for number, part in enumerate(full):
        broken = [*full[:number], part[:-1] + bytes([part[-1] ^ 1]), *full[number + 1 :]]
        yield f"checksum of chunk {number}, {part[4:8].decode()}", SIGNATURE + b"".join(broken)
    for name, (before, after) in ANCILLARY.items():
        if name != "with many texts":
            before, after = (part and part[:-1] + bytes([part[-1] ^ 1]) for part in (before, after))
            yield (
                f"checksum {name}",
                random_image(RGB, 8).replace_fields(first=before, last=after).png(),
            )
    yield "name IDAT damaged", random_image(RGB, 8).png().replace(b"IDAT", b"iDAT")


def _orders() -> Iterator[tuple[str, bytes]]:
    indexed = split_chunks(random_image(INDEXED, 8).replace_fields(trns=(9,), pieces=2).png())
    ihdr, plte, trns, idat, more, iend = indexed
    for name, chunks in {
        "no IHDR": [plte, trns, idat, more, iend],
        "no PLTE": [ihdr, idat, more, iend],
        "no IDAT": [ihdr, plte, trns, iend],
        "no IEND": [ihdr, plte, trns, idat, more],
        "no chunk": [],
        "IEND only": [iend],
        "IEND first": [iend, ihdr, plte, idat, more],
        "IEND early": [ihdr, plte, idat, iend, more, iend],
        "IHDR second": [plte, ihdr, idat, more, iend],
        "IHDR last": [plte, idat, more, ihdr, iend],
        "text before IHDR": [(b"tEXt", b"a\0b"), ihdr, plte, idat, more, iend],
        "two IHDR": [ihdr, ihdr, plte, idat, more, iend],
        "two PLTE": [ihdr, plte, plte, idat, more, iend],
        "PLTE after IDAT": [ihdr, idat, more, plte, iend],
        "PLTE between IDAT": [ihdr, plte, idat, plte, more, iend],
        "tRNS before PLTE": [ihdr, trns, plte, idat, more, iend],
        "tRNS after IDAT": [ihdr, plte, idat, more, trns, iend],
        "two tRNS": [ihdr, plte, trns, trns, idat, more, iend],
        "IDAT apart": [ihdr, plte, idat, trns, more, iend],
        "text between IDAT": [ihdr, plte, idat, (b"gAMA", b"\0\0\xb1\x8f"), more, iend],
        "IDAT reversed": [ihdr, plte, more, idat, iend],
        "first IDAT missing": [ihdr, plte, more, iend],
        "last IDAT missing": [ihdr, plte, idat, iend],
        "IDAT twice": [ihdr, plte, idat, more, idat, more, iend],
        "unknown critical chunk": [ihdr, plte, (b"NEWc", b""), idat, more, iend],
        "unknown critical chunk after": [ihdr, plte, idat, more, (b"CgBI", b""), iend],
        "gAMA after PLTE": [ihdr, plte, (b"gAMA", b"\0\0\xb1\x8f"), idat, more, iend],
        "gAMA after IDAT": [ihdr, plte, idat, more, (b"gAMA", b"\0\0\xb1\x8f"), iend],
        "two gAMA": [ihdr, (b"gAMA", b"\0\0\xb1\x8f"), (b"gAMA", b"\0\0\xff\xff"), *indexed[1:]],
        "two eXIf": [ihdr, (b"eXIf", b"MM\0*"), (b"eXIf", b"MM\0*"), *indexed[1:]],
        "two iCCP": [ihdr, (b"iCCP", b"a\0\0"), (b"iCCP", b"a\0\0"), *indexed[1:]],
        "PLTE after IDAT in RGB": [*split_chunks(random_image(RGB, 8).png())[:2], plte, iend],
        "IEND with content": [ihdr, plte, idat, more, (b"IEND", b"more")],
    }.items():
        yield name, join_chunks(chunks)


def _cuts() -> Iterator[tuple[str, bytes]]:
    data = (
        random_image(INDEXED, 4)
        .replace_fields(pieces=2, trns=(9,), first=ANCILLARY["with gAMA"][0])
        .png()
    )
    for length in range(1, len(data)):
        yield f"cut at byte {length}", data[:length]


def _lengths() -> Iterator[tuple[str, bytes]]:
    chunks = (
        random_image(INDEXED, 4).replace_fields(first=ANCILLARY["with tEXt before"][0]).chunks()
    )
    for number, part in enumerate(chunks):
        (right,) = struct.unpack_from(">I", part)
        wrong_lengths = {right - 1, right + 1, right + 10**6, 2**31 - 1, 2**31, 2**32 - 1} - {-1}
        for length in sorted(wrong_lengths):
            broken = [*chunks[:number], struct.pack(">I", length) + part[4:]]
            data = SIGNATURE + b"".join(broken + chunks[number + 1 :])
            yield f"length {length} of chunk {number}, {part[4:8].decode()}", data
    for name in (b"IDA\0", b"ID T", b"1DAT", b"ID\xc3\x84", b"\0\0\0\0"):
        _, *others = split_chunks(random_image(RGB, 8).png())
        yield (
            f"name {name!r}",
            join_chunks([(b"IHDR", random_image(RGB, 8).header()), (name, b""), *others]),
        )


def _streams() -> Iterator[tuple[str, bytes]]:
    for interlaced in (False, True):
        valid_image = random_image(RGBA, 8).replace_fields(interlaced=interlaced, filters=(4,))
        raw, packed = valid_image.scanlines(), valid_image.body()
        for name, body in {
            "no zlib stream": b"\xff" * 40,
            "one byte": b"\x78",
            "nothing": b"",
            "bare deflate": packed[2:-4],
            "gzip": zlib.compress(raw, wbits=31),
            "preset dictionary": b"\x78\xbb" + packed[2:],
            "wrong checksum": packed[:-1] + bytes([packed[-1] ^ 1]),
            "no checksum": packed[:-4],
            "half a checksum": packed[:-2],
            "bytes behind": packed + b"hidden",
            "a second stream behind": packed + packed,
            "a damaged byte": packed[:20] + bytes([packed[20] ^ 8]) + packed[21:],
            "cut short": packed[: len(packed) // 2],
            "a byte too few": zlib.compress(raw[:-1]),
            "a row too few": zlib.compress(raw[:-37]),
            "no rows": zlib.compress(b""),
            "a byte too many": zlib.compress(raw + b"\0"),
            "a row too many": zlib.compress(raw + raw[-37:]),
            "twice the rows": zlib.compress(raw * 2),
            "filter 5 first": zlib.compress(b"\x05" + raw[1:]),
            "filter 255": zlib.compress(b"\xff" + raw[1:]),
            "filter 5 last": zlib.compress(raw[:-37] + b"\x05" + raw[-36:]),
        }.items():
            chunks = valid_image.chunks(body) if body else [chunk(b"IHDR", valid_image.header())]
            end = [] if body else [chunk(b"IDAT"), chunk(b"IEND")]
            yield f"{name}{' interlaced' * interlaced}", SIGNATURE + b"".join(chunks + end)


def _values() -> Iterator[tuple[str, bytes]]:
    indexed = random_image(INDEXED, 8)
    for depth in (1, 2, 4, 8):
        short = random_image(INDEXED, depth)
        top = max(max(row) for row in short.rows)[0]
        yield (
            f"index beyond the palette, depth {depth}",
            short.replace_fields(palette=short.palette[:top]).png(),
        )
    ihdr, plte, idat, iend = split_chunks(indexed.png())
    for length in (0, 1, 2, 767, 771):
        body = (plte[1] * 2)[:length]
        yield f"PLTE of {length} bytes", join_chunks([ihdr, (b"PLTE", body), idat, iend])
    yield "PLTE in gray", random_image(GRAY, 8).replace_fields(palette=[(1, 2, 3)]).png()
    yield "tRNS beside alpha", random_image(RGBA, 8).replace_fields(trns=(1, 2, 3)).png()
    yield "tRNS longer than PLTE", random_image(INDEXED, 2).replace_fields(trns=(9,) * 5).png()
    yield "tRNS of gray too short", _with(random_image(GRAY, 8), chunk(b"tRNS", b"\0"))
    yield "tRNS of color too short", _with(random_image(RGB, 8), chunk(b"tRNS", b"\0\0"))
    yield "tRNS of color too long", _with(random_image(RGB, 8), chunk(b"tRNS", bytes(8)))
    for name, length in ((b"gAMA", 4), (b"cHRM", 32), (b"sRGB", 1), (b"cICP", 4)):
        for wrong_length in sorted({0, length - 1, length + 1}):
            yield (
                f"{name.decode()} of {wrong_length} bytes",
                _with(random_image(RGB, 8), chunk(name, bytes(wrong_length))),
            )


def _with(sample: SampleImage, extra: bytes) -> bytes:
    return sample.replace_fields(first=extra).png()
