"""What a hosted engine's response used and cost, under the keys that tracing tools read."""

from typing import Any

from langchain_image_variation.contract import ImagesResponse

__all__ = ["usage_metadata"]

_MAX_AMOUNT = 1e6


def usage_metadata(response: ImagesResponse) -> dict[str, Any] | None:
    """Return the tokens and the cost of a response, or None if it does not contain any.

    The keys are LangChain's: `input_tokens`, `output_tokens`, `total_tokens`, `input_token_details`
    and `output_token_details` by kind, and `total_cost` in US dollars, which LangSmith adds up for
    tools too. The cost is read from the response and never computed, because prices change.
    Services that bill by call add `billed_calls`, and `credits` if they report the charge.
    """
    metadata: dict[str, Any] = {}
    usage = response.usage
    if usage is not None:
        for name in ("input_tokens", "output_tokens", "total_tokens"):
            if (count := getattr(usage, name)) is not None:
                metadata[name] = count
        for direction, details in (
            ("input", usage.input_tokens_details),
            ("output", usage.output_tokens_details),
        ):
            tokens = {} if details is None else details.model_dump(exclude_none=True)
            counts = {"image": tokens.get("image_tokens"), "text": tokens.get("text_tokens")}
            if any(counts.values()):
                metadata[f"{direction}_token_details"] = {
                    kind: count for kind, count in counts.items() if count is not None
                }
    if (cost := _cost(response)) is not None:
        metadata["total_cost"] = cost
    for name in ("billed_calls", "credits"):
        if (amount := _amount((response.model_extra or {}).get(name))) is not None:
            metadata[name] = amount
    return metadata or None


def _cost(response: ImagesResponse) -> float | None:
    """Return the cost that the response contains, in US dollars, or None."""
    status = (response.model_extra or {}).get("inference_status")
    usage = response.usage
    for cost in (
        (usage.model_extra or {}).get("cost") if usage is not None else None,
        status.get("cost") if isinstance(status, dict) else None,
    ):
        if (amount := _amount(cost)) is not None:
            return float(amount)
    return None


def _amount(value: object) -> int | float | None:
    """Return a number from a response if it is a plausible amount, or else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if 0 <= value < _MAX_AMOUNT else None
