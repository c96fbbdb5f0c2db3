import json
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_image_variation.hosted.json_text import FrameTooLongError, JSONText

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
)


def parse(text: bytes, cuts: list[int]) -> object:
    """Feed a text in pieces that end at `cuts`."""
    reader = JSONText()
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    for start, end in pairwise(edges):
        reader.feed(text[start:end])
    return reader.content()


@pytest.mark.slow
@given(JSON, st.lists(st.integers(0, 10**6)), st.booleans())
def test_json_is_read_like_the_standard_library(
    value: object, cuts: list[int], ascii: bool
) -> None:
    """Any JSON comes out as `json` would read it, wherever the pieces end."""
    text = json.dumps(value, ensure_ascii=ascii).encode("utf-8", "surrogatepass")
    assert parse(text, cuts) == json.loads(text)


@given(st.text(min_size=1, max_size=9), st.integers(4080, 4110), st.lists(st.integers(0, 10**6)))
def test_long_strings_return_to_their_place(part: str, length: int, cuts: list[int]) -> None:
    """Strings around the limit of long strings are read like others, escapes included."""
    long_text = (part * length)[:length]
    value = {"a": [long_text, "short"], long_text: 1, 'quote"\\': long_text + '"\\'}
    assert parse(json.dumps(value).encode(), cuts) == value


@given(st.binary(), st.lists(st.integers(0, 10**6)))
def test_any_other_bytes_are_a_value_error(text: bytes, cuts: list[int]) -> None:
    """Bytes that are not JSON raise a ValueError and nothing else."""
    try:
        parse(text, cuts)
    except ValueError:
        pass


@pytest.mark.parametrize("text", [b"", b'{"a": "', b'{"a": "b"', b"<html>", b'"\xff"'])
def test_a_corrupt_text_is_refused(text: bytes) -> None:
    """An empty, truncated or foreign text is not JSON."""
    with pytest.raises(ValueError):
        parse(text, [])


def test_a_byte_order_mark_is_skipped() -> None:
    """A byte order mark, as some servers on Windows send it, is skipped."""
    assert parse(b"\xef\xbb\xbf[1]", []) == [1]


def test_a_placeholder_in_the_text_is_kept() -> None:
    """The private character that serves as a placeholder is harmless in a text."""
    assert parse('["\ue000", "\ue0007", "\ue000x"]'.encode(), []) == [
        "\ue000",
        "\ue0007",
        "\ue000x",
    ]


def test_many_small_values_are_too_long() -> None:
    """A text of nothing but structure is refused, since it would need too much memory."""
    reader = JSONText()
    with pytest.raises(FrameTooLongError):
        for _ in range(2000):
            reader.feed(b"[]," * 1000)


def test_escaped_quotes_take_linear_time() -> None:
    """A long string of escaped quotes is read in one pass."""
    text = b'["' + b'\\"' * 500_000 + b'"]'
    assert parse(text, []) == ['"' * 500_000]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 9, 4095, 4096, 4097, 100_000])
def test_any_number_of_backslashes_is_read(count: int) -> None:
    """A string may end in any number of backslashes, before or after an escaped quote."""
    value = ["\\" * count, '"' + "\\" * count, "\\" * count + '"']
    assert parse(json.dumps(value).encode(), [7, count, 2 * count]) == value


def test_images_are_held_once() -> None:
    """Ten long strings need little more memory than the length of the text."""
    image = b'"' + b"QUJD" * 250_000 + b'"'
    reader = JSONText()
    tracemalloc.start()
    reader.feed(b"[")
    for index in range(10):
        for start in range(0, len(image), 65536):
            reader.feed(image[start : start + 65536])
        reader.feed(b"," if index < 9 else b"]")
    content = reader.content()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(content) == 10
    assert peak < 1.3 * 10 * len(image)
