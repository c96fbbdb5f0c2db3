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


def test_each_case_of_the_contract_has_a_scenario() -> None:
    """Successes, each broken rule, and each fault."""
    assert not set(CASES) - SCENARIOS.keys()
    assert all(name == made.name and made.about for name, made in SCENARIOS.items())


def test_names_are_file_names_and_identifiers() -> None:
    """A name names a cassette on any disk."""
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in SCENARIOS)


def test_an_unknown_name_is_told_with_those_like_it() -> None:
    """Misspelt names are the commonest mistake."""
    with pytest.raises(ValueError, match=r"'rate_limits'\. Did you mean 'rate_limit'"):
        scenario("rate_limits")
    with pytest.raises(
        ValueError, match=r"Unknown scenario 'zzz'\. The scenarios are: success_url_n1, "
    ):
        scenario("zzz")


def test_every_wait_that_a_fault_asks_for_is_short() -> None:
    """A test of retries takes no longer than it must."""
    for made in SCENARIOS.values():
        for answer in made.answers:
            if answer.status in (429, 503) and "retry-after" in answer.headers:
                assert float(answer.headers["retry-after-ms"]) <= 50
