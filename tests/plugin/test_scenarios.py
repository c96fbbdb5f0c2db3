import re

import pytest

from pytest_image_variation.scenarios import SCENARIOS, scenario

CASES = """
success_url_n1 success_url_n2 success_url_n3 success_url_n10 success_b64_n1 success_b64_n2
success_b64_n3 success_b64_n10 success_b64_n1_256 success_b64_n1_512 success_user
success_null_fields not_png corrupt_image not_square too_large n_0 n_11 wrong_size
wrong_response_format unknown_model unknown_field missing_image missing_key wrong_key
budget_exhausted rate_limit rate_limit_then_success image_rate_limit content_refused server_error
server_error_then_success unavailable gateway_timeout cut_body garbage_body url_expired
endpoint_removed
""".split()


def test_every_contract_case_has_a_scenario() -> None:
    """There are scenarios for successes, for each broken rule and for each fault."""
    assert not set(CASES) - SCENARIOS.keys()
    assert all(name == each.name and each.about for name, each in SCENARIOS.items())


def test_names_are_valid_file_names() -> None:
    """A scenario's name is its cassette's file name on every file system."""
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in SCENARIOS)


def test_unknown_name_suggests_similar_ones() -> None:
    """The error for an unknown name suggests similar ones, or else lists all."""
    with pytest.raises(ValueError, match=r"'rate_limits'\. Did you mean 'rate_limit'[^?.]*\?$"):
        scenario("rate_limits")
    with pytest.raises(
        ValueError, match=r"Unknown scenario 'zzz'\. The scenarios are: success_url_n1, "
    ):
        scenario("zzz")


def test_retry_delays_are_short() -> None:
    """The delays of scenarios are short, so that tests of retries are fast."""
    for each in SCENARIOS.values():
        for answer in each.answers:
            if answer.status in (429, 503) and "retry-after" in answer.headers:
                assert float(answer.headers["retry-after-ms"]) <= 50
