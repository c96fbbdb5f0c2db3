import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from langchain_image_variation.exceptions import InvalidImageError
from langchain_image_variation.images.heif import MAX_DEPTH, MAX_ENTRIES, ItemTable
from langchain_image_variation.images.work_limits import check_work
from langchain_image_variation.source import load_source

Tree = dict[int, tuple[int, list[int]]]
"""The side of each item in pixels, and the items that it is made of."""


def box(kind: bytes, *parts: bytes) -> bytes:
    """Return a box (ISO/IEC 14496-12, 4.2)."""
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + kind + body


def heic(tree: Tree, *, is_large: bool = False) -> bytes:
    """Return the boxes of a HEIC file that say what its items are made of.

    Args:
        tree: The items.
        is_large: Whether the file uses the long form of numbers.
    """
    number, index = (">I", ">H") if is_large else (">H", ">B")
    version = bytes([int(is_large), 0, 0, int(is_large)])
    sizes = [box(b"ispe", bytes(4), struct.pack(">II", side, side)) for side, _ in tree.values()]
    associations = [
        struct.pack(number, item) + b"\x02" + struct.pack(index, 1) + struct.pack(index, at)
        for at, item in enumerate(tree, 2)
    ]
    references = [
        box(
            b"dimg",
            struct.pack(number, item),
            struct.pack(">H", len(parts)),
            *(struct.pack(number, part) for part in parts),
        )
        for item, (_, parts) in tree.items()
        if parts
    ]
    properties = box(b"ipco", box(b"irot", b"\0"), *sizes)
    ipma = box(b"ipma", version, struct.pack(">I", len(tree)), *associations)
    iref = box(b"iref", bytes([int(is_large), 0, 0, 0]), *references)
    meta = box(b"meta", bytes(4), box(b"iprp", properties, ipma), iref)
    return box(b"ftyp", b"heic", bytes(4), b"mif1heic") + meta


@pytest.mark.parametrize("is_large", [False, True])
def test_tiles_of_phones_are_accepted(is_large: bool) -> None:
    """A photo of 48 megapixels in tiles of 512 pixels, with a smaller map of its light."""
    tree: Tree = {1: (512, []), 2: (7000, [1] * 196), 3: (3500, [1] * 49), 4: (7000, [2, 3])}
    data = heic(tree, is_large=is_large)
    assert list(ItemTable(data).composed_items()) == [
        (7000**2, 196 * 512**2),
        (3500**2, 49 * 512**2),
        (7000**2, 7000**2 + 196 * 512**2 + 3500**2 + 49 * 512**2),
    ]
    check_work(data)


@pytest.mark.parametrize("is_large", [False, True])
def test_tiles_beyond_the_image_are_refused(is_large: bool) -> None:
    """64 tiles of 4096 pixels kept libheif busy for 5 seconds, for an image of 64 pixels."""
    data = heic({1: (4096, []), 2: (64, [1] * 64)}, is_large=is_large)
    with pytest.raises(InvalidImageError, match="whose tiles have 1,073,741,824 pixels; the limit"):
        load_source(data)


def test_tiles_made_of_tiles_are_multiplied() -> None:
    """An image of 10 images of 10 images is decoded a hundred times."""
    tree: Tree = {1: (1000, []), 2: (100, [1] * 10), 3: (100, [2] * 10)}
    with pytest.raises(InvalidImageError, match="whose tiles have 100,100,000 pixels"):
        check_work(heic(tree))


def test_items_that_contain_each_other_are_refused() -> None:
    """A circle has no end, and neither has a chain that is too long for the limit."""
    with pytest.raises(InvalidImageError, match="whose tiles have inf pixels"):
        check_work(heic({1: (10, [2]), 2: (10, [1])}))
    chain: Tree = {item: (10, [item - 1] if item > 1 else []) for item in range(1, MAX_DEPTH + 3)}
    with pytest.raises(InvalidImageError, match="whose tiles have inf pixels"):
        check_work(heic(chain))
    del chain[MAX_DEPTH + 2]
    check_work(heic(chain))


@pytest.mark.parametrize("flood", ["boxes", "references", "associations"])
def test_floods_are_refused(flood: str) -> None:
    """Boxes, references and properties are counted together, and not read to the end."""
    tree: Tree = {1: (10, []), 2: (10, [1] * (MAX_ENTRIES if flood == "references" else 1))}
    data = heic(tree)
    if flood == "boxes":
        data += box(b"free") * MAX_ENTRIES
    if flood == "associations":
        data = heic({at: (10, []) for at in range(1, MAX_ENTRIES // 3)}, is_large=True)
    with pytest.raises(InvalidImageError, match="with more than 16,384 boxes and items, the limit"):
        check_work(data)


@given(cut=st.integers(0, 400), junk=st.binary(max_size=200))
def test_corrupt_boxes_are_accepted_or_our_error(cut: int, junk: bytes) -> None:
    """A file that is cut off, or continues with other bytes, raises only our own errors."""
    data = heic({1: (512, []), 2: (700, [1] * 4)})
    for file in (data[:cut], data[:cut] + junk, data[:20] + junk, data[:4] + b"ftyp" + junk):
        try:
            check_work(file)
        except InvalidImageError as error:
            assert error.message.startswith("image is a HEIC or AVIF file ")


@pytest.mark.parametrize("format", ["AVIF", "HEIF"])
def test_files_of_encoders_are_accepted(format: str) -> None:
    """Animations and images with alpha, as encoders write them, are accepted."""
    buffer = io.BytesIO()
    frames = [Image.new("RGBA", (64, 64), (at, 0, 0, 200)) for at in range(0, 200, 4)]
    if format == "HEIF":
        heif_file = pytest.importorskip("pillow_heif").from_pillow(frames[0])
        for frame in frames[1:]:
            heif_file.add_from_pillow(frame)
        heif_file.save(buffer)
    else:
        frames[0].save(buffer, format, save_all=True, append_images=frames[1:])
    check_work(buffer.getvalue())
