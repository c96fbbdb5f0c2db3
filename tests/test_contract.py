import base64
import json
import pickle
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from langchain_image_variation.contract import (
    CreateImageVariationRequest,
    Image,
    ImagesResponse,
)
from langchain_image_variation.exceptions import (
    DownloadError,
    EngineError,
    InvalidRequestError,
    OutputError,
)
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


@pytest.mark.parametrize("response_format", ["url", "b64_json"])
def test_from_pngs_supports_both_forms(response_format: Any) -> None:
    """`url` becomes a data: URL. Both forms return the same bytes and the seeds."""
    response = ImagesResponse.from_pngs(
        [b"one", b"two"], response_format=response_format, seeds=[7, 8]
    )
    assert [image.read() for image in response.data] == [b"one", b"two"]
    assert [image.seed for image in response.data] == [7, 8]
    forms = [(image.url is None, image.b64_json is None) for image in response.data]
    assert forms == [(response_format == "b64_json", response_format == "url")] * 2


def test_model_and_note_stay_off_the_wire() -> None:
    """A response keeps the engine's model and note in copies and pickles, but not in its JSON."""
    response = ImagesResponse.from_pngs(
        [b"x"], response_format="b64_json", model="small", note="Made at 512x512 and enlarged."
    )
    for copy in (response, response.model_copy(), pickle.loads(pickle.dumps(response))):
        assert (copy.model, copy.note) == ("small", "Made at 512x512 and enlarged.")
    assert list(json.loads(response.to_json())) == ["created", "data"]
    read_back = ImagesResponse.from_json(response.to_json())
    assert (read_back.model, read_back.note) == (None, None)


def test_a_servers_own_model_key_is_kept() -> None:
    """A server's own keys `model` and `note` are kept, but are not an engine's."""
    response = ImagesResponse.from_content({"created": 1, "data": [], "model": "x", "note": 7})
    assert response.model_extra == {"model": "x", "note": 7}
    assert (response.model, response.note) == (None, None)


@pytest.mark.parametrize("name", ["model", "note"])
def test_from_pngs_takes_texts_only(name: str) -> None:
    """A model or a note that is not a string is an error that names it."""
    options: Any = {name: 7}
    with pytest.raises(EngineError, match=f"{name} must be a string or None, got 7"):
        ImagesResponse.from_pngs([b"x"], response_format="url", **options)


def test_writes_json_as_the_vendor_did() -> None:
    """The body has only `created` and `data`, two spaces of indent and a final newline."""
    response = ImagesResponse.from_pngs([b"x"], response_format="b64_json", seeds=[3])
    body = response.to_json()
    assert body == json.dumps(json.loads(body), indent=2) + "\n"
    assert json.loads(body) == {
        "created": response.created,
        "data": [{"b64_json": base64.b64encode(b"x").decode()}],
    }


def test_reads_leniently_and_writes_strictly() -> None:
    """Unknown keys, unknown values and nulls are kept when reading and dropped when writing."""
    body = {
        "created": 5,
        "data": [{"url": "https://x/y.png", "b64_json": None, "revised_prompt": None, "score": 1}],
        "quality": "ultra",
        "background": None,
        "usage": {
            "total_tokens": 9,
            "input_tokens_details": {"image_tokens": 4, "text_tokens": None},
            "cost": 0.1,
        },
        "model": "mine",
    }
    response = ImagesResponse.from_json(json.dumps(body))
    assert response.model_extra == {"model": "mine"}
    assert response.usage is not None
    assert response.usage.model_extra == {"cost": 0.1}
    assert json.loads(response.to_json()) == {
        "created": 5,
        "data": [{"url": "https://x/y.png"}],
        "quality": "ultra",
        "usage": {"total_tokens": 9, "input_tokens_details": {"image_tokens": 4}},
    }


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"created": null, "data": null}', (None, 0)),
        ('{"created": 1.9}', (1, 0)),
        ("{}", (None, 0)),
    ],
)
def test_reads_nulls_and_fractions(body: str, expected: tuple[int | None, int]) -> None:
    """Null data is read as empty, and the fraction of a second is dropped."""
    response = ImagesResponse.from_json(body)
    assert (response.created, len(response.data)) == expected


