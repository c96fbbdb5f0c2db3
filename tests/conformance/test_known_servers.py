"""What the kit reports about models of other servers."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest

from langchain_image_variation.server import create_app
from pytest_image_variation.conformance import Server
from pytest_image_variation.conformance.server_tests import SERVER_RULES
from tests.conformance.broken_copies import BrokenCopy, Copies, broken_rules, in_process
from tests.conformance.known_servers import KNOWN_SERVERS, KnownServer

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"
_MANY = 4


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copies]:
    """Our server without a key, since nothing is known about their keys."""
    store = tmp_path_factory.mktemp("store")
    with in_process(create_app("instant", hosts=["in.process"], store_dir=store)) as app:
        yield Copies(app)


@pytest.mark.mostly_slow("DeepInfra")
@pytest.mark.parametrize(
    "server_model", KNOWN_SERVERS, ids=[server_model.name for server_model in KNOWN_SERVERS]
)
def test_page_row_matches_the_report(copies: Copies, server_model: KnownServer) -> None:
    """The row of each server on the page is what the kit reports."""
    transport = BrokenCopy(copies, server_model.change)
    server = Server(
        "http://in.process/v1", None, server_model.model, server_model.claims, transport
    )
    assert row(server_model, broken_rules(server)) in PAGE.read_text().splitlines()


def row(server_model: KnownServer, broken: set[str]) -> str:
    """Return a server's row: what it supports, and what it breaks."""
    claims = f"`{server_model.claims}`" if str(server_model.claims) else "all"
    cells = [
        format_ids([id for id in SERVER_RULES if id in broken and SERVER_RULES[id].level == level])
        for level in ("MUST", "SHOULD")
    ]
    return f"| {' | '.join([server_model.name, claims, *cells])} |"


def format_ids(ids: list[str]) -> str:
    """Return ids as text, with a large family as a count."""
    parts = []
    for family, members in groupby(sorted(ids), lambda id: id.partition("-")[0]):
        quoted_ids = [f"`{id}`" for id in members]
        is_large = len(quoted_ids) > _MANY
        parts += [f"{len(quoted_ids)} of `{family}-…`"] if is_large else quoted_ids
    return ", ".join(parts) or "none"
