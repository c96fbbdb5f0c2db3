"""Each rule is seen to be broken, and no other with it, in a copy of our server made for that."""

from collections.abc import Iterator

import pytest

from langchain_image_variation.server import create_app
from pytest_image_variation.conformance import Server
from pytest_image_variation.conformance.server import SERVER_RULES
from tests.conformance.in_process import KEY, BrokenCopy, Copies, broken_rules, in_process
from tests.conformance.mutations import MUTATIONS, Mutation
from tests.conformance.test_ours import Looking

BASE_URL = "http://in.process/v1"


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copies]:
    """Our server."""
    app = create_app(Looking(), api_key=KEY, store_dir=tmp_path_factory.mktemp("store"))
    with in_process(app) as ours:
        yield Copies(ours)


@pytest.fixture(scope="module")
def expiring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copies]:
    """Our server, with addresses that expire at once."""
    store = tmp_path_factory.mktemp("store")
    app = create_app(Looking(), api_key=KEY, store_dir=store, url_ttl=0.001)
    with in_process(app) as ours:
        yield Copies(ours)


def test_each_rule_has_a_broken_copy() -> None:
    """None is left out, and none is there twice."""
    assert [mutation.name for mutation in MUTATIONS] == [
        mutation.breaks[0] for mutation in MUTATIONS
    ]
    assert sorted(mutation.name for mutation in MUTATIONS) == sorted(SERVER_RULES)
    assert len(SERVER_RULES) >= 60


def test_the_copy_without_a_change_breaks_nothing(copies: Copies) -> None:
    """What fails in the others is their change."""
    server = Server(BASE_URL, KEY, transport=BrokenCopy(copies, lambda sent, given: given))
    assert broken_rules(server) == set()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.name for mutation in MUTATIONS])
def test_a_broken_copy_breaks_its_rule_alone(
    copies: Copies, request: pytest.FixtureRequest, mutation: Mutation
) -> None:
    """Of all rules, exactly those fail that the table names."""
    ids = list(SERVER_RULES)
    if mutation.expiring:
        copies = request.getfixturevalue("expiring")
        ids = [id for id in ids if id.startswith("url-expires")]
    server = Server(BASE_URL, KEY, None, mutation.capabilities, BrokenCopy(copies, mutation.change))
    assert broken_rules(server, ids) == set(mutation.breaks)
