from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from langchain_image_variation.contract import CreateImageVariationRequest
from langchain_image_variation.exceptions import InvalidRequestError
from langchain_image_variation.images.png import SquarePNG
from pytest_image_variation.samples import square_png

PNG = SquarePNG(square_png())


def test_defaults_follow_the_contract() -> None:
    """Only the image is required, and the other fields have the contract's defaults."""
    request = CreateImageVariationRequest(image=PNG)
    assert request.model == "dall-e-2"
    assert (request.n, request.response_format, request.size) == (1, "url", "1024x1024")
    assert (request.user, request.side) == (None, 1024)


def test_null_means_the_default() -> None:
    """None for an optional field is the same as leaving it out."""
    fields: dict[str, Any] = dict.fromkeys(("model", "n", "response_format", "size", "user"))
    assert CreateImageVariationRequest(image=PNG, **fields) == CreateImageVariationRequest(
        image=PNG
    )


@pytest.mark.parametrize("size", ["256x256", "512x512", "1024x1024"])
def test_side_is_the_size_in_pixels(size: str) -> None:
    """The side of each size is its number of pixels."""
    request = CreateImageVariationRequest.model_validate({"image": PNG, "size": size})
    assert f"{request.side}x{request.side}" == size


def test_a_request_cannot_be_changed() -> None:
    """A request is frozen, so a cache or a batch can rely on it."""
    request = CreateImageVariationRequest(image=PNG, n=2)
    with pytest.raises(ValidationError, match="frozen"):
        request.n = 3
    assert request.n == 2


def test_a_model_may_have_one_character() -> None:
    """Only an empty name of a model is refused."""
    assert CreateImageVariationRequest(image=PNG, model="x").model == "x"


@pytest.mark.parametrize("user", [None, "", "user-1"])
def test_the_form_has_the_fields_in_wire_order(user: str | None) -> None:
    """The form has every field but the image, and `user` only if there is one."""
    request = CreateImageVariationRequest(image=PNG, n=3, size="256x256", user=user)
    expected = {"model": "dall-e-2", "n": "3", "response_format": "url", "size": "256x256"}
    expected |= {} if user is None else {"user": user}
    assert list(request.to_form().items()) == list(expected.items())


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({}, "image", "image is missing; it must be a SquarePNG"),
    ({"image": b"\x89PNG"}, "image", "got a value of type bytes."),
    ({"image": None}, "image", "got a value of type NoneType."),
    ({"n": 0}, "n", "n must be a whole number from 1 to 10, got 0."),
    ({"n": 11}, "n", "n must be a whole number from 1 to 10, got 11."),
    ({"n": -1}, "n", "got -1."),
    ({"n": 10**40}, "n", "got a value of type int."),
    ({"n": True}, "n", "got True."),
    ({"n": 2.5}, "n", "got 2.5."),
    ({"n": float("nan")}, "n", "got nan."),
    ({"n": "3"}, "n", "got '3'."),
    ({"size": "300x300"}, "size", "one of '256x256', '512x512', '1024x1024', got '300x300'."),
    ({"size": "1024X1024"}, "size", "got '1024X1024'."),
    ({"size": 1024}, "size", "got 1024."),
    ({"size": ["256x256"]}, "size", "got a value of type list."),
    ({"response_format": "xml"}, "response_format", "must be 'url' or 'b64_json', got 'xml'."),
    ({"model": ""}, "model", "must be a non-empty string, got ''."),
    ({"model": b"dall-e-2"}, "model", "got a value of type bytes."),
    ({"user": 7}, "user", "user must be a string, got 7."),
    ({"prompt": "a cat"}, "prompt", "'prompt' is not a field of the request; the fields are"),
    ({"size": "x" * 10**6}, "size", "x…'."),
    ({"y" * 10**6: 1}, "y" * 40, "y' is not a field"),
]


@pytest.mark.parametrize(("fields", "param", "message"), BAD, ids=[m[:30] for _, _, m in BAD])
def test_an_invalid_field_is_refused(fields: dict[str, Any], param: str, message: str) -> None:
    """The error for an invalid field names it, the rule and the value, which is shortened."""
    data = {"image": PNG, **fields} if fields else {}
    with pytest.raises(InvalidRequestError) as caught:
        CreateImageVariationRequest(**data)
    assert message in str(caught.value)
    assert caught.value.param == param
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("data", [None, 3, "text", b"bytes", [1]])
def test_a_request_must_be_a_mapping(data: object) -> None:
    """A request that is read from another type is refused with our own error."""
    with pytest.raises(InvalidRequestError, match="mapping"):
        CreateImageVariationRequest.model_validate(data)


_VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
) | st.sampled_from(["256x256", "url", "b64_json", PNG, 1, 10])
_FIELDS = st.sampled_from(["image", "model", "n", "response_format", "size", "user"]) | st.text()


@given(st.dictionaries(_FIELDS, _VALUES | st.lists(_VALUES, max_size=2), max_size=7))
def test_any_fields_are_a_request_or_our_error(fields: dict[str, Any]) -> None:
    """No mapping raises anything except InvalidRequestError."""
    try:
        request = CreateImageVariationRequest.model_validate(fields)
    except InvalidRequestError as error:
        assert error.param is not None
    else:
        assert 1 <= request.n <= 10
        assert request.side in (256, 512, 1024)
