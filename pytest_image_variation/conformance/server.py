"""`ServerConformanceTests`: what a server gets wrong."""

import os
from collections.abc import Mapping
from typing import Any

import pytest

from pytest_image_variation.conformance import (
    answer_rules,
    error_rules,
    request_rules,
    traffic_rules,
    url_rules,
)
from pytest_image_variation.conformance.capabilities import Capabilities
from pytest_image_variation.conformance.rule import Rule
from pytest_image_variation.conformance.server_probe import Server, ServerProbe
from pytest_image_variation.conformance.verdict import judge, parameters

__all__ = ["SERVER_RULES", "ServerConformanceTests"]

SERVER_RULES: Mapping[str, Rule[ServerProbe]] = {
    rule.id: rule
    for rules in (
        answer_rules.RULES,
        request_rules.RULES,
        url_rules.RULES,
        error_rules.RULES,
        traffic_rules.RULES,
    )
    for rule in rules
}
"""All rules about servers by id."""

_PROBES = pytest.StashKey[dict[Server, ServerProbe]]()


class ServerConformanceTests:
    """One test for each rule about servers; a subclass gives it the fixture `server`.

    The fixture returns a `Server`. Without one of its own, the server is that of
    `--image-variation-url`.
    """

    @pytest.fixture
    def server(self, request: pytest.FixtureRequest) -> Server:
        """The server of the command line."""
        return _named(request.config)

    @pytest.mark.parametrize("rule", parameters(SERVER_RULES.values()))
    def test_rule(
        self, rule: Rule[ServerProbe], server: Server, request: pytest.FixtureRequest
    ) -> None:
        """The server keeps the rule."""
        # All tests of a session share what was asked already.
        probes = request.session.stash.setdefault(_PROBES, {})
        if server not in probes:
            probes[server] = ServerProbe(server)
        probe = probes[server]
        if rule.id != "answer-status" and not probe.answers:
            pytest.skip("The server does not answer; see answer-status.")
        judge(rule, probe, request.node)


def _named(config: pytest.Config) -> Server:
    def option(name: str) -> Any:
        return config.getoption(f"--image-variation-{name}", None)

    url = option("url")
    if not url:
        pytest.skip(
            "No server is named; pass --image-variation-url http://HOST:PORT/v1, up to and with "
            "its /v1."
        )
    return Server(
        url,
        api_key=option("api-key") or os.environ.get("IMAGE_VARIATION_API_KEY"),
        model=option("model"),
        capabilities=Capabilities.parse(option("capabilities") or ""),
    )
