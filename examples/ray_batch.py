"""Vary every picture of a folder on a Ray cluster; once more, and only what is missing is made.

    python examples/ray_batch.py photos out
    python examples/ray_batch.py photos out --engine NAME --gpus 1 --workers 8

Both folders must be shared by all machines of the cluster. An engine that needs a GPU gets one a
worker, or with --gpus 0.5 half of one.
"""

import argparse
from pathlib import Path

import ray

from langchain_image_variation import VariationBatch

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("photos", type=Path)
parser.add_argument("out", type=Path)
parser.add_argument("--engine", default="local")
parser.add_argument("--gpus", type=float, default=0, help="of each worker")
parser.add_argument("--workers", type=int, default=2)
options = parser.parse_args()

out = str(options.out.resolve())
sources = ray.data.from_items(
    [{"path": str(p)} for p in sorted(options.photos.resolve().iterdir())]
)
rows = sources.map_batches(
    VariationBatch,
    fn_constructor_kwargs={"output_dir": out, "engine": options.engine, "size": "256x256"},
    batch_size=8,
    batch_format="numpy",
    compute=ray.data.ActorPoolStrategy(size=options.workers),
    num_cpus=1,
    num_gpus=options.gpus or None,
)
rows.write_parquet(f"{out}/rows", mode=ray.data.SaveMode.OVERWRITE)
