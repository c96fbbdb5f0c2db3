"""Thousands of corrupt pictures and paths raise no errors but ours, and open no other file.

The slow tests try more of them. With `-s`, pytest prints how many were read and refused.
"""

import base64
import io
import os
import sys
import threading
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from langchain_image_variation.agents.image_folder import ImageFolder
from langchain_image_variation.exceptions import ImageVariationError, SourceError
from langchain_image_variation.images.pixels import decode, on_white
from langchain_image_variation.images.png import SquarePNG
from langchain_image_variation.source import Fit, ImageSource, load_source
from tests.images import corrupt, valid
from tests.images.encoder import joined, split

PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}

Chunks = list[tuple[bytes, bytes]]


def _others() -> Iterator[bytes]:
    """Yield small pictures in the other formats."""
    image = Image.linear_gradient("L").resize((12, 12)).convert("RGB")
    frames = [image.rotate(angle) for angle in (90, 180)]
    exif = Image.Exif()
    exif[0x112], exif[0x10E] = 6, "text"
    for format, options in (
        ("JPEG", {"exif": exif, "comment": b"text", "xmp": b"tiff:Orientation>3"}),
        ("JPEG", {"progressive": True}),
        ("MPO", {"save_all": True, "append_images": frames}),
        ("WEBP", {"exif": exif}),
        ("WEBP", {"save_all": True, "append_images": frames}),
        ("GIF", {"comment": b"text"}),
        ("GIF", {"save_all": True, "append_images": frames, "loop": 3}),
        ("BMP", {}),
        ("TIFF", {"exif": exif}),
        *(("TIFF", {"compression": name}) for name in ("tiff_lzw", "tiff_adobe_deflate", "jpeg")),
    ):
        buffer = io.BytesIO()
        image.save(buffer, format, **options)  # type: ignore[arg-type]  # each has its own
        yield buffer.getvalue()


VALID = [picture.png() for _, picture in valid.pictures()]
VALID += [picture.png() for _, picture in valid.oblong()]
CORRUPT = [data for files in corrupt.groups().values() for _, data in files]
OTHERS = list(_others())
NAMES = sorted({name for data in VALID for name, _ in split(data)} | {b"fcTL", b"fdAT", b"NEWc"})
NUMBERS = [0, 1, 2, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1]


def _flipped(data: bytes, at: int, extra: bytes) -> bytes:
    changed = bytearray(data)
    if changed:
        changed[at % len(data)] ^= extra[0] or 1
    return bytes(changed)


def _inserted(data: bytes, at: int, extra: bytes) -> bytes:
    at %= len(data) + 1
    return data[:at] + extra + data[at:]


def _removed(data: bytes, at: int, extra: bytes) -> bytes:
    at %= len(data) + 1
    return data[:at] + data[at + len(extra) :]


def _cut(data: bytes, at: int, extra: bytes) -> bytes:
    return data[: at % (len(data) + 1)]


def _numbered(data: bytes, at: int, extra: bytes) -> bytes:
    at %= len(data) + 1
    number = NUMBERS[extra[0] % len(NUMBERS)]
    order = "big" if extra[-1] % 2 else "little"
    return data[:at] + number.to_bytes(4, order) + data[at + 4 :]  # type: ignore[arg-type]  # one of both


BYTES = [_flipped, _inserted, _removed, _cut, _numbered]


def _content(chunks: Chunks, at: int, other: int, extra: bytes) -> Chunks:
    """Change the content of a chunk."""
    name, body = chunks[at % len(chunks)]
    changed = BYTES[other % len(BYTES)](body, other >> 3, extra)
    return [*chunks[: at % len(chunks)], (name, changed), *chunks[at % len(chunks) + 1 :]]


def _scanlines(chunks: Chunks, at: int, other: int, extra: bytes) -> Chunks:
    """Change the pixels before they are compressed."""
    body = b"".join(body for name, body in chunks if name == b"IDAT")
    try:
        raw = zlib.decompress(body)
    except zlib.error:
        return chunks
    packed = zlib.compress(BYTES[other % len(BYTES)](raw, at, extra), 1)
    idat = [name for name, _ in chunks].index(b"IDAT")
    rest = [item for item in chunks if item[0] != b"IDAT"]
    return [*rest[:idat], (b"IDAT", packed), *rest[idat:]]


def _dropped(chunks: Chunks, at: int, other: int, extra: bytes) -> Chunks:
    return [*chunks[: at % len(chunks)], *chunks[at % len(chunks) + 1 :]]


