import json
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_image_variation.hosted.json_text import JSONText

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
)


def parsed(text: bytes, cuts: list[int]) -> object:
    """Feed a text in pieces that end at `cuts`."""
    reader = JSONText()
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    for start, end in pairwise(edges):
        reader.feed(text[start:end])
    return reader.content()


@given(JSON, st.lists(st.integers(0, 10**6)), st.booleans())
def test_reads_what_the_standard_library_reads(value: object, cuts: list[int], ascii: bool) -> None:
    """Any JSON comes out as `json` would read it, wherever the pieces end."""
    text = json.dumps(value, ensure_ascii=ascii).encode("utf-8", "surrogatepass")
    assert parsed(text, cuts) == json.loads(text)


@given(st.text(min_size=1, max_size=9), st.integers(4080, 4110), st.lists(st.integers(0, 10**6)))
def test_long_strings_come_back_where_they_stood(part: str, length: int, cuts: list[int]) -> None:
    """Strings about as long as those set aside are read like others, escapes included."""
    long = (part * length)[:length]
    value = {"a": [long, "short"], long: 1, 'quote"\\': long + '"\\'}
    assert parsed(json.dumps(value).encode(), cuts) == value


@given(st.binary(), st.lists(st.integers(0, 10**6)))
def test_anything_else_is_a_value_error(text: bytes, cuts: list[int]) -> None:
    """Bytes that are no JSON raise a ValueError and nothing else."""
    try:
        parsed(text, cuts)
    except ValueError:
        pass


@pytest.mark.parametrize("text", [b"", b'{"a": "', b'{"a": "b"', b"<html>", b'"\xff"'])
def test_a_broken_text_is_refused(text: bytes) -> None:
    """An empty, cut or foreign text is no JSON."""
    with pytest.raises(ValueError):
        parsed(text, [])


def test_a_byte_order_mark_is_skipped() -> None:
    """Some servers on Windows send one."""
    assert parsed(b"\xef\xbb\xbf[1]", []) == [1]


def test_a_string_that_looks_like_a_mark_is_itself() -> None:
    """The private character that marks a place is harmless in a text."""
    assert parsed('["\ue000", "\ue0007", "\ue000x"]'.encode(), []) == [
        "\ue000",
        "\ue0007",
        "\ue000x",
    ]


def test_many_small_values_are_too_long() -> None:
    """A text of nothing but structure would need many times its length in memory."""
    reader = JSONText()
    with pytest.raises(ValueError, match="too long"):
        for _ in range(2000):
            reader.feed(b"[]," * 1000)


def test_escaped_quotes_do_not_take_square_time() -> None:
    """A long string of escaped quotes is read in one pass."""
    text = b'["' + b'\\"' * 500_000 + b'"]'
    assert parsed(text, []) == ['"' * 500_000]


def test_pictures_are_held_once() -> None:
    """Ten long strings need little more memory than the text has bytes."""
    picture = b'"' + b"QUJD" * 250_000 + b'"'
    reader = JSONText()
    tracemalloc.start()
    reader.feed(b"[")
    for index in range(10):
        for start in range(0, len(picture), 65536):
            reader.feed(picture[start : start + 65536])
        reader.feed(b"," if index < 9 else b"]")
    content = reader.content()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(content) == 10
    assert peak < 1.3 * 10 * len(picture)
