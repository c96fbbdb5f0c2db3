import ast
import base64
import io
import re
import struct
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, JpegImagePlugin, MpoImagePlugin, TiffImagePlugin

from langchain_image_variation.agents.tool import ImageVariationTool
from langchain_image_variation.contract import Image as Variation
from langchain_image_variation.contract import ImagesResponse
from langchain_image_variation.exceptions import (
    InvalidImageError,
    OutputError,
)
from langchain_image_variation.http.url_policy import URLPolicy
from langchain_image_variation.images.decoder_errors import translate_decoder_errors
from langchain_image_variation.images.jpeg import count_scanned_samples, read_segments
from langchain_image_variation.images.pixels import as_png, decode_result
from langchain_image_variation.images.png import SquarePNG
from langchain_image_variation.images.tiff import SIGNATURES, read_directories
from langchain_image_variation.images.work_limits import (
    MAX_EXIF_OVERLAP,
    MAX_JPEG_EXIF_SEGMENTS,
    MAX_JPEG_SAMPLES,
    MAX_JPEG_SCANS,
    MAX_JPEG_SEGMENTS,
    MAX_JPEG_STRAY_BYTES,
    check_work,
)
from langchain_image_variation.output import save_images
from langchain_image_variation.output.contact_sheet import ContactSheet
from langchain_image_variation.source import load_source
from langchain_image_variation.source.read import read_stored_file
from pytest_image_variation.conformance.returned_image import ReturnedImage
from pytest_image_variation.samples import square_png
from tests.agents.conversing import Talk, upload
from tests.agents.names import name_of
from tests.images.scans import ARITHMETIC, NON_INTERLEAVED, with_scans

ROOT = Path(__file__).parents[2]
ATTACK = with_scans(300)
REFUSAL = "image is a JPEG file with 300 scans; the limit is 100. Save it again"


def jpeg(image: Image.Image | None = None, **options: Any) -> bytes:
    """Return a JPEG file as Pillow writes it."""
    buffer = io.BytesIO()
    (image or Image.new("L", (16, 16))).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def segment(marker: int, body: bytes = b"") -> bytes:
    """Return a segment of a JPEG file."""
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2) + body


def count_scans(data: bytes) -> int:
    """Return the number of scans in a file."""
    return sum(part.is_scan for part in read_segments(data))


# Every kind of source.


def _from_url(data: bytes) -> object:
    answer = httpx.Response(200, headers={"content-type": "image/jpeg"}, content=data)
    urls = URLPolicy(
        hosts=["images.example"],
        resolve=lambda *_: ["93.184.215.14"],
        transport=httpx.MockTransport(lambda _: answer),
    )
    return load_source("https://images.example/photo.jpg", urls=urls)


def _from_file(data: bytes, folder: Path) -> object:
    (folder / "photo.jpg").write_bytes(data)
    return load_source(folder / "photo.jpg")


def _from_store(data: bytes, folder: Path) -> object:
    (folder / "photo.jpg").write_bytes(data)
    return load_source(read_stored_file(f"local://{folder}/photo.jpg", {})[0])


SOURCES: dict[str, Callable[[bytes, Path], object]] = {
    "path": _from_file,
    "bytes": lambda data, _: load_source(data),
    "open file": lambda data, _: load_source(io.BytesIO(data)),
    "data URL": lambda data, _: load_source(
        f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
    ),
    "data URL of another type": lambda data, _: load_source(
        f"data:image/png;base64,{base64.b64encode(data).decode()}"
    ),
    "https URL": lambda data, _: _from_url(data),
    "store": _from_store,
    "pad": lambda data, _: load_source(data, fit="pad"),
}


@pytest.mark.parametrize("way", SOURCES)
def test_a_source_with_hundreds_of_scans_is_refused(way: str, tmp_path: Path) -> None:
    """Every kind of source with hundreds of scans is refused with the number and the limit."""
    with pytest.raises(InvalidImageError, match=REFUSAL):
        SOURCES[way](ATTACK, tmp_path)


def _response(data: bytes) -> ImagesResponse:
    encoded = base64.b64encode(data).decode()
    return ImagesResponse(created=1, data=[Variation(b64_json=encoded)])


