import base64
import json
import pickle
from typing import Any

import pytest

from langchain_image_variation.contract import Image, ImagesResponse
from langchain_image_variation.exceptions import EngineError, OutputError
from langchain_image_variation.images.png import SquarePNG
from pytest_image_variation.samples import square_png


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
    "value", [5, 1.5, True, "text", [1], {"input_tokens": 1.5}, {"input_tokens_details": 7}]
)
@pytest.mark.parametrize("key", ["background", "quality", "size", "usage", "created"])
def test_odd_values_do_not_lose_the_images(key: str, value: Any) -> None:
    """The images can be read, whatever a server sends in the other keys."""
    body = json.dumps({"created": 1, "data": [{"b64_json": "eA=="}], key: value})
    assert ImagesResponse.from_json(body).data[0].read() == b"x"


def test_numbers_are_read_as_text() -> None:
    """A number in place of text keeps its value. Some servers send such a size."""
    response = ImagesResponse.from_json('{"created": 1, "data": [], "size": 1024}')
    assert response.size == "1024"


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
