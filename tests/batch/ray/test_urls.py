import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from tests.batch.declared_engines import count_made_images
from tests.batch.file_systems import shelf_path
from tests.batch.ray.nodes import Nodes
from tests.batch.ray.test_cluster import cluster_run
from tests.batch.runs import output_images, portable_rows, read_manifest, run

# Ray uses its own deprecated settings. Deprecated calls of this package are still errors.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]

OUT = "shelf://kept/out"


def test_killed_node_with_urls_loses_no_image(nodes: Nodes, photos: Path) -> None:
    """After a node is killed, a run with URLs still equals a local run over folders."""
    shutil.copytree(photos, shelf_path("shelf://kept/photos"))
    shutil.rmtree(photos)
    out = str(shelf_path(OUT))

    def kill() -> None:
        while not Path(out, "images").exists() or len(output_images(out)) < 6:
            time.sleep(0.05)
        nodes.kill_second()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    arguments = ("shelf://kept/photos", "--n", "2", "--jsonl")
    assert cluster_run(nodes, *arguments, sources=(), out=OUT) == 0
    killer.join()
    nodes.restart_second()
    counts = count_made_images()
    assert len(counts) == 32
    assert counts.total() <= 32 + 2
    rows = read_manifest(out)
    assert cluster_run(nodes, *arguments, sources=(), out=OUT) == 0
    assert count_made_images() == counts
    assert read_manifest(out) == rows
    shutil.copytree(shelf_path("shelf://kept/photos"), photos)
    Path(os.environ["ENGINE_LOG"]).unlink()
    assert run("photos", "--n", "2", out="whole") == 0
    assert portable_rows(rows) == portable_rows(read_manifest("whole"))
    assert output_images(out) == output_images("whole")