RESULTS: dict[str, Callable[[bytes, Path], object]] = {
    "decode_result": lambda data, _: decode_result(data),
    "as_png": lambda data, _: as_png(data, (256, 256)),
    "save_images": lambda data, folder: save_images(_response(data), folder),
    "contact sheet": lambda data, _: ContactSheet(SquarePNG(square_png(8)), _response(data)),
    "thumbnail": lambda data, _: ContactSheet.thumbnail(SquarePNG(square_png(8)), _response(data)),
}


@pytest.mark.parametrize("way", RESULTS)
def test_a_result_with_hundreds_of_scans_is_refused(way: str, tmp_path: Path) -> None:
    """An OutputError is raised wherever a result of an engine is decoded."""
    with pytest.raises(OutputError, match=f"A result cannot be decoded: {REFUSAL}"):
        RESULTS[way](ATTACK, tmp_path)


def test_a_message_with_hundreds_of_scans_is_refused(tmp_path: Path) -> None:
    """An image in a user's message is refused when the model requests variations of it."""
    tool = ImageVariationTool(engine="instant", root_dir=tmp_path)
    answer = Talk(tool, None, upload(ATTACK)).vary(name_of(ATTACK))
    assert answer.status == "error"
    assert f"{name_of(ATTACK)}: {REFUSAL}" in str(answer.content)


def test_the_kit_does_not_decode_hundreds_of_scans() -> None:
    """The kit does not decode hundreds of scans, which would keep it busy."""
    assert not ReturnedImage.from_bytes(ATTACK).decodable
    assert ReturnedImage.from_bytes(jpeg()).decodable


@pytest.mark.slow
def test_only_open_image_opens_files() -> None:
    """`Image.open` is called only by `open_image`, which limits the work first."""
    calls = [
        path.relative_to(ROOT).as_posix()
        for package in ("langchain_image_variation", "pytest_image_variation")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr == "open"
        and isinstance(node.value, ast.Name)
        and node.value.id == "Image"
    ]
    assert calls == ["langchain_image_variation/images/pixels.py"]
    callers = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "langchain_image_variation").rglob("*.py")
        if re.search(r"open_heic\(|HeifImageFile\(", path.read_text())
    ]
    assert sorted(callers) == [
        "langchain_image_variation/images/heic.py",
        "langchain_image_variation/images/pixels.py",
    ]


# Counting.


def _naive_count(data: bytes) -> int:
    """Count scans byte by byte, as described in the specification (T.81, B.1.1)."""
    at, count = 2, 0
    while at + 1 < len(data):
        if data[at] != 0xFF:
            at += 1
        elif data[at + 1] in (0x00, 0x01, 0xFF, *range(0xD0, 0xD8)):
            at += 1 if data[at + 1] == 0xFF else 2
        elif data[at + 1] == 0xD9:
            return count
        else:
            count += data[at + 1] == 0xDA
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return count


FAKES = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00\xff\xd9\xff\xda\xff\xe1\x00\x02"
# Pillow can encode a progressive file of more than 64 KB only if its image is large.
NOISE = Image.effect_noise((64, 56), 90)
IMAGES = {
    "L": (NOISE, 6),
    "RGB": (Image.merge("RGB", (NOISE, NOISE.rotate(90), NOISE.rotate(180))), 10),
    "CMYK": (Image.merge("CMYK", (NOISE, NOISE.rotate(90), NOISE, NOISE.rotate(180))), 18),
}
"""An image of each mode, and the number of scans in a progressive file that libjpeg writes."""


