"""Rules about the list of models."""

from typing import Any

from pytest_image_variation.conformance.probe_request import ProbeRequest
from pytest_image_variation.conformance.probe_response import ProbeResponse
from pytest_image_variation.conformance.rule import Rule, skip
from pytest_image_variation.conformance.server_probe import ServerProbe

__all__ = ["RULES"]


def _get_models(probe: ServerProbe) -> ProbeResponse:
    probe.require_service()
    return probe.send(ProbeRequest("GET", "/models"))


def _listed_models(probe: ServerProbe) -> list[Any]:
    content = _get_models(probe).json
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, list) or not data:
        skip("There is no list of models to check; see models-list.")
    return data


def _check_models(probe: ServerProbe) -> None:
    response = _get_models(probe).require_success()
    content = response.json
    data = content.get("data") if isinstance(content, dict) else None
    have_ids = isinstance(data, list) and all(
        isinstance(model, dict) and isinstance(model.get("id"), str) for model in data
    )
    response.require(have_ids and content.get("object") == "list", lambda: str(response))


def _check_requested_model(probe: ServerProbe) -> None:
    model = probe.server.model or "dall-e-2"
    ids = [each.get("id") for each in _listed_models(probe) if isinstance(each, dict)]
    response = _get_models(probe)
    response.require(model in ids, lambda: f"{model!r} is not in {response.quote(ids)}")


def _check_unknown_model(probe: ServerProbe) -> None:
    _listed_models(probe)
    probe.send(ProbeRequest("GET", "/models/conformance-no-such-model")).require_refusal(404)


RULES: tuple[Rule[ServerProbe], ...] = (
    Rule("models-list", "SHOULD", "/models lists the models, each with an id.", _check_models),
    Rule(
        "models-asked-for", "SHOULD", "The requested model is in the list.", _check_requested_model
    ),
    Rule("models-none", "MAY", "An unknown model gets a 404.", _check_unknown_model),
)
"""All rules of this module."""
