"""Rules about several requests: concurrent ones, and ones that are repeated."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from pytest_image_variation.conformance.probe_response import ProbeResponse
from pytest_image_variation.conformance.rule import Rule
from pytest_image_variation.conformance.server_probe import ServerProbe

__all__ = ["RULES"]

_CONCURRENT = 8


def _check_concurrency(probe: ServerProbe) -> None:
    probe.require_service()
    max_n = probe.capabilities.max_n
    counts = [index % min(3, max_n) + 1 for index in range(_CONCURRENT)]
    requests = [
        probe.legal_request(n=str(n), user=f"conformance-at-once-{index}")
        for index, n in enumerate(counts)
    ]
    with ThreadPoolExecutor(_CONCURRENT) as pool:
        responses = list(pool.map(probe.send, requests))
    for n, response in zip(counts, responses, strict=True):
        response.require_success()
        entries = len(response.entries)
        response.require(
            entries == n,
            f"one of {_CONCURRENT} concurrent requests had n={n} and got {entries} images",
        )


def _send_twice(
    probe: ServerProbe, attempt: int = 0, *, user: str = "conformance-twice"
) -> ProbeResponse:
    headers = (("idempotency-key", f"conformance-twice-{probe.run_id}"),)
    request = probe.legal_request(user=user)
    return probe.send(replace(request, headers=headers, attempt=attempt))


def _check_idempotency(probe: ServerProbe) -> None:
    probe.require_service()
    first, second = (_send_twice(probe, attempt).require_success() for attempt in (0, 1))
    second.require(second.content == first.content, "the second response is different")


def _check_conflict(probe: ServerProbe) -> None:
    probe.require_service()
    _send_twice(probe)
    _send_twice(probe, user="conformance-not-twice").require_refusal(409)


RULES: tuple[Rule[ServerProbe], ...] = (
    Rule(
        "at-once",
        "MUST",
        f"Each of {_CONCURRENT} concurrent requests gets its own number of images.",
        _check_concurrency,
    ),
    Rule(
        "idempotent",
        "MAY",
        "A request repeated with the same Idempotency-Key gets the same response.",
        _check_idempotency,
    ),
    Rule(
        "idempotent-conflict",
        "MAY",
        "A different request with a used Idempotency-Key gets a 409.",
        _check_conflict,
    ),
)
"""All rules of this module."""
