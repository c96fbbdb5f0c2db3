"""AVIF and HEIC files that take too much work are refused before a decoder sees them."""

import struct
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from langchain_image_variation.exceptions import ImageVariationError, InvalidImageError
from langchain_image_variation.images.isobmff import (
    MAX_EXIF_BLOCKS,
    MAX_META_BYTES,
    MAX_TRACKS,
    MAX_UNITS,
    read_structure,
)
from langchain_image_variation.images.work_limits import MAX_HEIF_PIXELS, MAX_PIXELS, check_work
from langchain_image_variation.source import load_source
from tests.images.avif_heic import avif, heic
from tests.images.test_formats import ramp

FTYP = b"\0\0\0\x18ftypmif1\0\0\0\0mif1"
AVIF, HEIC = FTYP + b"avif", FTYP + b"heic"


def box(kind: bytes, *parts: bytes) -> bytes:
    """Return a box (ISO/IEC 14496-12, 4.2)."""
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + kind + body


def heif(
    items: Sequence[tuple[bytes, int, int, bytes]],
    references: Mapping[int, Sequence[int]] | None = None,
    *,
    brand: bytes = HEIC,
    extra: bytes = b"",
    properties: Sequence[bytes] = (),
) -> bytes:
    """Return a file with items, each with its type, width, height and data. The first is shown.

    Each item has its size and the further properties.
    """
    zeros = bytes(4)
    infe, ispe, ipma, mdat = b"", b"", b"", b"".join(item[3] for item in items)
    for number, (kind, width, height, _) in enumerate(items, 1):
        infe += box(b"infe", b"\2\0\0\0", struct.pack(">HH4s", number, 0, kind), b"\0")
        ispe += box(b"ispe", zeros, struct.pack(">II", width, height))
        further = range(len(items) + 1, len(items) + 1 + len(properties))
        ipma += struct.pack(">HB", number, 1 + len(further)) + bytes([number, *further])
    iref = b"".join(
        box(b"dimg", struct.pack(f">HH{len(parts)}H", source, len(parts), *parts))
        for source, parts in (references or {}).items()
    )

    def meta(offset: int) -> bytes:
        iloc = struct.pack(">4xBBH", 0x44, 0, len(items))
        for number, (*_, data) in enumerate(items, 1):
            iloc += struct.pack(">HHHII", number, 0, 1, offset, len(data))
            offset += len(data)
        return box(
            b"meta",
            *(zeros, box(b"pitm", zeros, b"\0\1"), box(b"iloc", iloc), box(b"iref", zeros, iref)),
            *(box(b"iinf", zeros, struct.pack(">H", len(items)), infe), extra),
            box(
                b"iprp",
                box(b"ipco", ispe, *properties),
                box(b"ipma", zeros, zeros[:3], bytes([len(items)]), ipma),
            ),
        )

    start = len(brand) + len(meta(0)) + 8
    return brand + meta(start) + box(b"mdat", mdat)


@pytest.mark.slow
def test_the_pixels_of_real_files_are_counted() -> None:
    """An image counts once, with its transparency, its tiles and the first frame of a sequence."""
    assert read_structure(avif(ramp())).decoded_pixels == 64 * 48
    assert read_structure(avif(ramp("RGBA"))).decoded_pixels == 2 * 64 * 48
    assert read_structure(avif(ramp(), ramp())).decoded_pixels == 2 * 64 * 48
    # The encoder pads to 64 pixels.
    assert read_structure(heic(ramp())).decoded_pixels == 64 * 64
    assert read_structure(heic(ramp("RGBA"))).decoded_pixels == 2 * 64 * 64
    assert read_structure(heic(ramp(), ramp())).decoded_pixels == 64 * 64
    tiled = read_structure(heic(ramp(size=(1000, 600)), tile_size=256))
    assert tiled.decoded_pixels == 1000 * 600 + 4 * 3 * 256 * 256
    assert tiled.largest_image_pixels == 1000 * 600


@pytest.mark.mostly_slow("0-RGB", "1-L")
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("later", [0, 1])
def test_the_size_in_av1_data_counts(mode: str, later: int) -> None:
    """The size that the decoder will use is read from the data, for images and sequences."""
    image = Image.new(mode, (640, 400))
    data = avif(image, *[image.rotate(180)] * later)
    start = 0
    while (start := data.find(b"ispe", start) + 8) > 7:
        data = data[:start] + struct.pack(">II", 8, 8) + data[start + 8 :]
    assert read_structure(data).largest_image_pixels == 640 * 400


