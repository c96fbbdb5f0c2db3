"""What the kit reports of the servers that are known, on models of them."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest

from langchain_image_variation.server import create_app
from pytest_image_variation.conformance import Server
from pytest_image_variation.conformance.server_tests import SERVER_RULES
from tests.conformance.in_process import BrokenCopy, Copies, broken_rules, in_process
from tests.conformance.known_servers import KNOWN_SERVERS, KnownServer

README = Path(__file__).parents[2] / "README.md"
_MANY = 4


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copies]:
    """Our server, without a key: of keys nothing is known."""
    store = tmp_path_factory.mktemp("store")
    with in_process(create_app("instant", hosts=["in.process"], store_dir=store)) as app:
        yield Copies(app)


@pytest.mark.parametrize("known", KNOWN_SERVERS, ids=[known.name for known in KNOWN_SERVERS])
def test_the_row_of_the_readme(ours: Copies, known: KnownServer) -> None:
    """It is what the kit reports."""
    transport = BrokenCopy(ours, known.change)
    server = Server("http://in.process/v1", None, known.model, known.claims, transport)
    assert row(known, broken_rules(server)) in README.read_text().splitlines()


def row(known: KnownServer, broken: set[str]) -> str:
    """Return a server's row: what it claims, and what it breaks."""
    claims = f"`{known.claims}`" if str(known.claims) else "all"
    cells = [
        shown([id for id in SERVER_RULES if id in broken and SERVER_RULES[id].level == level])
        for level in ("MUST", "SHOULD")
    ]
    return f"| {' | '.join([known.name, claims, *cells])} |"


def shown(ids: list[str]) -> str:
    """Return ids, those of a large family together."""
    found = []
    for family, members in groupby(sorted(ids), lambda id: id.partition("-")[0]):
        named = [f"`{id}`" for id in members]
        many = len(named) > _MANY
        found += [f"{len(named)} of `{family}-…`"] if many else named
    return ", ".join(found) or "none"
