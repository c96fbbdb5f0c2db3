"""The requests of each scenario, for any client, and a check of their responses."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from langchain_image_variation.contract import ResponseFormat, Size
from langchain_image_variation.error_response import ErrorResponse
from pytest_image_variation import samples
from pytest_image_variation.assertions import assert_images_response
from pytest_image_variation.scenarios import DEFAULTS, Answer, Scenario

IMAGES = {
    "square_png": samples.square_png(8),
    "non_square_png": samples.non_square_png(12, 8),
    "truncated_png": samples.truncated_png(8),
    "oversized_png": samples.oversized_png(),
    "jpeg": samples.jpeg(12, 8),
}


@dataclass(frozen=True)
class Reply:
    """A response from any client."""

    status_code: int
    headers: Mapping[str, str]
    content: bytes

    def json(self) -> Any:
        """Return the parsed body."""
        return json.loads(self.content)


def scenario_image(scenario: Scenario) -> bytes | None:
    """Return the image in the scenario's request."""
    return None if scenario.sample is None else IMAGES[scenario.sample]


def key_header(scenario: Scenario) -> dict[str, str]:
    """Return the headers of the scenario's request."""
    return {} if scenario.breaks == "key" else {"authorization": "Bearer sk-any"}


def check(scenario: Scenario, answer: Answer, got: Reply) -> list[str]:
    """Check a response against the scenario and the contract, and return its URLs."""
    assert got.status_code == answer.status
    if answer.error is not None:
        error = ErrorResponse.from_json(got.content).error
        assert (error.type, error.code, error.param) == (
            answer.error.type,
            answer.error.code,
            answer.error.param,
        )
        assert error.message and answer.error.message in (None, error.message)
        assert got.headers["x-request-id"].startswith("req_")
        # All four keys are present, in the vendor's format.
        assert got.content.decode() == ErrorResponse.from_json(got.content).to_json()
        return []
    if answer.body is not None:
        assert got.content == answer.body
    if answer.status == 200 and answer.body is None and not answer.cut:
        fields = {**DEFAULTS, **scenario.fields}
        size: Size = fields["size"]  # type: ignore[assignment]  # one of the three
        form: ResponseFormat = fields["response_format"]  # type: ignore[assignment]  # one of two
        assert_images_response(got, n=int(fields["n"]), size=size, response_format=form)
        entries = got.json()["data"]
        assert not answer.nulls or entries[0].keys() == {"b64_json", "url", "revised_prompt"}
        return [entry["url"] for entry in entries if form == "url"]
    return []