def test_a_small_avif_of_a_large_image_is_refused() -> None:
    """A file of 64x64 pixels that makes a decoder decode 100 million first is refused."""
    # A sequence header: profile 0, a still picture, the reduced form, level 0, 14 bits for the
    # width less 1 and as many for the height (AV1 specification, 5.5.1).
    bits = f"000 1 1 00000 1101 1101 {9999:014b} {9999:014b} 00".replace(" ", "")
    body = int(bits, 2).to_bytes(len(bits) // 8)
    data = heif([(b"av01", 64, 64, bytes([1 << 3 | 2, len(body)]) + body)], brand=AVIF)
    with pytest.raises(InvalidImageError, match="a part of 100,000,000 pixels; the limit is 89,47"):
        load_source(data)


def test_images_that_repeat_their_parts_are_refused() -> None:
    """Each use of a part counts, even if a small file multiplies it a million times."""
    tile = (b"hvc1", 512, 512, b"")
    assert read_structure(heif([(b"grid", 1024, 512, b""), tile], {1: [2, 2]})).decoded_pixels == (
        1024 * 512 + 2 * 512 * 512
    )
    levels = [(b"iovl", 512, 512, b"")] * 40
    doubling = {number: [number + 1, number + 1] for number in range(1, 41)}
    for data in (
        heif([(b"grid", 9000, 9000, b""), tile], {1: [2] * 1_200}),
        heif([(b"grid", 9000, 9000, b""), tile], {1: [2] * 65_535}),
        heif([*levels, tile], doubling),
    ):
        with pytest.raises(InvalidImageError, match=f"pixels; the limit is {MAX_HEIF_PIXELS:,}"):
            check_work(data)


def test_parts_that_lead_in_a_circle_are_our_error() -> None:
    """An image that contains itself is refused by the decoder, and counting it ends."""
    item = (b"iden", 64, 64, b"")
    for references in ({1: [1]}, {1: [2], 2: [1]}, {1: [2, 3], 2: [3], 3: [2]}):
        data = heif([item] * 3, references)
        assert read_structure(data).decoded_pixels < 64 * 64 * 10
        with pytest.raises(ImageVariationError):
            load_source(data)


def test_hidden_frames_count() -> None:
    """Each frame in the data of an image counts, because a decoder decodes all of them."""
    nal = struct.pack(">I", 3) + b"\x02\1\x80"
    second_slice = struct.pack(">I", 3) + b"\x02\1\x00"
    structure = read_structure(heif([(b"hvc1", 100, 100, (nal + second_slice) * 7)]))
    assert structure.decoded_pixels == 7 * 100 * 100
    frame = b"\x32\1\0"
    structure = read_structure(heif([(b"av01", 100, 100, frame * 9)], brand=AVIF))
    assert structure.decoded_pixels == 9 * 100 * 100
    empty_nal, empty_obu = bytes(4), b"\x12\0"
    for kind, brand, unit, empty_unit in (
        (b"hvc1", HEIC, nal, empty_nal),
        (b"av01", AVIF, frame, empty_obu),
    ):
        with pytest.raises(InvalidImageError, match="pixels; the limit is"):
            check_work(heif([(kind, 1000, 1000, unit * 400)], brand=brand))
        with pytest.raises(InvalidImageError, match=f"more than {MAX_UNITS:,} coded units"):
            check_work(heif([(kind, 1, 1, empty_unit * 10**6)], brand=brand))
    sequence_header = b"\x0a\1\0"
    check_work(heif([(b"av01", 1, 1, sequence_header * (MAX_UNITS // 16))], brand=AVIF))
    with pytest.raises(InvalidImageError, match=f"more than {MAX_UNITS:,} coded units"):
        check_work(heif([(b"av01", 1, 1, sequence_header * (MAX_UNITS // 16 + 1))], brand=AVIF))


def test_overlapping_parts_are_refused() -> None:
    """Parts that together are longer than the file are not read."""
    data = heif([(b"hvc1", 8, 8, b""), (b"Exif", 0, 0, bytes(4000)), (b"Exif", 0, 0, bytes(4000))])
    assert len(read_structure(data).exif) == 2
    start = data.index(b"iloc")
    for number in (2, 3):
        # The data of both begin at the start of the file.
        at = data.index(struct.pack(">HHH", number, 0, 1), start) + 6
        data = data[:at] + struct.pack(">II", 0, len(data)) + data[at + 8 :]
    with pytest.raises(InvalidImageError, match=r"with parts of [\d,]+ bytes; the limit is"):
        check_work(data)


def test_overlapping_exif_values_are_refused() -> None:
    """Overlapping values are refused, because Pillow before 13.0 copies each of AVIF's Exif."""
    entries = b"".join(struct.pack("<HHII", 0x100 + n, 7, 2_000, 40) for n in range(40))
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 40) + entries + bytes(3_000)
    data = heif([(b"av01", 8, 8, b""), (b"Exif", 0, 0, bytes(4) + exif)], brand=AVIF)
    with pytest.raises(InvalidImageError, match="metadata values overlap more than 4 times"):
        load_source(data)


def test_long_lists_are_refused() -> None:
    """The list of items, the blocks of Exif and the number of tracks are limited."""
    long_list = heif([(b"hvc1", 8, 8, b"")], extra=box(b"free", bytes(MAX_META_BYTES)))
    with pytest.raises(InvalidImageError, match=r"a list of its parts of [\d,]+ bytes; the limit"):
        check_work(long_list)
    block = (b"Exif", 0, 0, bytes(12))
    check_work(heif([(b"hvc1", 8, 8, b""), *[block] * MAX_EXIF_BLOCKS]))
    with pytest.raises(InvalidImageError, match="with 17 blocks of Exif; the limit is 16"):
        check_work(heif([(b"hvc1", 8, 8, b""), *[block] * (MAX_EXIF_BLOCKS + 1)]))
    tracks = box(b"trak") * MAX_TRACKS
    check_work(AVIF + box(b"moov", tracks))
    with pytest.raises(InvalidImageError, match="with 9 tracks; the limit is 8"):
        check_work(AVIF + box(b"moov", tracks, box(b"trak")))


def test_parts_that_are_listed_twice_are_refused() -> None:
    """Decoders disagree about which of two entries counts, and too many boxes are refused."""
    item = (b"hvc1", 8, 8, b"")
    entry = box(b"infe", b"\2\0\0\0", struct.pack(">HH4s", 1, 0, b"mime"), b"\0")
    for extra in (box(b"pitm", bytes(4), b"\0\2"), box(b"iinf", bytes(4), b"\0\1", entry)):
        with pytest.raises(InvalidImageError, match="lists a part twice"):
            check_work(heif([item], extra=extra))
    check_work(heif([item], properties=[box(b"hvcC", bytes(23)), box(b"colr"), box(b"colr")]))
    listed_twice = heif([item], properties=[box(b"hvcC", bytes(23))] * 2)
    second_list, second_movie = heif([item]) + box(b"meta"), AVIF + box(b"moov") * 2
    for data in (listed_twice, second_list, second_movie):
        with pytest.raises(InvalidImageError, match="lists a part twice"):
            check_work(data)
    with pytest.raises(InvalidImageError, match="more than 4,096 boxes in one place"):
        check_work(heif([item], extra=box(b"free") * 5_000))


_KINDS = st.sampled_from(
    [
        *(b"meta", b"pitm", b"iinf", b"infe", b"iloc", b"iref", b"dimg", b"auxl", b"iprp", b"ipco"),
        *(b"ipma", b"ispe", b"hvcC", b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"stsz"),
    ]
)
_BOXES = st.recursive(
    st.binary(max_size=40),
    lambda parts: st.lists(st.builds(box, _KINDS, st.just(bytes(4)) | st.just(b""), parts)).map(
        b"".join
    ),
    max_leaves=12,
)


@pytest.mark.slow
@given(st.sampled_from([AVIF, HEIC]), _BOXES)
def test_any_boxes_are_counted_or_our_error(brand: bytes, boxes: bytes) -> None:
    """Boxes in any order, with any content, raise nothing but our own errors."""
    try:
        assert read_structure(brand + boxes).decoded_pixels >= 0
    except InvalidImageError as error:
        assert len(error.message) < 250


@given(st.integers(0, 2_000), st.binary(min_size=1, max_size=6), st.booleans())
def test_a_damaged_file_is_counted_or_our_error(at: int, damage: bytes, is_avif: bool) -> None:
    """A real file with any few bytes replaced raises nothing but our own errors."""
    data = _SAMPLES[is_avif]
    at %= len(data)
    data = data[:at] + damage + data[at + len(damage) :]
    try:
        assert read_structure(data).largest_image_pixels >= 0
    except InvalidImageError as error:
        assert len(error.message) < 250


_SAMPLES = [heif([(b"grid", 64, 64, bytes(8)), (b"hvc1", 32, 32, bytes(99))], {1: [2] * 4})]
_SAMPLES.append(avif(ramp("RGBA"), ramp("RGBA")))


def test_the_limit_on_pixels_is_that_of_sources() -> None:
    """The largest source is allowed as one image, with tiles and transparency."""
    side = int(MAX_PIXELS**0.5)
    tile = (b"hvc1", side, side, b"")
    check_work(heif([(b"grid", side, side, b""), tile], {1: [2]}))