@pytest.mark.slow
@settings(deadline=None)
@given(
    mode=st.sampled_from(sorted(IMAGES)),
    box=st.tuples(st.integers(1, 64), st.integers(1, 56)),
    progressive=st.booleans(),
    options=st.fixed_dictionaries(
        {},
        optional={
            "quality": st.integers(1, 100),
            "optimize": st.booleans(),
            "subsampling": st.integers(0, 2),
            "restart_marker_blocks": st.integers(1, 20),
            "restart_marker_rows": st.integers(1, 5),
        },
    ),
    fakes=st.fixed_dictionaries(
        {},
        optional={"comment": st.integers(1, 500), "icc_profile": st.integers(1, 500)},
    ),
    thumbnail=st.booleans(),
    after_end=st.sampled_from(["", "fakes", "image"]),
    repeats=st.integers(0, 30),
)
def test_scans_are_counted_exactly(
    mode: str,
    box: tuple[int, int],
    progressive: bool,
    options: dict[str, Any],
    fakes: dict[str, int],
    thumbnail: bool,
    after_end: str,
    repeats: int,
) -> None:
    """Nothing in segments, scan data or after the end is counted, and each file is accepted."""
    image, expected = IMAGES[mode]
    metadata = {name: FAKES * count for name, count in fakes.items()}
    if thumbnail:
        metadata["exif"] = b"Exif\0\0MM\0*" + jpeg(progressive=True)
    data = jpeg(image.crop((0, 0, *box)), progressive=progressive, **options, **metadata)
    tail = {"": b"", "fakes": FAKES, "image": jpeg(progressive=True)}[after_end]
    expected = expected if progressive else 1
    last = data.rindex(b"\xff\xda")
    many = data[:-2] + data[last:-2] * repeats + data[-2:]
    assert count_scans(data + tail) == _naive_count(data + tail) == expected
    assert count_scans(many + tail) == _naive_count(many + tail) == expected + repeats
    check_work(many + tail)
    assert load_source(data + tail).png.side == min(box)


@pytest.mark.parametrize(("data", "count"), [(NON_INTERLEAVED, 3), (ARITHMETIC, 10)])
def test_other_kinds_of_jpeg_are_counted_and_loaded(data: bytes, count: int) -> None:
    """Files with one scan per component or arithmetic coding are counted and loaded."""
    assert count_scans(data) == _naive_count(data) == count
    assert load_source(data).png.side == 16


def test_only_the_first_image_counts() -> None:
    """The other images of an MPO file are not decoded."""
    buffer = io.BytesIO()
    first, *others = [Image.new("L", (16, 16), shade) for shade in range(120)]
    first.save(buffer, "MPO", save_all=True, append_images=others, progressive=True)
    assert count_scans(buffer.getvalue()) == 6
    assert load_source(buffer.getvalue()).png.side == 16


def test_tables_before_the_image_end_nothing() -> None:
    """Decoders continue after an EOI that comes before any scan, and so does the count."""
    tables = b"\xff\xd8" + segment(0xFE, b"no image yet") + b"\xff\xd9"
    assert load_source(tables + jpeg()).png.side == 16
    with pytest.raises(InvalidImageError, match=REFUSAL):
        load_source(tables + ATTACK)


@pytest.mark.parametrize(
    "filling_bytes",
    [b"\xff" * 100, b"\xff\x00" * 50, b"\xff\xd3", b"\xff\x01", b"junk"],
    ids=["fill", "stuffed", "restart", "TEM", "junk"],
)
def test_bytes_between_scans_hide_no_scan(filling_bytes: bytes) -> None:
    """Scans after fill bytes, restart markers or junk are counted, as decoders find them."""
    last = ATTACK.rindex(b"\xff\xda")
    hidden = ATTACK[:last] + filling_bytes + ATTACK[last:]
    assert count_scans(hidden) == _naive_count(hidden) == 300


@pytest.mark.parametrize("length", [0, 1, 2])
def test_a_length_that_is_too_small_hides_no_scan(length: int) -> None:
    """A length below 2 is read as 2, an empty segment, as decoders read it."""
    last = ATTACK.rindex(b"\xff\xda")
    hidden = ATTACK[:last] + b"\xff\xfe" + length.to_bytes(2) + ATTACK[last:]
    with pytest.raises(InvalidImageError, match=REFUSAL):
        load_source(hidden)


@given(data=st.binary(max_size=300), keep=st.integers(0, len(ATTACK)))
def test_any_bytes_are_accepted_or_our_error(data: bytes, keep: int) -> None:
    """A file that is cut off, or continues with other bytes, raises only our own errors."""
    for file in (ATTACK[:keep], ATTACK[:keep] + data, data):
        try:
            check_work(file)
        except InvalidImageError as error:
            assert error.message.startswith(("image is a JPEG file ", "image is a TIFF file "))


# Limits.


def test_a_hundred_scans_are_accepted() -> None:
    """100 scans are accepted, and 101 are refused."""
    assert load_source(with_scans(MAX_JPEG_SCANS)).png.side == 64
    with pytest.raises(InvalidImageError, match="with 101 scans"):
        load_source(with_scans(MAX_JPEG_SCANS + 1))


