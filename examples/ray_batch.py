"""Vary every image of a folder on a Ray cluster. A second run makes only what is missing.

    python examples/ray_batch.py photos out
    python examples/ray_batch.py photos out --engine NAME --gpus 1 --workers 8

All machines of the cluster must share both folders. With --gpus 1, each worker gets a GPU; with
--gpus 0.5, two workers share one.
"""

import argparse
from pathlib import Path

import ray

from langchain_image_variation import VariationBatch

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("photos", type=Path)
parser.add_argument("out", type=Path)
parser.add_argument("--engine", default="local")
parser.add_argument("--gpus", type=float, default=0, help="for each worker")
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
