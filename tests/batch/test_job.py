import math
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_image_variation.batch.job import MAX_SEED, Job, escape_surrogates
from langchain_image_variation.contract import MAX_N, SIZES
from langchain_image_variation.exceptions import ImageVariationError


def job(**row: object) -> Job:
    """Read a row with a path."""
    return Job.from_row({"path": "a.png", **row}, n=2, size="512x512")


class _NA:
    """Cannot be compared, like pandas' NA."""

    def __ne__(self, other: object) -> bool:
        raise TypeError("boolean value of NA is ambiguous")

    __hash__ = None  # type: ignore[assignment]  # not hashable


MISSING_VALUES = [
    *(None, "", math.nan, np.float64("nan"), np.str_(""), Decimal("sNaN"), _NA()),
    pyarrow.scalar(None, pyarrow.int64()),
]


@pytest.mark.parametrize("missing", MISSING_VALUES)
def test_missing_value_is_the_default(missing: object) -> None:
    """Every kind of missing value of every table library is recognized."""
    result = job(n=missing, size=missing, seed=missing, strength=missing)
    assert result == Job("a.png", 2, "512x512", None, None)


Spelling = Callable[[int], object]
SPELLINGS: list[Spelling] = [
    *(int, str, float, np.int64, np.float64, pyarrow.scalar),
    *("{}.0".format, " {} ".format, lambda number: Decimal(f"{number}.00")),
]


@given(st.integers(1, MAX_N), st.integers(0, 2**40), st.sampled_from(SPELLINGS))
def test_numbers_may_have_any_type(n: int, seed: int, spelling: Spelling) -> None:
    """CSV has only text, data frames turn integers into floats, and arrays have scalars."""
    result = job(n=spelling(n), seed=spelling(seed))
    assert (result.n, result.seed) == (n, seed)


@given(st.floats(0, 1))
def test_strength_may_be_number_or_text(strength: float) -> None:
    """A strength is read exactly, to the last bit."""
    for value in (strength, repr(strength), np.float64(strength)):
        assert job(strength=value).strength == strength


@given(st.sampled_from(["n", "size", "seed", "strength", "path"]), st.from_type(object))
def test_any_value_is_read_or_refused(column: str, value: object) -> None:
    """The only exceptions are errors of the tree, and a job keeps the limits."""
    try:
        result = job(**{column: value})
    except ImageVariationError as error:
        assert len(error.message) < 200
    else:
        assert 1 <= result.n <= MAX_N
        assert result.size in SIZES
        assert result.seed is None or 0 <= result.seed <= MAX_SEED
        assert result.strength is None or 0 <= result.strength <= 1
        assert isinstance(result.path, str)


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
        f"seed must be a whole number from 0 to {MAX_SEED:,}, got 9223372036854775808",
    ),
    ({"strength": 1.1}, "strength must be a number from 0 to 1, got 1.1."),
    ({"strength": "strong"}, "strength must be a number from 0 to 1, got 'strong'."),
    ({"size": "640x480"}, "size must be one of '256x256', '512x512', '1024x1024', got '640x480'."),
    ({"path": None}, "The row has no path. Put the path of an image in its column 'path'."),
    ({"path": 7}, "path must be a string, got 7."),
    ({"path": np.array(["a", "b"])}, "path must be a string, got a value of type nda"),
    ({"n": np.array([1, 2])}, "n must be a whole number from 1 to 10, got a value of type ndarray"),
    ({"n": Decimal("Infinity")}, "n must be a whole number from 1 to 10, got a value of type Dec"),
    ({"size": np.array(["256x256"])}, "size must be one of '256x256', '512x512', '1024x1024', got"),
]


@pytest.mark.parametrize(("row", "message"), BAD, ids=[str(row)[:30] for row, _ in BAD])
def test_bad_value_names_its_limit(row: dict[str, object], message: str) -> None:
    """The error for a bad value names the limit, and its `param` names the column."""
    with pytest.raises(ImageVariationError) as caught:
        job(**row)
    assert caught.value.message.startswith(message)
    assert caught.value.param == {"path": "image"}.get(*row, *row)


def test_path_may_be_bytes_or_path_object() -> None:
    """A path may be bytes or a path object, as `os.scandir` and `pathlib` return it."""
    assert job(path=Path("a.png")).path == "a.png"
    assert job(path=b"\xff.png").path == "\udcff.png"


@given(st.text(st.characters(codec=None)))
def test_escaped_name_is_valid_unicode(name: str) -> None:
    """Lone surrogates in a name are escaped, and everything else stays."""
    escaped_name = escape_surrogates(name)
    assert escaped_name.encode("utf-8").decode("utf-8") == escaped_name
    if not any("\ud800" <= character <= "\udfff" for character in name):
        assert escaped_name == name
