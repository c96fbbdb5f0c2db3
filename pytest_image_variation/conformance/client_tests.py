"""`ClientConformanceTests`: what a client gets wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pytest

from pytest_image_variation.conformance import client_rules
from pytest_image_variation.conformance.client_probe import ClientProbe, CreateVariation
from pytest_image_variation.conformance.rule import Rule
from pytest_image_variation.conformance.rule_tests import judge, parameters

if TYPE_CHECKING:
    from pytest_image_variation.loopback import Loopback

__all__ = ["CLIENT_RULES", "ClientConformanceTests"]

CLIENT_RULES: Mapping[str, Rule[ClientProbe]] = {rule.id: rule for rule in client_rules.RULES}
"""All rules about clients by id."""


class ClientConformanceTests:
    """One test for each rule about clients; a subclass gives it the fixture `create_variation`.

    The fixture returns a function, sync or async, that is called as ``create_variation(base_url,
    api_key, image, n=2, size="256x256", response_format="b64_json", user="jane")``, with the bytes
    of a picture and any of the fields, and returns the files of the variations as a list of bytes.
    What it asks is `image_variation_loopback`, so the extra `server` must be installed.
    """

    @pytest.fixture
    def create_variation(self) -> CreateVariation:
        """The client's function, which a subclass must give."""
        pytest.skip(
            "No client is named; give the subclass a fixture `create_variation` that returns its "
            "function."
        )

    @pytest.mark.parametrize("rule", parameters(CLIENT_RULES.values()))
    def test_rule(
        self,
        rule: Rule[ClientProbe],
        create_variation: CreateVariation,
        image_variation_loopback: Loopback,
        request: pytest.FixtureRequest,
    ) -> None:
        """The client keeps the rule."""
        judge(rule, ClientProbe(create_variation, image_variation_loopback), request.node)