@pytest.mark.parametrize(
    ("body", "where"),
    [(b"", "the body"), ("<html>", "the body"), ("[]", "the body"), ('{"data":[1]}', "data.0")],
)
def test_a_body_of_another_shape_is_refused(body: str | bytes, where: str) -> None:
    """A body of another shape is an OutputError that names the location of the problem."""
    with pytest.raises(OutputError, match=where):
        ImagesResponse.from_json(body)


@pytest.mark.parametrize(
    "response",
    [
        ImagesResponse(created=None, data=[Image(url="u")]),
        ImagesResponse(created=1, data=[Image()]),
        ImagesResponse(created=1, data=[Image(url="u", b64_json="eA==")]),
    ],
)
def test_an_invalid_response_is_not_written(response: ImagesResponse) -> None:
    """A body without a time, or with an entry of no form or both forms, is not written."""
    with pytest.raises(OutputError):
        response.to_json()


@pytest.mark.parametrize(
    "image",
    [
        Image(),
        Image(url="https://example.com/a.png"),
        Image(url="/srv/images/a.jpg"),
        Image(b64_json="not base64!"),
        Image(url="data:image/png,abc"),
        Image(url="data:image/png;base64,???"),
    ],
)
def test_an_entry_without_an_image_is_our_error(image: Image) -> None:
    """Reading an entry without an image raises an OutputError."""
    with pytest.raises(OutputError):
        image.read()


@pytest.mark.parametrize(
    "value", [5, 1.5, True, "text", [1], {"input_tokens": 1.5}, {"input_tokens_details": 7}]
)
@pytest.mark.parametrize("key", ["background", "quality", "size", "usage", "created"])
def test_odd_values_do_not_lose_the_images(key: str, value: Any) -> None:
    """The images can be read, whatever a server sends in the other keys."""
    body = json.dumps({"created": 1, "data": [{"b64_json": "eA=="}], key: value})
    assert ImagesResponse.from_json(body).data[0].read() == b"x"


def test_base64_may_have_line_breaks() -> None:
    """Base64 may have line breaks, since some servers send it in lines."""
    assert Image(b64_json="eHh4\neHh4\r\n").read() == b"xxxxxx"


@pytest.mark.parametrize("text", ["AB " * 300_000, "A\t" * 300_000, "\r\nQUJD" * 150_000])
def test_wrapped_base64_takes_few_times_its_size(text: str) -> None:
    """Base64 that is mostly white space takes a small multiple of its memory."""
    image = Image(b64_json=text)
    tracemalloc.start()
    data = image.read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert data == base64.b64decode(text)
    assert peak < 4 * len(text)


def test_numbers_are_read_as_text() -> None:
    """A number in place of text keeps its value. Some servers send such a size."""
    response = ImagesResponse.from_json('{"created": 1, "data": [], "size": 1024}')
    assert response.size == "1024"


@pytest.mark.parametrize(
    "image", [{"b64_json": "", "url": "https://a/1"}, {"url": "", "b64_json": "AA=="}]
)
def test_an_empty_form_is_none(image: dict[str, str]) -> None:
    """A server may send both forms, one of them empty. The empty one is read as None."""
    response = ImagesResponse.from_content({"created": 1, "data": [image]})
    (entry,) = response.data
    assert [value for value in (entry.b64_json, entry.url) if value is not None] == [
        value for value in image.values() if value
    ]


def test_the_request_id_can_be_set() -> None:
    """The client sets the server's ID. It is not written to the JSON."""
    response = ImagesResponse(created=1)
    assert response.request_id is None
    response.request_id = "req_1"
    assert response.request_id == "req_1"
    assert "req_1" not in response.to_json()


