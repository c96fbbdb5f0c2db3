"""The corpus of corrupt PNG files: square images with every kind of damage, one per file.

Files with damage that viewers do not mind are kept apart, with the image that viewers show.
"""

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
        if part[4:8] not in (b"tRNS", b"IEND"):
            damaged = [*full[:number], _with_wrong_checksum(part), *full[number + 1 :]]
            yield f"checksum of chunk {number}, {part[4:8].decode()}", SIGNATURE + b"".join(damaged)
    suggested_palette = _with_wrong_checksum(chunk(b"PLTE", bytes(9)))
    yield "checksum of PLTE in RGB", _with(random_image(RGB, 8), suggested_palette)
    yield "name IDAT damaged", random_image(RGB, 8).png().replace(b"IDAT", b"iDAT")


def _orders() -> Iterator[tuple[str, bytes]]:
    indexed = split_chunks(random_image(INDEXED, 8).replace_fields(trns=(9,), pieces=2).png())
    ihdr, plte, trns, idat, more, iend = indexed
    rgb_ihdr, rgb_idat, _ = split_chunks(random_image(RGB, 8).png())
    for name, chunks in {
        "no IHDR": [plte, trns, idat, more, iend],
        "no PLTE": [ihdr, idat, more, iend],
        "no IDAT": [ihdr, plte, trns, iend],
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
        "two PLTE in RGB": [rgb_ihdr, plte, plte, rgb_idat, iend],
        "PLTE before IHDR": [plte, ihdr, trns, idat, more, iend],
        "IDAT apart": [ihdr, plte, idat, trns, more, iend],
        "text between IDAT": [ihdr, plte, idat, (b"gAMA", b"\0\0\xb1\x8f"), more, iend],
        "IDAT reversed": [ihdr, plte, more, idat, iend],
        "first IDAT missing": [ihdr, plte, more, iend],
        "last IDAT missing": [ihdr, plte, idat, iend],
        "IDAT twice": [ihdr, plte, idat, more, idat, more, iend],
        "unknown critical chunk": [ihdr, plte, (b"NEWc", b""), idat, more, iend],
        "unknown critical chunk after": [ihdr, plte, idat, more, (b"CgBI", b""), iend],
    }.items():
        yield name, join_chunks(chunks)


_TO_CUT = random_image(INDEXED, 4).replace_fields(
    pieces=2, trns=(9,), first=ANCILLARY["with gAMA"][0]
)


def _cuts() -> Iterator[tuple[str, bytes]]:
    data = _TO_CUT.png()
    for length in range(1, len(data)):
        if not _has_all_rows(data[:length], _TO_CUT):
            yield f"cut at byte {length}", data[:length]


def _has_all_rows(data: bytes, sample: SampleImage) -> bool:
    """Return whether all scanlines of a truncated file can be decompressed."""
    bodies = [body for name, body in split_chunks(data) if name == b"IDAT"]
    return zlib.decompressobj().decompress(b"".join(bodies)) == sample.scanlines()


def _lengths() -> Iterator[tuple[str, bytes]]:
    chunks = (
        random_image(INDEXED, 4).replace_fields(first=ANCILLARY["with tEXt before"][0]).chunks()
    )
    for number, part in enumerate(chunks[:-1]):
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


def _with(sample: SampleImage, extra: bytes) -> bytes:
    return sample.replace_fields(first=extra).png()


def _with_wrong_checksum(part: bytes) -> bytes:
    return part and part[:-1] + bytes([part[-1] ^ 1])


def repairable() -> Iterator[tuple[str, bytes, SampleImage]]:
    """Yield files that every viewer opens, and the image that they show.

    The files break a rule in an ancillary chunk or at the end, after the last row of pixels.
    """
    yield from _repairable_checksums()
    yield from _repairable_orders()
    yield from _repairable_values()
    for interlaced in (False, True):
        sample = _TO_CUT.replace_fields(interlaced=interlaced)
        data = sample.png()
        for length in range(1, len(data)):
            if _has_all_rows(data[:length], sample):
                yield f"cut at byte {length}{', interlaced' * interlaced}", data[:length], sample
        for length in (1, 10**6, 2**31 - 1, 2**31, 2**32 - 1):
            end = struct.pack(">I", length) + data[-8:]
            yield f"IEND of {length} bytes{', interlaced' * interlaced}", data[:-12] + end, sample
        yield f"IEND damaged{', interlaced' * interlaced}", data[:-7] + b"?" + data[-6:], sample


