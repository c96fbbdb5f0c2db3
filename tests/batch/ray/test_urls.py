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

# Ray itself sets what it has deprecated; what we would use of that stays an error.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]

OUT = "shelf://kept/out"


def test_killed_node_with_urls_loses_no_image(nodes: Nodes, photos: Path) -> None:
    """The manifest equals that of a local run over folders. A second run makes nothing."""
    shutil.copytree(photos, shelf_path("shelf://kept/photos"))
    shutil.rmtree(photos)
    there = str(shelf_path(OUT))

    def kill() -> None:
        while not Path(there, "images").exists() or len(output_images(there)) < 6:
            time.sleep(0.05)
        nodes.kill_second()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    arguments = ("shelf://kept/photos", "--n", "2", "--jsonl")
    assert cluster_run(nodes, *arguments, sources=(), out=OUT) == 0
    killer.join()
    nodes.restart_second()
    begun = count_made_images()
    assert len(begun) == 32
    assert begun.total() <= 32 + 2
    before = read_manifest(there)
    assert cluster_run(nodes, *arguments, sources=(), out=OUT) == 0
    assert count_made_images() == begun
    assert read_manifest(there) == before
    shutil.copytree(shelf_path("shelf://kept/photos"), photos)
    Path(os.environ["ENGINE_LOG"]).unlink()
    assert run("photos", "--n", "2", out="whole") == 0
    assert portable_rows(before) == portable_rows(read_manifest("whole"))
    assert output_images(there) == output_images("whole")
