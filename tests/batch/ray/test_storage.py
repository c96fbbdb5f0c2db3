import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.batch.declared import made
from tests.batch.ray.nodes import Nodes
from tests.batch.ray.test_cluster import cluster_run
from tests.batch.running import manifest, output_images, run
from tests.batch.shelf import on_shelf

# Ray itself sets what it has deprecated; what we would use of that stays an error.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]

OUT = "shelf://kept/out"


def without_names(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows without the paths of their sources, which differ with the place."""
    return [{**row, "source_path": Path(row["source_path"]).name} for row in rows]


def test_a_node_killed_amid_a_run_from_and_to_urls_costs_no_picture(
    nodes: Nodes, photos: Path
) -> None:
    """Its manifest is that of an undisturbed run over folders; once more, nothing is made."""
    shutil.copytree(photos, on_shelf("shelf://kept/photos"))
    shutil.rmtree(photos)
    there = str(on_shelf(OUT))

    def kill() -> None:
        while not Path(there, "images").exists() or len(output_images(there)) < 6:
            time.sleep(0.05)
        nodes.kill_one()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    arguments = ("shelf://kept/photos", "--n", "2", "--jsonl")
    assert cluster_run(nodes, *arguments, sources=(), out=OUT) == 0
    killer.join()
    nodes.start_one()
    begun = made()
    assert len(begun) == 32
    assert begun.total() <= 32 + 2
    before = manifest(there)
    assert cluster_run(nodes, *arguments, sources=(), out=OUT) == 0
    assert made() == begun
    assert manifest(there) == before
    shutil.copytree(on_shelf("shelf://kept/photos"), photos)
    Path(os.environ["ENGINE_LOG"]).unlink()
    assert run("photos", "--n", "2", out="whole") == 0
    assert without_names(before) == without_names(manifest("whole"))
    assert output_images(there) == output_images("whole")
