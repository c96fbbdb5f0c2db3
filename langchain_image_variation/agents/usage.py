"""What a hosted engine says that an answer used and cost, in the words that tracing tools read."""

from typing import Any

from langchain_image_variation.contract import ImagesResponse

__all__ = ["usage_metadata"]


def usage_metadata(response: ImagesResponse) -> dict[str, Any] | None:
    """Return the tokens and the cost of an answer, or None if the engine says nothing of them.

    The keys are LangChain's: `input_tokens`, `output_tokens`, `total_tokens`, `input_token_details`
    and `output_token_details` by kind, and `total_cost` in US dollars, which LangSmith adds up for
    tools too. A cost is only taken from the answer, never computed: prices change.
    """
    found: dict[str, Any] = {}
    usage = response.usage
    if usage is not None:
        for name in ("input_tokens", "output_tokens", "total_tokens"):
            if (count := getattr(usage, name)) is not None:
                found[name] = count
        for kind, details in (
            ("input", usage.input_tokens_details),
            ("output", usage.output_tokens_details),
        ):
            tokens = {} if details is None else details.model_dump(exclude_none=True)
            known = {"image": tokens.get("image_tokens"), "text": tokens.get("text_tokens")}
            if any(known.values()):
                found[f"{kind}_token_details"] = {k: v for k, v in known.items() if v is not None}
    if (cost := _cost(response)) is not None:
        found["total_cost"] = cost
    return found or None


def _cost(response: ImagesResponse) -> float | None:
    """Return what the answer says that it cost, in US dollars."""
    status = (response.model_extra or {}).get("inference_status")
    usage = response.usage
    for cost in (
        (usage.model_extra or {}).get("cost") if usage is not None else None,
        status.get("cost") if isinstance(status, dict) else None,
    ):
        if isinstance(cost, int | float) and not isinstance(cost, bool) and 0 <= cost < 1e6:
            return float(cost)
    return None
