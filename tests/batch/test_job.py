import math
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_image_variation.batch.job import MAX_SEED, Job, plain_text
from langchain_image_variation.contract import MAX_N, SIZES
from langchain_image_variation.exceptions import ImageVariationError


def job(**row: object) -> Job:
    """Read a row whose path is given."""
    return Job.read({"path": "a.png", **row}, n=2, size="512x512")


class _NA:
    """Compares as pandas' NA: to no truth at all."""

    def __ne__(self, other: object) -> bool:
        raise TypeError("boolean value of NA is ambiguous")

    __hash__ = None  # type: ignore[assignment]


NOTHING = [
    *(None, "", math.nan, np.float64("nan"), np.str_(""), Decimal("sNaN"), _NA()),
    pyarrow.scalar(None, pyarrow.int64()),
]


@pytest.mark.parametrize("nothing", NOTHING)
def test_a_missing_value_is_the_default(nothing: object) -> None:
    """Whatever a table has for nothing."""
    read = job(n=nothing, size=nothing, seed=nothing, strength=nothing)
    assert read == Job("a.png", 2, "512x512", None, None)


Spelling = Callable[[int], object]
SPELLINGS: list[Spelling] = [
    *(int, str, float, np.int64, np.float64, pyarrow.scalar),
    *("{}.0".format, " {} ".format, lambda number: Decimal(f"{number}.00")),
]


@given(st.integers(1, MAX_N), st.integers(0, 2**40), st.sampled_from(SPELLINGS))
def test_numbers_come_in_any_spelling(n: int, seed: int, spelled: Spelling) -> None:
    """CSV has only text, data frames turn whole numbers into floats, arrays have their own."""
    read = job(n=spelled(n), seed=spelled(seed))
    assert (read.n, read.seed) == (n, seed)


@given(st.floats(0, 1))
def test_strengths_come_as_numbers_and_text(strength: float) -> None:
    """To the last bit."""
    for given_as in (strength, repr(strength), np.float64(strength)):
        assert job(strength=given_as).strength == strength


@given(st.sampled_from(["n", "size", "seed", "strength", "path"]), st.from_type(object))
def test_any_value_is_read_or_refused(column: str, value: object) -> None:
    """Nothing but an error of the tree comes of it, and a job keeps the limits."""
    try:
        read = job(**{column: value})
    except ImageVariationError as error:
        assert len(error.message) < 200
    else:
        assert 1 <= read.n <= MAX_N
        assert read.size in SIZES
        assert read.seed is None or 0 <= read.seed <= MAX_SEED
        assert read.strength is None or 0 <= read.strength <= 1
        assert isinstance(read.path, str)


BAD = [
    ({"n": 0}, "n must be a whole number from 1 to 10, got 0."),
    ({"n": 11}, "n must be a whole number from 1 to 10, got 11."),
    ({"n": 1.5}, "n must be a whole number from 1 to 10, got 1.5."),
    ({"n": True}, "n must be a whole number from 1 to 10, got True."),
    ({"n": "many"}, "n must be a whole number from 1 to 10, got 'many'."),
    ({"n": "9" * 5000}, "n must be a whole number from 1 to 10, got '99999999999999999999…'."),
    ({"n": math.inf}, "n must be a whole number from 1 to 10, got inf."),
    ({"seed": -1}, f"seed must be a whole number from 0 to {MAX_SEED:,}, got -1."),
    (
        {"seed": 2**63},
        f"seed must be a whole number from 0 to {MAX_SEED:,}, got a value of type int",
    ),
    ({"strength": 1.1}, "strength must be a number from 0 to 1, got 1.1."),
    ({"strength": "strong"}, "strength must be a number from 0 to 1, got 'strong'."),
    ({"size": "640x480"}, "size must be one of '256x256', '512x512', '1024x1024', got '640x480'."),
    ({"path": None}, "The row has no path; name a picture in its column 'path'."),
    ({"path": 7}, "The path of a row must be a text, got 7."),
    ({"path": np.array(["a", "b"])}, "The path of a row must be a text, got a value of type nda"),
    ({"n": np.array([1, 2])}, "n must be a whole number from 1 to 10, got a value of type ndarray"),
    ({"n": Decimal("Infinity")}, "n must be a whole number from 1 to 10, got a value of type Dec"),
    ({"size": np.array(["256x256"])}, "size must be one of '256x256', '512x512', '1024x1024', got"),
]


@pytest.mark.parametrize(("row", "message"), BAD, ids=[str(row)[:30] for row, _ in BAD])
def test_a_bad_value_is_named_with_its_limit(row: dict[str, object], message: str) -> None:
    """And the field says which column it is."""
    with pytest.raises(ImageVariationError) as caught:
        job(**row)
    assert caught.value.message.startswith(message)
    assert caught.value.param == {"path": "image"}.get(*row, *row)


def test_paths_may_be_bytes_or_path_objects() -> None:
    """As `os.scandir` and `pathlib` give them."""
    assert job(path=Path("a.png")).path == "a.png"
    assert job(path=b"\xff.png").path == "\udcff.png"


@given(st.text(st.characters(codec=None)))
def test_a_shown_name_can_be_written_anywhere(name: str) -> None:
    """What is no Unicode is escaped, and all else stays."""
    shown = plain_text(name)
    assert shown.encode("utf-8").decode("utf-8") == shown
    if not any("\ud800" <= character <= "\udfff" for character in name):
        assert shown == name
