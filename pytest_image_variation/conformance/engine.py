"""`EngineConformanceTests`: what an engine gets wrong."""

from collections.abc import Mapping

import pytest

from pytest_image_variation.conformance import engine_rules
from pytest_image_variation.conformance.capabilities import Capabilities
from pytest_image_variation.conformance.engine_probe import Engine, EngineProbe
from pytest_image_variation.conformance.rule import Rule
from pytest_image_variation.conformance.verdict import judge, parameters

__all__ = ["ENGINE_RULES", "EngineConformanceTests"]

ENGINE_RULES: Mapping[str, Rule[EngineProbe]] = {rule.id: rule for rule in engine_rules.RULES}
"""All rules about engines by id."""

_PROBES = pytest.StashKey[dict[int, EngineProbe]]()


class EngineConformanceTests:
    """One test for each rule about engines; a subclass gives it the fixture `engine`.

    The fixture returns the engine, sync or async. What it does not claim is declared by
    `capabilities`, and that the same request always gives the same bytes, by `deterministic`.
    """

    capabilities = Capabilities()
    deterministic = False

    @pytest.fixture
    def engine(self) -> Engine:
        """The engine, which a subclass must give."""
        pytest.skip("No engine is named; give the subclass a fixture `engine` that returns it.")

    @pytest.mark.parametrize("rule", parameters(ENGINE_RULES.values()))
    def test_rule(
        self, rule: Rule[EngineProbe], engine: Engine, request: pytest.FixtureRequest
    ) -> None:
        """The engine keeps the rule."""
        # The tests of one engine share what was asked already. It is kept, so that no other engine
        # gets its id.
        probes = request.session.stash.setdefault(_PROBES, {})
        if id(engine) not in probes:
            probes[id(engine)] = EngineProbe(
                engine, self.capabilities, deterministic=self.deterministic
            )
        judge(rule, probes[id(engine)], request.node)
