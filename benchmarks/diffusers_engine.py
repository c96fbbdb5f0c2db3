"""Measures the engine `diffusers` on a model, and prints Markdown tables.

- **Cold start**: from the start of a process to the first image, split into the imports of torch,
  diffusers and transformers, loading the model with the modules of its classes, the first pass of
  the denoiser, and the rest of the first image.
- **Plan**: how many gigabytes of a GPU must be free for the engine to keep the whole model there,
  one component at a time, or one layer at a time.
- **Overhead**: the time of the engine over that of bare calls of the same loaded pipeline, for the
  same seeds. The engine also decodes the source, resizes the results and encodes them. Claim: it
  takes at most 3 % longer. On a CPU, this is CPU time, since other work disturbs the wall clock.
- **Batches**: images per second and peak memory by how many images are drawn at once.
- **Offloading**: the same by what waits in the main memory. Only for GPUs with their own memory.
- **Cancellation**: how long a call takes to stop if it is cancelled right after a pass has begun.

Each row is measured in a new process, so its peak memory is that of this row alone: what torch has
allocated on a GPU, or else the resident memory of the process. Times are medians, without the first
call.

    python benchmarks/diffusers_engine.py
    python benchmarks/diffusers_engine.py --model sd-variations --device cuda --json figures.json
    python benchmarks/diffusers_engine.py --random-weights sd15 --device cuda

Without `--model`, the weights are random and the images are noise. Their time and memory do not
depend on that. The default is a small model, so that a CPU takes minutes. `sd15`, `sd21`, `sdxl`
and `flux` have the shapes of the presets `sd-variations`, `unclip`, `ip-adapter-xl` and
`flux-redux`. They take up to 25 GB in the folder for temporary files.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from diffusers_rows import ROWS

EXAMPLE = Path(__file__).parent.parent / "examples" / "chelsea.png"
MAX_OVERHEAD = 0.03
"""The share of the bare call's time that the engine may add."""
SMALL_STEPS = 8
"""The denoising steps of the small model."""


def main() -> int:
    """Run every row and print the tables.

    Returns:
        1 if the overhead is above `MAX_OVERHEAD`.
    """
    options = _options()
    if options.row:
        print(json.dumps(ROWS[options.row](options)))
        return 0
    if options.save:
        _save_random_model(options)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        if options.model is None:
            options.model = str(Path(folder) / options.random_weights)
            _run_child(options, "--save")
        report = _measure_all(options)
    _print_tables(report)
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    return int(any(row["overhead"] > MAX_OVERHEAD for row in report["overhead"]))


def _measure_all(options: argparse.Namespace) -> dict[str, Any]:
    """Return the rows of every table, and what they were measured on."""
    name = options.model if options.random_weights is None else f"random:{options.random_weights}"
    cold = _run_child(options, "--row", "cold")
    report = {"model": name, **cold.pop("setup"), "cold": [cold], "overhead": [], "batches": []}
    for n in (1, 4):
        report["overhead"].append(_run_child(options, "--row", "overhead", "--n", str(n)))
    for n in options.batches if cold["batches"] else [1]:
        report["batches"].append(_run_child(options, "--row", "batch", "--n", str(n)))
    report["offloading"] = [
        _run_child(options, "--row", "batch", "--offload", kind)
        for kind in (("none", "model", "sequential") if cold["has_own_memory"] else ())
    ]
    report["cancellation"] = [_run_child(options, "--row", "cancel")]
    return report


def _run_child(options: argparse.Namespace, *arguments: str) -> dict[str, Any]:
    """Run a row in a new process, and return its figures."""
    command = [sys.executable, __file__, "--model", options.model, "--device", options.device]
    command += ["--dtype", options.dtype, "--runs", str(options.runs), "--image", options.image]
    if options.random_weights:
        command += ["--random-weights", options.random_weights]
    if options.steps:
        command += ["--steps", str(options.steps)]
    # A terminal shows what the child says meanwhile, such as the progress of a download.
    done = subprocess.run([*command, *arguments], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed with status {done.returncode}.")
    return dict(json.loads(done.stdout)) if done.stdout else {}


def _save_random_model(options: argparse.Namespace) -> None:
    """Save a model with random weights in the folder that `--model` names."""
    import torch

    from langchain_image_variation.engines.diffusers.devices import choose_device
    from langchain_image_variation.engines.diffusers.families.pipeline import quiet_loading
    from random_models import save_random_model

    device = choose_device(options.device)
    dtype = torch.float32
    if device.kind != "cpu":
        dtype = torch.bfloat16 if options.random_weights == "flux" else torch.float16
    with quiet_loading():
        save_random_model(
            options.random_weights, Path(options.model), device=device.name, dtype=dtype
        )


def _print_tables(report: dict[str, Any]) -> None:
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    print(
        f"{report['model']} at {report['side']} pixels, {report['steps']} steps, "
        f"{report['dtype']}, offload {report['offload']}\n"
        f"{report['device']}; {report['processor']}, {report['threads']} threads\n{versions}"
    )
    plan = ", ".join(f"{kind} {size:.1f} GB" for kind, size in report["plan"].items())
    print(f"plan by free memory: {plan}")
    columns = {
        "cold": ("import", "load", "first_pass", "first_image", "total", "peak_mb"),
        "overhead": ("n", "engine", "bare", "added", "overhead"),
        "batches": ("n", "drawn_at_once", "seconds", "images_per_second", "peak_mb"),
        "offloading": ("offload", "drawn_at_once", "seconds", "peak_mb"),
        "cancellation": ("median", "longest"),
    }
    for table, names in columns.items():
        if not report[table]:
            continue
        print(f"\n{table}:\n\n| {' | '.join(names)} |\n|{'---|' * len(names)}")
        for row in report[table]:
            print(f"| {' | '.join(_format(name, row[name]) for name in names)} |")


def _format(name: str, value: Any) -> str:
    if name == "overhead":
        return f"{value:.1%}"
    if name == "peak_mb":
        return f"{value:,.0f}"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the engine `diffusers`.")
    weights = parser.add_argument_group("the model")
    weights.add_argument("--model", help="a preset, a repository or a folder")
    weights.add_argument(
        "--random-weights", choices=("small", "sd15", "sd21", "sdxl", "flux"), metavar="SHAPE"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--steps", type=int, help="by default, those of the preset")
    parser.add_argument("--runs", type=int, default=5, help="calls for each row")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--image", default=str(EXAMPLE))
    parser.add_argument("--json", metavar="FILE", help="also write the figures to a file")
    # What a child process does.
    parser.add_argument("--row", choices=tuple(ROWS), help=argparse.SUPPRESS)
    parser.add_argument("--save", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--n", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--offload", default="auto", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.model is None and options.random_weights is None:
        options.random_weights = "small"
    if options.random_weights == "small" and options.steps is None:
        options.steps = SMALL_STEPS
    return options


if __name__ == "__main__":
    sys.exit(main())