def _repairable_checksums() -> Iterator[tuple[str, bytes, SampleImage]]:
    indexed = random_image(INDEXED, 4).replace_fields(pieces=3)
    for number, part in enumerate(full := indexed.replace_fields(trns=(9,)).chunks()):
        if part[4:8] in (b"tRNS", b"IEND"):
            damaged = [*full[:number], _with_wrong_checksum(part), *full[number + 1 :]]
            shown = indexed if part[4:8] == b"tRNS" else indexed.replace_fields(trns=(9,))
            yield f"checksum of {part[4:8].decode()}", SIGNATURE + b"".join(damaged), shown
    for name, parts in ANCILLARY.items():
        if name != "with many texts":
            sample = random_image(RGB, 8)
            before, after = map(_with_wrong_checksum, parts)
            yield f"checksum {name}", sample.replace_fields(first=before, last=after).png(), sample


def _repairable_orders() -> Iterator[tuple[str, bytes, SampleImage]]:
    plain = random_image(INDEXED, 8).replace_fields(pieces=2)
    clear = plain.replace_fields(trns=(9,))
    ihdr, plte, trns, idat, more, iend = chunks = split_chunks(clear.png())
    srgb, linear = (b"gAMA", b"\0\0\xb1\x8f"), (b"gAMA", b"\0\1\x86\xa0")
    exif = (b"eXIf", b"MM\0*")
    for name, order, sample in (
        ("no IEND", [ihdr, plte, trns, idat, more], clear),
        ("tRNS before PLTE", [ihdr, trns, plte, idat, more, iend], plain),
        ("tRNS after IDAT", [ihdr, plte, idat, more, trns, iend], plain),
        ("two tRNS", [ihdr, plte, trns, (b"tRNS", b"\x80"), idat, more, iend], clear),
        ("gAMA after PLTE", [ihdr, plte, linear, trns, idat, more, iend], clear),
        ("gAMA after IDAT", [ihdr, plte, trns, idat, more, linear, iend], clear),
        ("two gAMA", [ihdr, srgb, linear, *chunks[1:]], clear),
        ("two sRGB", [ihdr, (b"sRGB", b"\0"), (b"sRGB", b"\1"), linear, *chunks[1:]], clear),
        ("two eXIf", [ihdr, exif, exif, *chunks[1:]], clear),
        ("two iCCP", [ihdr, (b"iCCP", b"a\0\0"), (b"iCCP", b"a\0\0"), *chunks[1:]], clear),
        ("IEND with content", [ihdr, plte, trns, idat, more, (b"IEND", b"more")], clear),
    ):
        yield name, join_chunks(order), sample
    color = random_image(RGB, 8).replace_fields(pieces=1)
    ihdr, idat, iend = split_chunks(color.png())
    red, green, blue = color.rows[0][0]
    trns = (b"tRNS", struct.pack(">3H", red, green, blue))
    yield "PLTE after IDAT in RGB", join_chunks([ihdr, idat, plte, iend]), color
    yield "tRNS before PLTE in RGB", join_chunks([ihdr, trns, plte, idat, iend]), color


def _repairable_values() -> Iterator[tuple[str, bytes, SampleImage]]:
    gray, color, alpha, indexed = (
        *(random_image(GRAY, 8), random_image(RGB, 8)),
        *(random_image(RGBA, 8), random_image(INDEXED, 2)),
    )
    yield "PLTE in gray", gray.replace_fields(palette=[(1, 2, 3)]).png(), gray
    yield "tRNS beside alpha", alpha.replace_fields(trns=(1, 2, 3)).png(), alpha
    yield "tRNS longer than PLTE", indexed.replace_fields(trns=(9,) * 5).png(), indexed
    yield "tRNS of gray too short", _with(gray, chunk(b"tRNS", b"\0")), gray
    yield "tRNS of color too short", _with(color, chunk(b"tRNS", b"\0\0")), color
    yield "tRNS of color too long", _with(color, chunk(b"tRNS", bytes(8))), color
    for name, length in ((b"gAMA", 4), (b"cHRM", 32), (b"sRGB", 1), (b"cICP", 4)):
        for wrong_length in sorted({0, length - 1, length + 1}):
            data = _with(color, chunk(name, bytes(wrong_length)))
            yield f"{name.decode()} of {wrong_length} bytes", data, color