def _with_claimed_size(width: int, height: int, mode: str, count: int) -> bytes:
    """Return a progressive JPEG with extra scans whose header claims a size."""
    data = jpeg(Image.new(mode, (16, 16)), progressive=True)
    frame, last = data.index(b"\xff\xc2") + 5, data.rindex(b"\xff\xda")
    size = height.to_bytes(2) + width.to_bytes(2)
    return data[:frame] + size + data[frame + 4 : -2] + data[last:-2] * count + data[-2:]


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_usual_scans_are_accepted_at_the_size_limit(mode: str) -> None:
    """The largest image may be progressive, and a gray one may have 14 or more scans."""
    check_work(_with_claimed_size(9459, 9459, mode, 0))
    check_work(_with_claimed_size(9459, 9459, "L", 14 - 6))


def test_a_large_image_may_have_fewer_scans() -> None:
    """Each scan costs a pass over the whole image, so a large one may have 25 scans."""
    check_work(_with_claimed_size(9459, 9459, "L", 25 - 6))
    message_start = f"whose 26 scans read 2,326,289,706 samples; the limit is {MAX_JPEG_SAMPLES:,}"
    with pytest.raises(InvalidImageError, match=message_start):
        load_source(_with_claimed_size(9459, 9459, "L", 26 - 6))


def test_a_scan_counts_each_of_its_components() -> None:
    """A scan that refines all components is counted once for each of them."""
    data = jpeg(Image.new("RGB", (16, 16)), progressive=True, subsampling=0)
    joint = next(part for part in read_segments(data) if part.is_scan)
    size = (9000).to_bytes(2) * 2
    frame = data.index(b"\xff\xc2") + 5
    large = data[:frame] + size + data[frame + 4 :]
    header = large[joint.start : joint.end]
    assert header[4] == 3
    check_work(large[:-2] + header * 3 + large[-2:])
    with pytest.raises(InvalidImageError, match="whose 20 scans read"):
        check_work(large[:-2] + header * 10 + large[-2:])


@pytest.mark.parametrize("frame", ["duplicate", "missing", "short"])
def test_a_corrupt_frame_hides_no_samples(frame: str) -> None:
    """Components with one number count as the largest, and without a frame nothing is counted."""
    data = _with_claimed_size(9459, 9459, "RGB", 60)
    at = data.index(b"\xff\xc2")
    if frame == "duplicate":
        parts = bytearray(data)
        parts[at + 13] = parts[at + 16] = parts[at + 10]
        with pytest.raises(InvalidImageError, match="scans read"):
            check_work(bytes(parts))
        return
    rest = data[at + 19 :]
    check_work(data[:at] + (segment(0xC2) if frame == "short" else b"") + rest)


def test_metadata_in_many_segments_is_refused() -> None:
    """Metadata in many segments is refused, because Pillow keeps and copies them all."""
    plain = jpeg()
    comments = segment(0xFE, b"c") * MAX_JPEG_SEGMENTS
    with pytest.raises(InvalidImageError, match="too many segments; the limit is 16,384"):
        load_source(plain[:2] + comments + plain[2:])
    exif = segment(0xE1, b"Exif\0\0MM\0*")
    load_source(plain[:2] + exif * MAX_JPEG_EXIF_SEGMENTS + plain[2:])
    with pytest.raises(InvalidImageError, match="65 segments of Exif; the limit is 64"):
        load_source(plain[:2] + exif * (MAX_JPEG_EXIF_SEGMENTS + 1) + plain[2:])


