"""`ServerConformanceTests`: one test per rule about servers."""

from collections.abc import Hashable, Mapping
from typing import Any

import pytest

from langchain_image_variation.hosted import settings
from pytest_image_variation.conformance import (
    acceptance_rules,
    error_rules,
    key_rules,
    model_rules,
    refusal_rules,
    response_rules,
    traffic_rules,
    url_rules,
)
from pytest_image_variation.conformance.capabilities import Capabilities
from pytest_image_variation.conformance.rule import Rule
from pytest_image_variation.conformance.rule_tests import check_rule, parameters, subject_key
from pytest_image_variation.conformance.server import Server
from pytest_image_variation.conformance.server_probe import ServerProbe

__all__ = ["SERVER_RULES", "ServerConformanceTests", "server_of"]

SERVER_RULES: Mapping[str, Rule[ServerProbe]] = {
    rule.id: rule
    for rules in (
        response_rules.RULES,
        acceptance_rules.RULES,
        refusal_rules.RULES,
        url_rules.RULES,
        error_rules.RULES,
        key_rules.RULES,
        traffic_rules.RULES,
        model_rules.RULES,
    )
    for rule in rules
}
"""All rules about servers, by id."""

_PROBES = pytest.StashKey[dict[Hashable, ServerProbe]]()


class ServerConformanceTests:
    """One test per rule about servers. Subclass it and provide the fixture `server`.

    The fixture returns a `Server`. Without one, the tests use the server of
    `--image-variation-url`.
    """

    @pytest.fixture
    def server(self, request: pytest.FixtureRequest) -> Server:
        """The server of the command line."""
        server = server_of(request.config)
        if server is None:
            pytest.skip(
                "No server to check. Pass --image-variation-url http://HOST:PORT/v1, including "
                "the /v1."
            )
        return server

    @pytest.mark.parametrize("rule", parameters(SERVER_RULES.values()))
    def test_rule(
        self, rule: Rule[ServerProbe], server: Server, request: pytest.FixtureRequest
    ) -> None:
        """The server follows the rule."""
        # The tests of a class share the responses, as long as the server is the same.
        probes = request.session.stash.setdefault(_PROBES, {})
        key = subject_key(request.node)
        probe = probes.get(key)
        if probe is None or probe.server != server:
            probe = probes[key] = ServerProbe(server)
        if rule.id != "answer-status" and not probe.is_reachable:
            if rule.id == _first_selected_rule(request.node):
                pytest.fail("The server does not answer; answer-status says why.", pytrace=False)
            pytest.skip("The server does not answer; see answer-status.")
        check_rule(rule, probe, request.node)


def _first_selected_rule(item: pytest.Item) -> str | None:
    """Return the rule that fails for an unreachable server if answer-status is not selected."""
    ids = [
        other.callspec.params["rule"].id  # type: ignore[attr-defined]  # of parametrized tests
        for other in item.session.items
        if other.parent is item.parent
        and "rule" in getattr(getattr(other, "callspec", None), "params", ())
    ]
    return None if "answer-status" in ids else ids[0]


def server_of(config: pytest.Config) -> Server | None:
    """Return the server of the command line, or None if it names none.

    Raises:
        ValueError: See `Server` and `Capabilities`.
    """

    def option(name: str) -> Any:
        return config.getoption(f"--image-variation-{name}", None)

    url = option("url")
    if not url:
        return None
    return Server(
        url,
        api_key=option("api-key") or settings.read_environment("IMAGE_VARIATION_API_KEY"),
        model=option("model"),
        capabilities=Capabilities.parse(option("capabilities") or ""),
        timeout=option("timeout"),
    )
