"""A copy of our server with a fault for each rule, which breaks that rule and no other."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from langchain_image_variation.server import create_app
from pytest_image_variation.conformance import Capabilities, Server
from pytest_image_variation.conformance.server_tests import SERVER_RULES
from pytest_image_variation.loopback_session import LoopbackSession
from tests.conformance.broken_copies import (
    KEY,
    BrokenCopy,
    Copies,
    Received,
    Reply,
    broken_rules,
    in_process,
)
from tests.conformance.mutations import MUTATIONS, Mutation

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"
BASE_URL = "http://in.process/v1"


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copies]:
    """Our server's responses."""
    app = create_app("instant", api_key=KEY, store_dir=tmp_path_factory.mktemp("store"))
    with in_process(app) as ours:
        yield Copies(ours)


@pytest.fixture(scope="module")
def expiring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copies]:
    """The responses of our server if URLs expire at once."""
    store = tmp_path_factory.mktemp("store")
    app = create_app("instant", api_key=KEY, store_dir=store, url_ttl=0.001)
    with in_process(app) as ours:
        yield Copies(ours)


def server(copies: Copies, mutation: Mutation) -> Server:
    """Return the server with one change."""
    copy = BrokenCopy(copies, mutation.change)
    return Server(BASE_URL, KEY, mutation.model, mutation.capabilities, copy)


def test_each_rule_has_one_broken_copy() -> None:
    """Each rule about servers has exactly one broken copy."""
    assert [mutation.name for mutation in MUTATIONS] == [
        mutation.breaks[0] for mutation in MUTATIONS
    ]
    assert sorted(mutation.name for mutation in MUTATIONS) == sorted(SERVER_RULES)
    assert len(SERVER_RULES) >= 60


def test_unchanged_copy_breaks_nothing(copies: Copies) -> None:
    """An unchanged copy breaks no rule, so other copies fail because of their changes."""
    server = Server(BASE_URL, KEY, transport=BrokenCopy(copies, lambda request, reply: reply))
    assert broken_rules(server) == set()


def test_loopback_server_breaks_nothing(image_variation_server: LoopbackSession) -> None:
    """The fixture's server follows every rule over a real socket."""
    assert broken_rules(Server(image_variation_server.base_url)) == set()


def test_docs_give_the_cost_of_the_kit(copies: Copies) -> None:
    """The docs give the number of images that the kit requests, since some servers charge."""
    image_counts: list[int] = []

    def note(request: Received, reply: Reply) -> Reply:
        served = reply.status == 200 and request.method == "POST"
        image_counts.append(len(json.loads(reply.body)["data"]) if served else 0)
        return reply

    broken_rules(Server(BASE_URL, KEY, transport=BrokenCopy(copies, note)))
    served = sum(n > 0 for n in image_counts)
    images = sum(image_counts)
    sentence = (
        f"{len(image_counts)} requests, each once. {served} of them are served, with {images} "
    )
    assert sentence in " ".join(PAGE.read_text().split())


@pytest.mark.mostly_slow(*[mutation.name for mutation in MUTATIONS if not mutation.expiring][::3])
@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.name for mutation in MUTATIONS])
def test_broken_copy_breaks_its_rule(
    copies: Copies, request: pytest.FixtureRequest, mutation: Mutation
) -> None:
    """Of the rules that a copy's change affects, exactly those in the table fail."""
    if mutation.expiring:
        copies = request.getfixturevalue("expiring")
        ids = [id for id in SERVER_RULES if id.startswith("url-expires")]
    elif mutation.capabilities != Capabilities() or mutation.model:
        ids = list(SERVER_RULES)
    else:
        ids = copies.affected_rules(mutation.change, BASE_URL, KEY)
    assert broken_rules(server(copies, mutation), ids) == set(mutation.breaks)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mutation", [pytest.param(m, id=m.name) for m in MUTATIONS if not m.expiring]
)
def test_broken_copy_breaks_no_other_rule(copies: Copies, mutation: Mutation) -> None:
    """A broken copy breaks exactly the rules in its row of the table."""
    assert broken_rules(server(copies, mutation)) == set(mutation.breaks)