@pytest.mark.parametrize("stray", [b"\xff", b"\xff\xd0", b"\xff\x01"])
def test_many_bytes_between_segments_are_refused(stray: bytes) -> None:
    """Many bytes between segments are refused, because Pillow skips them one at a time."""
    plain = jpeg()
    few = stray * (1000 // len(stray))
    many = stray * (MAX_JPEG_STRAY_BYTES // len(stray) + 1)
    if stray != b"\xff\x01":
        assert load_source(plain[:2] + few + plain[2:]).png.side == 16
    with pytest.raises(InvalidImageError, match="bytes between its segments; the limit is 65,536"):
        load_source(plain[:2] + many + plain[2:])
    with pytest.raises(InvalidImageError, match="bytes between its segments"):
        load_source(plain[:20] + many)


@pytest.mark.mostly_slow("b'\\\\xff'")
@pytest.mark.parametrize("filling", [b"\xff\x00", b"\xff", b"\xff\xd0", b"a\xff\x00\xff"], ids=repr)
def test_a_large_file_is_checked_in_linear_time(filling: bytes) -> None:
    """A file with 16 MB of filling after a scan's header is checked in linear time."""
    data = jpeg()[:-2] + filling * (2**24 // len(filling))
    assert count_scans(data) == 1
    check_work(data)


def _with_header_segments(*parts: bytes) -> bytes:
    """Return a JPEG file with extra segments at the start."""
    plain = jpeg()
    return plain[:2] + b"".join(parts) + plain[2:]


EXIF = segment(0xE1, b"Exif\0\0MM\0*")
BODILESS = sorted(
    code & 0xFF for code, (_, _, handler) in JpegImagePlugin.MARKER.items() if handler is None
)
"""Markers whose body Pillow reads as more segments."""


@pytest.mark.parametrize("marker", BODILESS, ids=hex)
def test_no_segment_hides_other_segments(marker: int) -> None:
    """If Pillow reads a body as segments, they are counted, or the file is refused."""
    many = EXIF * (MAX_JPEG_EXIF_SEGMENTS + 1)
    assert len(BODILESS) > 20
    with pytest.raises(InvalidImageError, match=r"kind that is not supported|segments of Exif"):
        check_work(_with_header_segments(segment(marker, many)))


@pytest.mark.parametrize("marker", [0xC8, *range(0xF0, 0xFE)], ids=hex)
def test_reserved_markers_are_refused(marker: int) -> None:
    """JPG and JPG0 to JPG13 are refused before the other limits are checked."""
    refusal = (
        "image is a JPEG file of a kind that is not supported. "
        "Save it again as a baseline JPEG or a PNG file."
    )
    with pytest.raises(InvalidImageError) as caught:
        load_source(_with_header_segments(EXIF * 100, segment(marker)))
    assert caught.value.message == refusal


@settings(deadline=None)
@given(
    parts=st.lists(
        st.one_of(
            st.builds(segment, st.sampled_from([0xC4, 0xE0, 0xE1, 0xE2, 0xFE]), st.binary()),
            st.builds(segment, st.sampled_from(BODILESS), st.lists(st.just(EXIF)).map(b"".join)),
            st.integers(0xC0, 0xFF).map(lambda marker: bytes([0xFF, marker])),
            st.sampled_from([b"\xff", b"\xff\x00", b"junk", b"\xff\xfe\0\0", EXIF]),
        ),
        max_size=8,
    )
)
def test_pillow_finds_the_segments_that_we_count(parts: list[bytes]) -> None:
    """Pillow finds the segments that we count, in every accepted file that it opens."""
    data = _with_header_segments(*parts)
    try:
        check_work(data)
        with translate_decoder_errors(lambda: InvalidImageError("unreadable")):
            image = Image.open(io.BytesIO(data), formats=("JPEG",))
    except InvalidImageError:
        return
    assert isinstance(image, JpegImagePlugin.JpegImageFile)
    header = takewhile(lambda part: not part.is_scan, read_segments(data))
    bodies = [bytes(part.body) for part in header if part.marker in (*range(0xE0, 0xF0), 0xFE)]
    assert [body for _, body in image.applist] == bodies


@pytest.mark.parametrize("marker", [0xC0, 0xC2, 0xC9, 0xDE], ids=hex)
def test_a_second_frame_header_is_refused(marker: int) -> None:
    """A second frame header is refused, because an image has one frame and Pillow keeps each."""
    frame = segment(marker, bytes([8, 0, 16, 0, 16, 1, 1, 0x11, 0]))
    with pytest.raises(InvalidImageError, match="with 2 frame headers; the limit is 1"):
        load_source(_with_header_segments(frame))
    with pytest.raises(InvalidImageError, match="with 101 frame headers"):
        load_source(_with_header_segments(frame * 100))


def test_an_oversized_frame_header_is_refused() -> None:
    """A frame header that is longer than 255 components need is refused."""
    frame = bytes([8, 0, 16, 0, 16, 255]) + b"\x01\x11\0" * 255
    check_work(b"\xff\xd8" + segment(0xC0, frame))
    with pytest.raises(InvalidImageError, match="frame header of 772 bytes; the limit is 771"):
        check_work(b"\xff\xd8" + segment(0xC0, frame + b"\0"))


def test_a_frame_has_at_most_255_components() -> None:
    """Components beyond those that a frame has room for are not read."""
    frame = bytes([8, 0, 16, 0, 16, 255]) + b"\x01\x11\0" * 255
    scan = segment(0xDA, b"\1\1\0\0\x3f\0")
    for excess in (b"", b"\x02\x44\0"):
        parts = read_segments(b"\xff\xd8" + segment(0xC0, frame + excess) + scan)
        assert list(count_scanned_samples(parts)) == [16 * 16]


def _directory(order: str, entries: list[tuple[int, int, int, int]], length: int) -> bytes:
    """Return a TIFF block of a length in bytes with one directory, whose values may overlap.

    Args:
        order: "<" or ">".
        entries: Of each the tag, the type, the number of values and their offset.
        length: The length of the block.
    """
    head = b"MM\0*" if order == ">" else b"II*\0"
    rows = b"".join(struct.pack(f"{order}HHII", *entry) for entry in entries)
    return (head + struct.pack(f"{order}IH", 8, len(entries)) + rows).ljust(length, b"\0")


def _split_exif(block: bytes) -> list[bytes]:
    """Return the segments that hold a block of Exif."""
    parts = [block[at : at + 60_000] for at in range(0, len(block), 60_000)]
    return [segment(0xE1, b"Exif\0\0" + part) for part in parts]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [1, 3, 5, 10, 12, 16])
@pytest.mark.parametrize("where", ["Exif", "Exif twice", "Exif in parts", "MPO"])
def test_overlapping_exif_values_are_refused(where: str, kind: int, order: str) -> None:
    """Overlapping values are refused: Pillow 12.3 copies each, and 4 MB took 100 GB of memory."""
    length = 200_000 if where == "Exif in parts" else 60_000
    sizes = {1: 1, 3: 2, 5: 8, 10: 8, 12: 8, 16: 8}
    whole = (length - 4000) // sizes[kind]
    entries = [(0x9000 + number, kind, whole, 4000) for number in range(MAX_EXIF_OVERLAP + 1)]

    def file(count: int) -> bytes:
        block = _directory(order, entries[:count], length)
        if where == "MPO":
            return _with_header_segments(segment(0xE2, b"MPF\0" + block))
        if where == "Exif twice":
            return _with_header_segments(segment(0xE1, b"Exif\0\0Exif\0\0" + block))
        return _with_header_segments(*_split_exif(block))

    assert load_source(file(2)).png.side == 16
    with pytest.raises(InvalidImageError, match="metadata values overlap more than 4 times"):
        load_source(file(len(entries)))


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"MM\0*",
        b"MM\0*\xff\xff\xff\xff",
        b"II*\0\x08\0\0\0\xff\xff",
        _directory(">", [(number, 10, 2**32 - 1, 8) for number in range(500)], 8000),
        _directory("<", [(number, 99, 7000, 8) for number in range(500)], 8000),
        _directory("<", [(number, 1, 4, 8) for number in range(500)], 8000),
        b"XX" + _directory("<", [(number, 1, 4000, 8) for number in range(500)], 8000)[2:],
    ],
    ids=["none", "head", "outside", "cut", "too long", "type", "small", "order"],
)
def test_corrupt_metadata_is_accepted(block: bytes) -> None:
    """Metadata that Pillow cannot read costs nothing, so the image is loaded."""
    assert load_source(_with_header_segments(segment(0xE1, b"Exif\0\0" + block))).png.side == 16


