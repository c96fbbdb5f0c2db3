"""Thousands of corrupt images and paths raise only our own errors, and open no other file.

The slow tests try more of them. With `-s`, pytest prints how many were loaded and refused.
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
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from langchain_image_variation.agents.image_folder import ImageFolder
from langchain_image_variation.exceptions import ImageVariationError, SourceError
from langchain_image_variation.images.pixels import decode_png, flatten_on_white
from langchain_image_variation.images.png import SquarePNG
from langchain_image_variation.source import Fit, load_source
from langchain_image_variation.source.read import ImageSource
from tests.images import corrupt, valid
from tests.images.avif_heic import heic
from tests.images.encoder import join_chunks, split_chunks

PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}

Chunks = list[tuple[bytes, bytes]]


def _other_formats() -> Iterator[bytes]:
    """Yield small images in the other formats."""
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
        ("AVIF", {"exif": exif}),
        ("AVIF", {"save_all": True, "append_images": frames}),
        *(("TIFF", {"compression": name}) for name in ("tiff_lzw", "tiff_adobe_deflate", "jpeg")),
    ):
        buffer = io.BytesIO()
        image.save(buffer, format, **options)  # type: ignore[arg-type]  # each has its own
        yield buffer.getvalue()
    if find_spec("pillow_heif"):
        yield heic(image, exif=exif.tobytes())
        yield heic(*frames)


# They are made when a test needs them, because each worker of each run collects this file.
@cache
def valid_files() -> list[bytes]:
    """Return valid PNG files."""
    samples = (*valid.images(), *valid.oblong_images())
    return [sample.png() for _, sample in samples]


@cache
def corrupt_files() -> list[bytes]:
    """Return corrupt PNG files, some of which can be repaired."""
    files = [data for files in corrupt.groups().values() for _, data in files]
    return files + [data for _, data, _ in corrupt.repairable()]


@cache
def other_files() -> list[bytes]:
    """Return small images in the other formats."""
    return list(_other_formats())


@cache
def chunk_names() -> list[bytes]:
    """Return the names of chunks in the valid files, and three more."""
    names = {name for data in valid_files() for name, _ in split_chunks(data)}
    return sorted(names | {b"fcTL", b"fdAT", b"NEWc"})


NUMBERS = [0, 1, 2, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1]


def _flip(data: bytes, index: int, extra: bytes) -> bytes:
    result = bytearray(data)
    if result:
        result[index % len(data)] ^= extra[0] or 1
    return bytes(result)


def _insert(data: bytes, index: int, extra: bytes) -> bytes:
    index %= len(data) + 1
    return data[:index] + extra + data[index:]


def _remove(data: bytes, index: int, extra: bytes) -> bytes:
    index %= len(data) + 1
    return data[:index] + data[index + len(extra) :]


def _cut(data: bytes, index: int, extra: bytes) -> bytes:
    return data[: index % (len(data) + 1)]


def _write_number(data: bytes, index: int, extra: bytes) -> bytes:
    index %= len(data) + 1
    number = NUMBERS[extra[0] % len(NUMBERS)]
    order = "big" if extra[-1] % 2 else "little"
    return data[:index] + number.to_bytes(4, order) + data[index + 4 :]  # type: ignore[arg-type]  # one of both


BYTES = [_flip, _insert, _remove, _cut, _write_number]


def _change_content(chunks: Chunks, index: int, choice: int, extra: bytes) -> Chunks:
    """Change the content of a chunk."""
    name, body = chunks[index % len(chunks)]
    result = BYTES[choice % len(BYTES)](body, choice >> 3, extra)
    return [*chunks[: index % len(chunks)], (name, result), *chunks[index % len(chunks) + 1 :]]


def _change_scanlines(chunks: Chunks, index: int, choice: int, extra: bytes) -> Chunks:
    """Change the pixels before they are compressed."""
    body = b"".join(body for name, body in chunks if name == b"IDAT")
    try:
        raw = zlib.decompress(body)
    except zlib.error:
        return chunks
    compressed = zlib.compress(BYTES[choice % len(BYTES)](raw, index, extra), 1)
    idat = [name for name, _ in chunks].index(b"IDAT")
    rest = [item for item in chunks if item[0] != b"IDAT"]
    return [*rest[:idat], (b"IDAT", compressed), *rest[idat:]]


def _drop(chunks: Chunks, index: int, choice: int, extra: bytes) -> Chunks:
    return [*chunks[: index % len(chunks)], *chunks[index % len(chunks) + 1 :]]


def _move(chunks: Chunks, index: int, choice: int, extra: bytes) -> Chunks:
    rest = _drop(chunks, index, choice, extra)
    choice %= len(rest) + 1
    return [*rest[:choice], chunks[index % len(chunks)], *rest[choice:]]


def _double(chunks: Chunks, index: int, choice: int, extra: bytes) -> Chunks:
    choice %= len(chunks) + 1
    return [*chunks[:choice], chunks[index % len(chunks)], *chunks[choice:]]


def _splice(chunks: Chunks, index: int, choice: int, extra: bytes) -> Chunks:
    """Insert a chunk of another file."""
    files = valid_files()
    donor = split_chunks(files[choice % len(files)])
    index %= len(chunks) + 1
    return [*chunks[:index], donor[choice // 7 % len(donor)], *chunks[index:]]


def _name(choice: int) -> bytes:
    return chunk_names()[choice % len(chunk_names())]


def _rename(chunks: Chunks, index: int, choice: int, extra: bytes) -> Chunks:
    index %= len(chunks)
    return [*chunks[:index], (_name(choice), chunks[index][1]), *chunks[index + 1 :]]


def _add(chunks: Chunks, index: int, choice: int, extra: bytes) -> Chunks:
    """Insert a chunk with a known name and random content."""
    index %= len(chunks) + 1
    return [*chunks[:index], (_name(choice), extra), *chunks[index:]]


CHUNKS = [
    _change_content,
    _change_content,
    _change_scanlines,
    _drop,
    _move,
    _double,
    _splice,
    _rename,
    _add,
]

_NUMBERS = st.integers(0, 2**20)
_EXTRA = st.binary(min_size=1, max_size=40)
_CHANGES = st.lists(st.tuples(st.sampled_from(CHUNKS), _NUMBERS, _NUMBERS, _EXTRA), max_size=3)
_DAMAGE = st.tuples(st.sampled_from(BYTES), _NUMBERS, _EXTRA)


def _apply_changes(
    data: bytes, changes: list[tuple[Callable[..., Chunks], int, int, bytes]]
) -> bytes:
    chunks = split_chunks(data)
    for change, index, choice, extra in changes:
        chunks = change(chunks, index, choice, extra) or chunks
    return join_chunks(chunks)


def _apply_damage(data: bytes, damage: list[tuple[Callable[..., bytes], int, bytes]]) -> bytes:
    for change, index, extra in damage:
        data = change(data, index, extra)
    return data


# Most have correct checksums, so that the code after the checksum test is reached.
_VALID = st.deferred(lambda: st.sampled_from(valid_files()))
_PNG = st.deferred(lambda: st.sampled_from(valid_files() + corrupt_files()))
_OTHER = st.deferred(lambda: st.sampled_from(other_files()))
_IMAGES = (
    st.builds(_apply_changes, _VALID, _CHANGES)
    | st.builds(_apply_changes, _VALID, _CHANGES)
    | st.builds(_apply_damage, _PNG, st.lists(_DAMAGE, max_size=2))
    | st.builds(_apply_damage, _OTHER, st.lists(_DAMAGE, max_size=4))
)
_FORMS: dict[str, Callable[[bytes], ImageSource]] = {
    "bytes": bytes,
    "file": io.BytesIO,
    "data URL": lambda data: "data:image/png;base64," + base64.b64encode(data).decode(),
}

Event = tuple[str, object, object]
"""The name of an event and its first and last argument: the path and flags of an open file."""

_recorder: tuple[int, list[Event]] = 0, []
_EVENTS = {"open", "os.listdir", "os.scandir", "socket.connect", "subprocess.Popen", "os.exec"}


def _audit(event: str, args: tuple[object, ...]) -> None:
    # Threads that other tests left behind are ignored.
    if event in _EVENTS and threading.get_ident() == _recorder[0]:
        _recorder[1].append((event, args[0], args[-1]))


@contextmanager
def record_events() -> Iterator[list[Event]]:
    """Record the files that are opened in the block, and the warnings."""
    global _recorder
    events: list[Event] = []
    _recorder = threading.get_ident(), events
    try:
        with warnings.catch_warnings(record=True) as recorded_warnings:
            warnings.simplefilter("always")
            yield events
    finally:
        _recorder = 0, []
    # Files that other tests left open may be collected now.
    our_warnings = [
        warning for warning in recorded_warnings if warning.category is not ResourceWarning
    ]
    events += [("warning", warning.message, None) for warning in our_warnings]


@pytest.fixture(scope="module", autouse=True)
def hook() -> Iterator[Counter[str]]:
    """Install the audit hook after all lazy imports, and print the number of inputs at the end."""
    for data in (*valid_files(), *other_files()):
        decode_png(load_source(data).png)
    sys.addaudithook(_audit)
    counts: Counter[str] = Counter()
    yield counts
    print(f"\n{counts.total():,} inputs: {dict(counts)}")


_SETTINGS = settings(
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.slow
@pytest.mark.parametrize("cases", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_any_image_is_loaded_or_refused(hook: Counter[str], cases: int) -> None:
    """Any image raises at most our own errors, and others see the same pixels as we do."""

    @settings(_SETTINGS, max_examples=cases)
    @given(_IMAGES, st.sampled_from([*_FORMS]), st.sampled_from(["crop", "pad", "strict"]))
    def check(data: bytes, form: str, fit: Fit) -> None:
        check_image(hook, data, form, fit)

    check()


def check_image(hook: Counter[str], data: bytes, form: str, fit: Fit) -> None:
    """Load an image and compare it with what Pillow shows, unless it is refused."""
    source = _FORMS[form](data)
    with record_events() as events:
        try:
            png = load_source(source, fit=fit).png
            assert {name for name, _ in split_chunks(png.data)} <= PIXELS
            pixels = decode_png(png).convert("RGBA").tobytes()
            if png.bit_depth < 16:
                # Other programs see the same pixels, even those that alpha hides.
                pillow_image = Image.open(io.BytesIO(png.data)).convert("RGBA")
                assert pillow_image.tobytes() == pixels
            hook["loaded"] += 1
        except ImageVariationError as error:
            assert error.message.isprintable()
            assert len(error.message) < 300
            hook["refused"] += 1
        try:
            flatten_on_white(SquarePNG(data))
        except ImageVariationError as error:
            assert error.message.isprintable()
    assert events == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    """Return a folder of images with links that lead out of it, and images next to it."""
    base = tmp_path_factory.mktemp("outside")
    root = base / "root"
    (root / "sub").mkdir(parents=True)
    (base / "rooted").mkdir()
    for path in ("secret.png", "rooted/secret.png", "root/cat.png", "root/sub/dog.png"):
        (base / path).write_bytes(valid_files()[0])
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
        *("out", "loop", "results", "latest", "img_7c1e09ab", "*", "?", "'", '"', "`", "...."),
    ]
)
_EXISTING = st.sampled_from(
    ["cat.png", "sub/dog.png", "in.png", "sub/../cat.png", "out/root/cat.png"]
)
_DETOURS = st.lists(st.sampled_from([".", "sub/..", "out/root", "../root", ""]), max_size=3)
_PATHS = (
    st.lists(_PIECES | st.text(max_size=4), max_size=10).map("".join)
    | st.lists(_PIECES, max_size=6).map("/".join)
    | st.builds(
        lambda pieces, name: "/".join([*pieces, name]), st.lists(_PIECES, max_size=2), _EXISTING
    )
)


@pytest.mark.slow
@pytest.mark.parametrize("cases", [30, pytest.param(1_000, marks=pytest.mark.slow)])
def test_any_path_is_under_the_root_or_refused(
    hook: Counter[str], folder: ImageFolder, cases: int
) -> None:
    """No text opens a file outside the root, and none raises another error."""

    @settings(_SETTINGS, max_examples=cases)
    @given(_PATHS)
    def check(text: str) -> None:
        check_path(hook, folder, text)

    check()


def check_path(hook: Counter[str], folder: ImageFolder, text: str) -> None:
    """Open a path. It must be under the root, or be refused."""
    root = folder.root.resolve()
    allowed_inodes = {path.stat().st_ino for path in (root / "cat.png", root / "sub" / "dog.png")}
    for name in (text, f"{root}/{text}"):
        with record_events() as events:
            try:
                if (file := folder.open(name)) is None:
                    hook["path refused"] += 1
                else:
                    with file:
                        assert os.fstat(file.fileno()).st_ino in allowed_inodes
                        load_source(file)
                    hook["path found"] += 1
            except SourceError as error:
                assert error.message.isprintable()
                hook["path refused"] += 1
        for event, path, flags in events:
            assert event == "open"
            # The path is complete and resolved, or one step from a folder that is already open.
            step = isinstance(flags, int) and flags & os.O_NOFOLLOW and os.sep not in str(path)
            assert step or Path(str(path)) == root or Path(str(path)).is_relative_to(root)
            assert os.path.realpath(str(path)) == path or step
