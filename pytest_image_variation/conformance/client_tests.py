"""`ClientConformanceTests`: one test per rule about clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pytest

from pytest_image_variation.conformance import client_rules
from pytest_image_variation.conformance.client_probe import ClientProbe, CreateVariation
from pytest_image_variation.conformance.rule import Rule
from pytest_image_variation.conformance.rule_tests import check_rule, parameters

if TYPE_CHECKING:
    from pytest_image_variation.loopback import Loopback

__all__ = ["CLIENT_RULES", "ClientConformanceTests"]

CLIENT_RULES: Mapping[str, Rule[ClientProbe]] = {rule.id: rule for rule in client_rules.RULES}
"""All rules about clients, by id."""


class ClientConformanceTests:
    """One test per rule about clients. Subclass it and provide the fixture `create_variation`.

    The fixture returns a sync or async function. The tests call it as
    ``create_variation(base_url, api_key, image, n=2, size="256x256", response_format="b64_json",
    user="jane")``, with the bytes of an image and any of the fields. It returns the files of the
    variations as a list of bytes. It talks to `image_variation_loopback`, so the extra `server`
    must be installed.
    """

    @pytest.fixture
    def create_variation(self) -> CreateVariation:
        """The client's function. A subclass must override this fixture."""
        pytest.skip(
            "No client to check. Give the subclass a fixture `create_variation` that returns the "
            "client's function."
        )

    @pytest.mark.parametrize("rule", parameters(CLIENT_RULES.values()))
    def test_rule(
        self,
        rule: Rule[ClientProbe],
        create_variation: CreateVariation,
        image_variation_loopback: Loopback,
        request: pytest.FixtureRequest,
    ) -> None:
        """The client follows the rule."""
        check_rule(rule, ClientProbe(create_variation, image_variation_loopback), request.node)
