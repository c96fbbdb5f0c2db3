from typing import Any

import pytest

from langchain_image_variation.agents.usage import usage_metadata
from langchain_image_variation.contract import ImagesResponse


def answer(**extra: Any) -> ImagesResponse:
    """Return a response with more keys."""
    return ImagesResponse.from_content({"created": 1, "data": [], **extra})


def test_tokens_have_langchains_keys() -> None:
    """The vendor's usage is reported under LangChain's keys, with its details by kind."""
    usage = {
        "input_tokens": 320,
        "input_tokens_details": {"image_tokens": 300, "text_tokens": 20},
        "output_tokens": 1056,
        "output_tokens_details": {"image_tokens": 1056, "text_tokens": 0},
        "total_tokens": 1376,
    }
    assert usage_metadata(answer(usage=usage)) == {
        "input_tokens": 320,
        "output_tokens": 1056,
        "total_tokens": 1376,
        "input_token_details": {"image": 300, "text": 20},
        "output_token_details": {"image": 1056, "text": 0},
    }


@pytest.mark.parametrize(
    "extra", [{"usage": {"cost": 0.04}}, {"inference_status": {"status": "ok", "cost": 0.04}}]
)
def test_the_cost_is_read_from_the_response(extra: dict[str, Any]) -> None:
    """The cost in US dollars is read wherever a gateway or host puts it."""
    assert usage_metadata(answer(**extra)) == {"total_cost": 0.04}


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"usage": None},
        {"usage": {}},
        {"usage": {"cost": "free"}},
        {"usage": {"cost": True}},
        {"usage": {"cost": -1}},
        {"inference_status": "done"},
        {"inference_status": {"cost": None}},
    ],
    ids=str,
)
def test_nothing_is_invented(extra: dict[str, Any]) -> None:
    """A response without usage has no metadata."""
    assert usage_metadata(answer(**extra)) is None
