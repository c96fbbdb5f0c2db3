"""`EngineConformanceTests`: what an engine gets wrong."""

from collections.abc import Hashable, Mapping

import pytest

from pytest_image_variation.conformance import engine_rules
from pytest_image_variation.conformance.capabilities import Capabilities
from pytest_image_variation.conformance.engine_probe import Engine, EngineProbe
from pytest_image_variation.conformance.rule import Rule
from pytest_image_variation.conformance.rule_tests import judge, parameters, subject_of

__all__ = ["ENGINE_RULES", "EngineConformanceTests"]

ENGINE_RULES: Mapping[str, Rule[EngineProbe]] = {rule.id: rule for rule in engine_rules.RULES}
"""All rules about engines by id."""

_PROBES = pytest.StashKey[dict[Hashable, EngineProbe]]()


class EngineConformanceTests:
    """One test for each rule about engines; a subclass gives it the fixture `engine`.

    The fixture returns the engine, sync or async; one of the scope "class" is asked each question
    once, and an async one on one event loop. What it does not claim is declared by `capabilities`,
    and that the same request always gives the same bytes, by `deterministic`.
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
        judge(rule, self._probe(engine, request.node), request.node)

    def _probe(self, engine: Engine, item: pytest.Item) -> EngineProbe:
        """Return the probe that the tests of a class share, as long as it is the same engine.

        Of the one before it nothing is kept, since engines can be large.
        """
        probes = item.session.stash.setdefault(_PROBES, {})
        subject = subject_of(item)
        known = probes.get(subject)
        if known is not None and known.engine is engine:
            return known
        try:
            probe = EngineProbe(engine, self.capabilities, deterministic=self.deterministic)
        except ValueError as error:
            pytest.fail(str(error), pytrace=False)
        if known is not None:
            known.close()
        elif item.parent is not None:
            # Before what the engine's fixture does when the class is done.
            item.parent.addfinalizer(lambda: probes.pop(subject).close())
        probes[subject] = probe
        return probe