def _moved(chunks: Chunks, at: int, other: int, extra: bytes) -> Chunks:
    rest = _dropped(chunks, at, other, extra)
    other %= len(rest) + 1
    return [*rest[:other], chunks[at % len(chunks)], *rest[other:]]


def _doubled(chunks: Chunks, at: int, other: int, extra: bytes) -> Chunks:
    other %= len(chunks) + 1
    return [*chunks[:other], chunks[at % len(chunks)], *chunks[other:]]


def _spliced(chunks: Chunks, at: int, other: int, extra: bytes) -> Chunks:
    """Put in a chunk of another file."""
    theirs = split(VALID[other % len(VALID)])
    at %= len(chunks) + 1
    return [*chunks[:at], theirs[other // 7 % len(theirs)], *chunks[at:]]


def _renamed(chunks: Chunks, at: int, other: int, extra: bytes) -> Chunks:
    at %= len(chunks)
    return [*chunks[:at], (NAMES[other % len(NAMES)], chunks[at][1]), *chunks[at + 1 :]]


def _added(chunks: Chunks, at: int, other: int, extra: bytes) -> Chunks:
    """Put in a chunk that means something, with content that may not."""
    at %= len(chunks) + 1
    return [*chunks[:at], (NAMES[other % len(NAMES)], extra), *chunks[at:]]


CHUNKS = [_content, _content, _scanlines, _dropped, _moved, _doubled, _spliced, _renamed, _added]

_WHOLE = st.integers(0, 2**20)
_EXTRA = st.binary(min_size=1, max_size=40)
_CHANGES = st.lists(st.tuples(st.sampled_from(CHUNKS), _WHOLE, _WHOLE, _EXTRA), max_size=3)
_DAMAGE = st.tuples(st.sampled_from(BYTES), _WHOLE, _EXTRA)


def _changed(data: bytes, changes: list[tuple[Callable[..., Chunks], int, int, bytes]]) -> bytes:
    chunks = split(data)
    for change, at, other, extra in changes:
        chunks = change(chunks, at, other, extra) or chunks
    return joined(chunks)


def _damaged(data: bytes, damage: list[tuple[Callable[..., bytes], int, bytes]]) -> bytes:
    for change, at, extra in damage:
        data = change(data, at, extra)
    return data


# Most have right checksums, so that what lies behind the check is reached.
_PICTURES = (
    st.builds(_changed, st.sampled_from(VALID), _CHANGES)
    | st.builds(_changed, st.sampled_from(VALID), _CHANGES)
    | st.builds(_damaged, st.sampled_from(VALID + CORRUPT), st.lists(_DAMAGE, max_size=2))
    | st.builds(_damaged, st.sampled_from(OTHERS), st.lists(_DAMAGE, max_size=4))
)
_FORMS: dict[str, Callable[[bytes], ImageSource]] = {
    "bytes": bytes,
    "file": io.BytesIO,
    "data URL": lambda data: "data:image/png;base64," + base64.b64encode(data).decode(),
}

Event = tuple[str, object, object]
"""What happened, to what, and how: of a file that is opened, its path and the flags."""

_watched: tuple[int, list[Event]] = 0, []
_WATCHED = {"open", "os.listdir", "os.scandir", "socket.connect", "subprocess.Popen", "os.exec"}


def _audit(event: str, args: tuple[object, ...]) -> None:
    # Threads that other tests have left behind may do what they like.
    if event in _WATCHED and threading.get_ident() == _watched[0]:
        _watched[1].append((event, args[0], args[-1]))


@contextmanager
def watched() -> Iterator[list[Event]]:
    """List which files are opened inside the block, and which warnings are given."""
    global _watched
    seen: list[Event] = []
    _watched = threading.get_ident(), seen
    try:
        with warnings.catch_warnings(record=True) as given:
            warnings.simplefilter("always")
            yield seen
    finally:
        _watched = 0, []
    # What other tests have left open may be found just now.
    ours = [warning for warning in given if warning.category is not ResourceWarning]
    seen += [("warning", warning.message, None) for warning in ours]


@pytest.fixture(scope="module", autouse=True)
def hook() -> Iterator[Counter[str]]:
    """Install the hook, import what is imported at first use, and say how much was tried."""
    for data in (*VALID, *OTHERS):
        decode(load_source(data).png)
    sys.addaudithook(_audit)
    counts: Counter[str] = Counter()
    yield counts
    print(f"\n{counts.total():,} inputs: {dict(counts)}")


_SETTINGS = settings(
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.parametrize("cases", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_any_picture_is_read_or_refused(hook: Counter[str], cases: int) -> None:
    """Nothing but our own errors, no warning, no file; others see of it what we do, and no more."""

    @settings(_SETTINGS, max_examples=cases)
    @given(_PICTURES, st.sampled_from([*_FORMS]), st.sampled_from(["crop", "pad", "strict"]))
    def check(data: bytes, form: str, fit: Fit) -> None:
        read_or_refuse(hook, data, form, fit)

    check()


def read_or_refuse(hook: Counter[str], data: bytes, form: str, fit: Fit) -> None:
    """Read a picture, and compare it with what Pillow shows, unless it is refused."""
    source = _FORMS[form](data)
    with watched() as seen:
        try:
            png = load_source(source, fit=fit).png
            assert {name for name, _ in split(png.data)} <= PIXELS
            pixels = decode(png).convert("RGBA").tobytes()
            if png.bit_depth < 16:
                # Programs that know nothing of us see the same, also where alpha shows nothing.
                others = Image.open(io.BytesIO(png.data)).convert("RGBA")
                assert others.tobytes() == pixels
            hook["loaded"] += 1
        except ImageVariationError as error:
            assert error.message.isprintable()
            assert len(error.message) < 300
            hook["refused"] += 1
        try:
            on_white(SquarePNG(data))
        except ImageVariationError as error:
            assert error.message.isprintable()
    assert seen == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    """Return a folder of pictures with links out of it, and pictures beside it."""
    base = tmp_path_factory.mktemp("outside")
    root = base / "root"
    (root / "sub").mkdir(parents=True)
    (base / "rooted").mkdir()
    for path in ("secret.png", "rooted/secret.png", "root/cat.png", "root/sub/dog.png"):
        (base / path).write_bytes(VALID[0])
    (root / "link.png").symlink_to(base / "secret.png")
    (root / "out").symlink_to(base)
    (root / "loop").symlink_to(root / "loop")
    (root / "in.png").symlink_to(root / "sub" / "dog.png")
    return ImageFolder(root)


_PIECES = st.sampled_from(
    [
        *(
            "..",
            ".",
            "/",
            "//",
            "\\",
            "..\\",
            "~",
            "C:",
            "\\\\host\\share\\",
            "\0",
            "\n",
            " ",
            "%2e",
        ),
        *("%2f", "..%2f", "\u2025", "\uff0e\uff0e", "\u2215", "\uff0f", "%c0%ae", "file://", "://"),
        *("root", "rooted", "secret.png", "cat.png", "sub", "dog.png", "link.png", "in.png"),
        *("out", "loop", "results", "latest", "img_1", "*", "?", "'", '"', "`", "...."),
    ]
)
_GOOD = st.sampled_from(["cat.png", "sub/dog.png", "in.png", "sub/../cat.png", "out/root/cat.png"])
_ROUND = st.lists(st.sampled_from([".", "sub/..", "out/root", "../root", ""]), max_size=3)
_PATHS = (
    st.lists(_PIECES | st.text(max_size=4), max_size=10).map("".join)
    | st.lists(_PIECES, max_size=6).map("/".join)
    | st.builds(
        lambda pieces, name: "/".join([*pieces, name]), st.lists(_PIECES, max_size=2), _GOOD
    )
)


@pytest.mark.parametrize("cases", [30, pytest.param(1_000, marks=pytest.mark.slow)])
def test_any_path_is_under_the_root_or_refused(
    hook: Counter[str], folder: ImageFolder, cases: int
) -> None:
    """No text leads to a file outside the root being opened, and none raises another error."""

    @settings(_SETTINGS, max_examples=cases)
    @given(_PATHS)
    def check(text: str) -> None:
        find_or_refuse(hook, folder, text)

    check()


def find_or_refuse(hook: Counter[str], folder: ImageFolder, text: str) -> None:
    """Open a path, which must lie under the root, unless it is refused."""
    root = folder.root.resolve()
    inside = {path.stat().st_ino for path in (root / "cat.png", root / "sub" / "dog.png")}
    for name in (text, f"{root}/{text}"):
        with watched() as seen:
            try:
                if (file := folder.open(name)) is None:
                    hook["path refused"] += 1
                else:
                    with file:
                        assert os.fstat(file.fileno()).st_ino in inside
                        load_source(file)
                    hook["path found"] += 1
            except SourceError as error:
                assert error.message.isprintable()
                hook["path refused"] += 1
        for event, path, flags in seen:
            assert event == "open"
            # Either it is whole and resolved, or one step from a folder that was opened before.
            step = isinstance(flags, int) and flags & os.O_NOFOLLOW and os.sep not in str(path)
            assert step or Path(str(path)) == root or Path(str(path)).is_relative_to(root)
            assert os.path.realpath(str(path)) == path or step
