from hashlib import sha256
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_image_variation.exceptions import InvalidRequestError
from langchain_image_variation.output.names import DEFAULT_TEMPLATE, SHEET, NameTemplate

DIGEST = "0123456789abcdef" * 4


def first_name(template: str, index: int | str = 3, seed: int | None = 7) -> str:
    """Return the first name that a template gives an image."""
    return next(NameTemplate(template).names("my cat", DIGEST, index, seed))


@pytest.mark.parametrize(
    ("template", "name"),
    [
        (DEFAULT_TEMPLATE, "my-cat-01234567-3"),
        ("{stem}", "my-cat"),
        ("{index:02}_{stem}", "03_my-cat"),
        ("Cat {seed:04}", "Cat 0007"),
        ("{hash}", "01234567"),
        ("été{index}", "été3"),
    ],
)
def test_fields_are_filled_in(template: str, name: str) -> None:
    """The fields of a template become the values of the image."""
    assert first_name(template) == name


@pytest.mark.parametrize(
    ("template", "name"),
    [
        (DEFAULT_TEMPLATE, "my-cat-01234567-sheet"),
        ("{stem}-{index:03}", "my-cat-sheet"),
        ("{stem}", "my-cat-sheet"),
        ("{hash}", "01234567-sheet"),
    ],
)
def test_a_sheet_is_marked_as_one(template: str, name: str) -> None:
    """A contact sheet has "sheet" as its index, even if the template has no index."""
    assert first_name(template, SHEET) == name


@pytest.mark.parametrize("template", [DEFAULT_TEMPLATE, "{stem}-{index}", "{stem}"])
def test_taken_names_get_more_of_the_hash(template: str) -> None:
    """The last name has the whole hash, so another image with that name has the same pixels."""
    names = list(NameTemplate(template).names("cat", DIGEST, 1, None))
    assert len(set(names)) == len(names) > 2
    assert DIGEST in names[-1]


@pytest.mark.parametrize(
    ("template", "rule"),
    [
        ("", "must begin and end with a letter"),
        ("-{stem}", "must begin and end with a letter"),
        (".{stem}", "must begin and end with a letter"),
        (" {stem}", "must begin and end with a letter"),
        ("a/{stem}", "may contain only letters, digits"),
        ("a\\{stem}", "may contain only letters, digits"),
        ("../{stem}", "may contain only letters, digits"),
        ("a:{stem}", "may contain only letters, digits"),
        ("a\0{stem}", "may contain only letters, digits"),
        ("a\n{stem}", "may contain only letters, digits"),
        ("a\udce9{stem}", "may contain only letters, digits"),
        ("{{{stem}}}", "may contain only letters, digits"),
        ("{name}", "has an unknown field; the fields are {stem}, {index}, {seed}, {hash}"),
        ("{}", "has an unknown field"),
        ("{0}", "has an unknown field"),
        ("{stem.__class__}", "has an unknown field"),
        ("{stem[0]}", "has an unknown field"),
        ("{stem!r}", "has an unknown field"),
        ("{stem:>90}", "may set a width only for numbers"),
        ("{stem}.", "must begin and end with a letter"),
        ("{stem} ", "must begin and end with a letter"),
        ("{index:3}", "may set a width only for numbers"),
        ("{index:x}", "may set a width only for numbers"),
        ("{index:999}", "may set a width only for numbers"),
        ("{index:{seed}}", "may set a width only for numbers"),
        ("{stem", "has an unmatched brace"),
        ("stem}", "has an unmatched brace"),
        ("{stem}.png", "must not have a suffix"),
        ("{stem}.JPG", "must not have a suffix"),
    ],
)
def test_invalid_templates_are_refused(template: str, rule: str) -> None:
    """The error shows the template and the rule that it breaks."""
    with pytest.raises(InvalidRequestError) as error:
        NameTemplate(template)
    assert rule in error.value.message
    assert error.value.message.startswith("The name template ")


@pytest.mark.parametrize(
    ("template", "stems", "n", "rule"),
    [
        ("{stem}", ["cat"], 2, "gives 2 images the name 'cat'; add {index}."),
        ("{index}", ["cat", "dog"], 1, "gives 2 images the name '1'; add {stem}."),
        ("{stem}-{index}", ["cat", "Cat"], 1, "gives 2 images the name 'cat-1'; add {hash}."),
        ("{stem}-{seed}", ["a b", "a-b"], 1, "gives 2 images the name 'a-b-1'; add {hash}."),
        ("{index}{stem}", ["0a", "a"], 10, "gives 2 images the name '10a'; add {hash}."),
        ("{stem}", ["con"], 1, "gives the name 'con', which Windows reserves"),
        ("LPT1.{index}", ["cat"], 1, "gives the name 'lpt1.1', which Windows reserves"),
        ("x" * 200, ["cat"], 1, "gives names longer than 255 bytes"),
    ],
)
def test_names_that_repeat_are_refused(template: str, stems: list[str], n: int, rule: str) -> None:
    """A template is refused if it could give two images one name, or if a name is too long."""
    with pytest.raises(InvalidRequestError) as error:
        NameTemplate(template).check(stems, n)
    assert rule in error.value.message


PIECES = ("{stem}", "{index}", "{index:02}", "{seed}", "{hash}", "a", "-", "_", " ", ".", "Z9")


@given(
    st.lists(st.sampled_from(PIECES), max_size=6).map("".join),
    st.lists(st.text(max_size=50), min_size=1, max_size=3),
    st.integers(1, 10),
)
def test_checked_templates_never_repeat_a_name(template: str, stems: list[str], n: int) -> None:
    """Whatever the sources are called, a template that was accepted gives each image a name."""
    try:
        names = NameTemplate(template)
        names.check(stems, n)
    except InvalidRequestError:
        return
    images = list(product(range(len(stems)), range(1, n + 1)))
    files = [
        next(names.names(stems[source], sha256(bytes([source, index])).hexdigest(), index, index))
        for source, index in images
    ]
    assert len({file.casefold() for file in files}) == len(images)
    assert not any(set(file) & set('/\\:*?"<>|\0\n') or file[0] in ".- " for file in files)