@pytest.mark.parametrize("response_format", ["url", "b64_json"])
def test_the_repr_does_not_show_images(response_format: Any) -> None:
    """A repr contains neither base64 nor a signed URL."""
    response = ImagesResponse.from_pngs([square_png()], response_format=response_format)
    assert len(repr(response)) < 200
    assert base64.b64encode(square_png()).decode()[:20] not in repr(response)


def test_every_image_needs_its_seed() -> None:
    """A response with fewer seeds than images is an error."""
    with pytest.raises(EngineError, match="number of files is 2, and of seeds 1"):
        ImagesResponse.from_pngs([b"a", b"b"], response_format="url", seeds=[1])


@pytest.mark.parametrize(
    ("pngs", "message"),
    [
        (b"a", r"needs a list of PNG files, got one file; pass \[png\]"),
        ("iVBORw0KGgo=", "needs a list of PNG files, got one file"),
        ([SquarePNG(square_png())], r"got a value of type SquarePNG. encode_png\(image\) makes"),
        (["iVBORw0KGgo="], "got a value of type str"),
    ],
)
def test_from_pngs_takes_a_series_of_files(pngs: Any, message: str) -> None:
    """One file instead of several, or something other than bytes, is an error with a hint."""
    with pytest.raises(EngineError, match=message):
        ImagesResponse.from_pngs(pngs, response_format="url")


def test_from_pngs_takes_a_generator() -> None:
    """The files and their seeds may come from generators."""
    response = ImagesResponse.from_pngs(
        (png for png in [b"a", b"b"]), response_format="url", seeds=iter([1, 2])
    )
    assert [(image.read(), image.seed) for image in response.data] == [(b"a", 1), (b"b", 2)]


@pytest.mark.parametrize("blank", ["", "\n", " \r\n"])
@pytest.mark.parametrize("form", ["b64_json", "url"])
def test_the_head_of_a_file_is_read_alone(form: str, blank: str) -> None:
    """`read_head` returns the start of the file, even if base64 is in lines or ends corrupt."""
    png = square_png()
    encoded = blank.join(base64.b64encode(png).decode()[i : i + 7] for i in range(0, 700, 7))
    prefix = "data:image/png;base64," if form == "url" else ""
    image = Image.model_validate({form: f"{prefix}{encoded}%"})
    head = image.read_head()
    assert len(head) >= 24
    assert png.startswith(head)
    with pytest.raises(OutputError, match="not valid base64"):
        image.read()


def test_a_replaced_file_keeps_the_images_form() -> None:
    """`set_png` changes what `read` returns, and only the field that holds the file."""
    png = b"\x89PNG new"
    base64_image = Image(b64_json=base64.b64encode(b"old").decode())
    data_url = Image(url="data:image/png;base64,b2xk")
    url_image = Image(url="https://images.example/a.png")
    url_image.set_downloaded(b"old")
    for image in (base64_image, data_url, url_image):
        assert image.read() == b"old"
        image.set_png(png)
        assert image.read() == png
    assert base64_image.url is None
    assert data_url.b64_json is None
    assert url_image.url == "https://images.example/a.png"
    assert url_image.b64_json is None
    url_image.use_data_url()
    assert url_image.url == f"data:image/png;base64,{base64.b64encode(png).decode()}"


def test_a_failed_image_raises_its_error_again() -> None:
    """Each `read` raises a copy without the traceback of the failure, and `failure` shows it."""
    image = Image(url="https://images.example/a.png")
    assert image.failure is None
    try:
        raise DownloadError("The image is gone.")
    except DownloadError as error:
        image.set_failure(error)
    assert image.failure is not None
    assert image.failure.__traceback__ is None
    for _ in range(2):
        with pytest.raises(DownloadError, match="The image is gone") as caught:
            image.read()
        assert caught.value is not image.failure