def test_camera_files_are_accepted() -> None:
    """Files of cameras, with thumbnails, maker notes, XMP, profiles or MPO, are accepted."""
    image = Image.new("RGB", (64, 64), "teal")
    exif = Image.Exif()
    exif[0x010F], exif[0x0112], exif[0x011A] = "Maker", 1, 72.0
    exif.get_ifd(0x8769).update({0x927C: b"note" * 5000, 0x9286: b"comment"})
    options: dict[str, Any] = {"exif": exif, "xmp": b"<x/>" * 10_000, "icc_profile": bytes(200_000)}
    for kind in ("JPEG", "MPO"):
        buffer = io.BytesIO()
        save_options = {"save_all": True, "append_images": [image] * 3} if kind == "MPO" else {}
        image.save(buffer, kind, **options, **save_options)
        check_work(buffer.getvalue())
        with Image.open(buffer) as image_file:
            assert image_file.format == kind
            assert isinstance(image_file, MpoImagePlugin.MpoImageFile) == (kind == "MPO")
            assert image_file.getexif()[0x010F] == "Maker"
            assert len(image_file.info["icc_profile"]) == 200_000


@given(
    signature=st.sampled_from(SIGNATURES),
    rows=st.lists(
        st.tuples(
            st.sampled_from([0x8769, 0x8825, 0xA005, *range(700, 710)]),
            st.integers(0, 18),
            st.sampled_from([0, 1, 2, 5, 40, 2**31]),
            st.sampled_from([0, 8, 40, 100, 10**6]),
        ),
        max_size=6,
    ),
    rest=st.binary(max_size=400),
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_value_that_pillow_copies_is_counted(
    signature: bytes, rows: list[tuple[int, int, int, int]], rest: bytes
) -> None:
    """Pillow never keeps more bytes of a directory than we count."""
    order = "<" if signature.startswith(b"II") else ">"
    big = signature == b"II+\0"
    head = (8, 0, 16, len(rows)) if big else (8, len(rows))
    block = signature + struct.pack(order + ("HHQQ" if big else "IH"), *head)
    block += b"".join(struct.pack(order + ("HHQQ" if big else "HHII"), *row) for row in rows) + rest
    directory = TiffImagePlugin.ImageFileDirectory_v2(block[: 16 if big else 8])
    file = io.BytesIO(block)
    file.seek(directory.next)
    directory.load(file)
    value_sizes = [len(value) for value in directory._tagdata.values()]
    counted_bytes = sum(directory.value_bytes for directory in read_directories(block))
    assert sum(size for size in value_sizes if size > (8 if big else 4)) <= counted_bytes


def _tiff(big: bool, tag: int | None, count: int) -> bytes:
    """Return a TIFF file with further values that overlap.

    Args:
        big: Whether it is a BigTIFF.
        tag: The tag of the directory that holds them; by default they are in the first.
        count: How many there are.
    """
    buffer = io.BytesIO()
    Image.new("L", (16, 16)).save(buffer, "TIFF", big_tiff=big)
    data = buffer.getvalue()
    number, entry, at = ("<Q", "<HHQQ", 8) if big else ("<H", "<HHII", 4)
    offset = "<Q" if big else "<I"
    (start,) = struct.unpack_from(offset, data, at)
    (entries,) = struct.unpack_from(number, data, start)
    first = start + struct.calcsize(number)
    rows = data[first : first + entries * struct.calcsize(entry)]
    values = b"".join(struct.pack(entry, 0xF000 + at, 1, 40_000, 8) for at in range(count))
    directory_start = len(data)
    if tag is None:
        rows, entries = rows + values, entries + count
    else:
        data += struct.pack(number, count) + values + bytes(8)
        rows, entries = (
            rows + struct.pack(entry, tag, 16 if big else 4, 1, directory_start),
            entries + 1,
        )
    start = len(data)
    data = data[:at] + struct.pack(offset, start) + data[at + struct.calcsize(offset) :]
    return (data + struct.pack(number, entries) + rows + bytes(8)).ljust(41_000, b"\0")


@pytest.mark.parametrize("big", [False, True], ids=["TIFF", "BigTIFF"])
@pytest.mark.parametrize("tag", [None, 0x8769, 0x8825], ids=["first", "Exif", "GPS"])
def test_overlapping_tiff_values_are_refused(big: bool, tag: int | None) -> None:
    """Overlapping values are refused: Pillow 12.3 copies each, and 4 MB took 1.5 GB of memory."""
    assert load_source(_tiff(big, tag, 2)).png.side == 16
    with pytest.raises(InvalidImageError, match="TIFF file whose values overlap more than 4 times"):
        load_source(_tiff(big, tag, MAX_EXIF_OVERLAP + 1))
