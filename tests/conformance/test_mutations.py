"""Each rule is seen to be broken, and no other with it, in a copy of our server made for that."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from langchain_image_variation.server import create_app
from pytest_image_variation.conformance import Capabilities, Server
from pytest_image_variation.conformance.server_tests import SERVER_RULES
from pytest_image_variation.loopback import View
from tests.conformance.in_process import (
    KEY,
    BrokenCopy,
    Copies,
    Given,
    Sent,
    broken_rules,
    in_process,
)
from tests.conformance.mutations import MUTATIONS, Mutation

README = Path(__file__).parents[2] / "README.md"
BASE_URL = "http://in.process/v1"


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copies]:
    """Our server."""
    app = create_app("instant", api_key=KEY, store_dir=tmp_path_factory.mktemp("store"))
    with in_process(app) as ours:
        yield Copies(ours)


@pytest.fixture(scope="module")
def expiring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copies]:
    """Our server, with addresses that expire at once."""
    store = tmp_path_factory.mktemp("store")
    app = create_app("instant", api_key=KEY, store_dir=store, url_ttl=0.001)
    with in_process(app) as ours:
        yield Copies(ours)


def server(copies: Copies, mutation: Mutation) -> Server:
    """Return the server with one change."""
    copy = BrokenCopy(copies, mutation.change)
    return Server(BASE_URL, KEY, mutation.model, mutation.capabilities, copy)


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


def test_the_session_server_breaks_nothing(image_variation_server: View) -> None:
    """What tests are run against keeps every rule, over a real socket."""
    assert broken_rules(Server(image_variation_server.base_url)) == set()


def test_what_the_kit_costs_is_in_the_readme(copies: Copies) -> None:
    """Some servers are paid for by the picture."""
    pictures: list[int] = []

    def note(sent: Sent, given: Given) -> Given:
        served = given.status == 200 and sent.method == "POST"
        pictures.append(len(json.loads(given.body)["data"]) if served else 0)
        return given

    broken_rules(Server(BASE_URL, KEY, transport=BrokenCopy(copies, note)))
    served = sum(n > 0 for n in pictures)
    told = (
        f"{len(pictures)} requests, each once, of which {served} are served, with {sum(pictures)}"
    )
    assert told in " ".join(README.read_text().split())


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.name for mutation in MUTATIONS])
def test_a_broken_copy_breaks_its_rule_alone(
    copies: Copies, request: pytest.FixtureRequest, mutation: Mutation
) -> None:
    """Of the rules that see the change, exactly those fail that the table names."""
    if mutation.expiring:
        copies = request.getfixturevalue("expiring")
        ids = [id for id in SERVER_RULES if id.startswith("url-expires")]
    elif mutation.capabilities != Capabilities() or mutation.model:
        ids = list(SERVER_RULES)
    else:
        ids = copies.looking_at(mutation.change, BASE_URL, KEY)
    assert broken_rules(server(copies, mutation), ids) == set(mutation.breaks)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mutation", [pytest.param(m, id=m.name) for m in MUTATIONS if not m.expiring]
)
def test_a_broken_copy_breaks_no_other_rule(copies: Copies, mutation: Mutation) -> None:
    """Of all rules, exactly those fail that the table names."""
    assert broken_rules(server(copies, mutation)) == set(mutation.breaks)
