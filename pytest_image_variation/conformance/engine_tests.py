"""`EngineConformanceTests`: one test per rule about engines."""

from collections.abc import Hashable, Mapping

import pytest

from langchain_image_variation.exceptions import InvalidRequestError
from pytest_image_variation.conformance import engine_rules
from pytest_image_variation.conformance.capabilities import Capabilities
from pytest_image_variation.conformance.engine_probe import Engine, EngineProbe
from pytest_image_variation.conformance.rule import Rule
from pytest_image_variation.conformance.rule_tests import check_rule, parameters, subject_key

__all__ = ["ENGINE_RULES", "EngineConformanceTests"]

ENGINE_RULES: Mapping[str, Rule[EngineProbe]] = {rule.id: rule for rule in engine_rules.RULES}
"""All rules about engines, by id."""

_PROBES = pytest.StashKey[dict[Hashable, EngineProbe]]()
_UNUSABLE = pytest.StashKey[set[Hashable]]()
"""The classes of tests whose engine does not answer a plain request."""


class EngineConformanceTests:
    """One test per rule about engines. Subclass it and provide the fixture `engine`.

    The fixture returns the engine, sync or async. Give it the scope "class", and make it a
    `classmethod`: then each request is made only once, and an async engine runs on one event loop.
    If the engine does not answer a plain request, the other rules are skipped. Set `capabilities`
    if the engine does not support everything, and `deterministic` if the same request always gives
    the same bytes.
    """

    capabilities = Capabilities()
    deterministic = False

    @pytest.fixture
    def engine(self) -> Engine:
        """The engine. A subclass must override this fixture."""
        pytest.skip("No engine to check. Give the subclass a fixture `engine` that returns it.")

    @pytest.mark.parametrize("rule", parameters(ENGINE_RULES.values()))
    def test_rule(
        self, rule: Rule[EngineProbe], engine: Engine, request: pytest.FixtureRequest
    ) -> None:
        """The engine follows the rule."""
        unusable_keys = request.session.stash.setdefault(_UNUSABLE, set())
        key = subject_key(request.node)
        if key in unusable_keys:
            pytest.skip("The engine does not answer a plain request; see engine-returns.")
        try:
            check_rule(rule, self._probe(engine, request.node), request.node)
        except pytest.fail.Exception:
            if rule.id == "engine-returns":
                unusable_keys.add(key)
            raise

    def _probe(self, engine: Engine, item: pytest.Item) -> EngineProbe:
        """Return the probe that the tests of a class share as long as the engine is the same.

        A probe of an earlier engine is dropped, since engines can be large.
        """
        probes = item.session.stash.setdefault(_PROBES, {})
        key = subject_key(item)
        current = probes.get(key)
        if current is not None and current.engine is engine:
            return current
        try:
            probe = EngineProbe(engine, self.capabilities, deterministic=self.deterministic)
        except (InvalidRequestError, ValueError) as error:
            pytest.fail(str(error), pytrace=False)
        if current is not None:
            current.close()
        elif item.parent is not None:
            # Runs before the teardown of the engine's fixture.
            item.parent.addfinalizer(lambda: probes.pop(key).close())
        probes[key] = probe
        return probe
