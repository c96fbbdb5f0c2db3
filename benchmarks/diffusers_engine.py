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
- **Cancellation**: how long a call goes on if it is cancelled right after a pass has begun.

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
import gc
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

    from langchain_image_variation.contract import CreateImageVariationRequest
    from langchain_image_variation.engines.diffusers import DiffusersEngine
    from langchain_image_variation.engines.diffusers.model_loader import LoadedModel
    from langchain_image_variation.engines.diffusers.placement import Offload

START = time.perf_counter()
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


def measure_cold_start(options: argparse.Namespace) -> dict[str, Any]:
    """Time the first image of this process, in seconds."""
    import diffusers
    import torch
    import transformers

    # Both libraries import most of their modules when a name is first used.
    _ = diffusers.DiffusionPipeline, transformers.PreTrainedModel
    imported = time.perf_counter()
    engine, request = _make_engine(options), _make_request(options, 1)
    with engine._pipeline.lease() as placed:
        loaded = time.perf_counter()
        model, placement = placed.run(lambda model: model), placed.placement
    first_passes: list[float] = []

    def note_pass(*_: object) -> None:
        _synchronize(placement.device.kind)
        first_passes.append(time.perf_counter())

    hook = _denoiser(model).register_forward_hook(note_pass)
    engine.create_variation(request)
    finished = time.perf_counter()
    hook.remove()
    setup = {
        "device": placement.device.description,
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "dtype": str(model.loaded.pipeline.dtype).removeprefix("torch."),
        "offload": placement.offload,
        "side": model.family.side(model.loaded),
        "steps": options.steps or model.preset.steps,
        "plan": _plan(model),
        "versions": {
            "python": platform.python_version(),
            **{module.__name__: module.__version__ for module in (torch, diffusers, transformers)},
        },
    }
    return {
        "setup": setup,
        "import": imported - START,
        "load": loaded - imported,
        "first_pass": first_passes[0] - loaded,
        "first_image": finished - first_passes[0],
        "total": finished - START,
        "peak_mb": _peak_megabytes(placement.device.kind),
        "batches": model.family.batches,
        "has_own_memory": placement.device.has_own_memory,
    }


def _plan(model: "LoadedModel") -> dict[str, float]:
    """Return the free memory in gigabytes that each kind of offloading needs in half precision."""
    from langchain_image_variation.engines.diffusers.placement import Workload

    pipelines = model.loaded.pipelines
    workload = Workload.measure(pipelines, model.family.side(model.loaded), "float16")
    # The weights may be loaded in single precision.
    size = model.loaded.pipeline.dtype.itemsize
    workload = replace(
        workload,
        component_bytes=tuple(weights * 2 // size for weights in workload.component_bytes),
        fixed_bytes=workload.fixed_bytes * 2 // size,
    )
    kinds: tuple[Offload, ...] = ("none", "model", "sequential")
    return {kind: workload.required_bytes(kind) / 1e9 for kind in kinds}


def measure_overhead(options: argparse.Namespace) -> dict[str, Any]:
    """Time the engine and bare calls of its pipeline in turn, in seconds per call."""
    engine, request = _make_engine(options, batch=options.n), _make_request(options, options.n)
    with engine._pipeline.lease() as placed:
        kind, batch = placed.placement.device.kind, placed.placement.batch
        model = placed.run(lambda model: model)
    source = _decode(request)
    clock = time.process_time if kind == "cpu" else time.perf_counter
    times: dict[str, list[float]] = {"engine": [], "bare": []}
    for run in range(options.runs + 1):
        seeded = engine.with_options(seed=100 * run)
        seeds = range(100 * run, 100 * run + options.n)

        def call_bare(seeds: Sequence[int] = seeds) -> None:
            for start in range(0, len(seeds), batch):
                bare_call(model, source, seeds[start : start + batch], options.steps)

        calls: dict[str, Callable[[], object]] = {
            "engine": lambda engine=seeded: engine.create_variation(request),  # type: ignore[misc]  # mypy does not infer a default argument
            "bare": call_bare,
        }
        # What runs second finds warmer caches, so they take turns.
        for name in sorted(calls, reverse=bool(run % 2)):
            gc.collect()
            start = clock()
            calls[name]()
            _synchronize(kind)
            times[name].append(clock() - start)
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    differences = [
        of_engine - of_bare
        for of_engine, of_bare in zip(times["engine"][1:], times["bare"][1:], strict=True)
    ]
    added = statistics.median(differences)
    return {"n": options.n, **medians, "added": added, "overhead": added / medians["bare"]}


def measure_batch(options: argparse.Namespace) -> dict[str, Any]:
    """Time calls for `n` images that are drawn at once."""
    engine = _make_engine(options, batch=options.n)
    request = _make_request(options, options.n)
    with engine._pipeline.lease() as placed:
        kind = placed.placement.device.kind
    times = []
    for _ in range(options.runs + 1):
        start = time.perf_counter()
        engine.create_variation(request)
        times.append(time.perf_counter() - start)
    seconds = statistics.median(times[1:])
    return {
        "n": options.n,
        "offload": options.offload,
        # Out of memory, the engine draws fewer images at once, and offloads.
        "drawn_at_once": placed.placement.batch,
        "seconds": seconds,
        "images_per_second": options.n / seconds,
        "peak_mb": _peak_megabytes(kind),
    }


def measure_cancellation(options: argparse.Namespace) -> dict[str, Any]:
    """Time how long calls go on that are cancelled when a pass begins, in seconds."""
    from langchain_image_variation.engines.context import ProgressReporter, call_context
    from langchain_image_variation.exceptions import EngineError

    engine, request = _make_engine(options), _make_request(options, 1)
    engine.create_variation(request)
    delays = []
    for run in range(options.runs):
        cancelled = threading.Event()
        since = 0.0

        def cancel(progress: Any, share: float = 0.1 + 0.6 * run / options.runs) -> None:
            nonlocal since
            if progress.share >= share and not cancelled.is_set():  # noqa: B023  # called in this run
                since = time.perf_counter()
                cancelled.set()  # noqa: B023  # called in this run

        with suppress(EngineError), call_context(ProgressReporter(1, cancel), cancelled):
            engine.create_variation(request)
        delays.append(time.perf_counter() - since)
    return {"median": statistics.median(delays), "longest": max(delays)}


ROWS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "cold": measure_cold_start,
    "overhead": measure_overhead,
    "batch": measure_batch,
    "cancel": measure_cancellation,
}


def bare_call(
    model: "LoadedModel", source: "Image.Image", seeds: Sequence[int], steps: int | None
) -> list["Image.Image"]:
    """Return what a script gets that calls the pipeline itself, for one image per seed.

    It uses the settings of the preset, and the strength at which they are used unchanged.
    """
    import numpy as np
    import torch

    pipeline, encoder = model.loaded.pipeline, model.loaded.encoder
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    common: dict[str, Any] = {
        "num_inference_steps": steps or model.preset.steps,
        "guidance_scale": model.preset.guidance_scale,
        "generator": generators,
    }
    name = type(pipeline).__name__
    if name == "StableDiffusionImageVariationPipeline":
        # As the model's card does it, without torchvision.
        pixels = torch.from_numpy(np.asarray(source, dtype=np.float32) / 255).permute(2, 0, 1)
        side = pipeline.image_encoder.config.image_size
        small = torch.nn.functional.interpolate(
            pixels[None], size=(side, side), mode="bicubic", antialias=False
        )
        mean = torch.tensor((0.48145466, 0.4578275, 0.40821073)).view(3, 1, 1)
        deviation = torch.tensor((0.26862954, 0.26130258, 0.27577711)).view(3, 1, 1)
        image = ((small - mean) / deviation).to(pipeline.dtype)
        output = pipeline(image, num_images_per_prompt=len(seeds), **common)
    elif name == "StableUnCLIPImg2ImgPipeline":
        output = pipeline(
            source,
            num_images_per_prompt=len(seeds),
            noise_level=300,
            **common,
            **model.loaded.prompt,
        )
    elif name in ("StableDiffusionPipeline", "StableDiffusionXLPipeline"):
        output = pipeline(
            ip_adapter_image=source,
            num_images_per_prompt=len(seeds),
            **common,
            **model.loaded.prompt,
        )
    elif name == "FluxPipeline":
        prior = encoder(source)
        output = pipeline(
            prompt_embeds=prior.prompt_embeds.repeat(len(seeds), 1, 1),
            pooled_prompt_embeds=prior.pooled_prompt_embeds.repeat(len(seeds), 1),
            **common,
        )
    else:
        raise SystemExit(f"No bare call is known for {name}.")
    return list(output.images)


def _make_engine(options: argparse.Namespace, **engine_options: Any) -> "DiffusersEngine":
    from langchain_image_variation.engines.diffusers import DiffusersEngine

    return DiffusersEngine(
        model=options.model,
        seed=0,
        steps=options.steps,
        device=options.device,
        dtype=options.dtype,
        offload=options.offload,
        download=True,
        **engine_options,
    )


def _make_request(options: argparse.Namespace, n: int) -> "CreateImageVariationRequest":
    from langchain_image_variation.contract import CreateImageVariationRequest
    from langchain_image_variation.source import load_source

    source = load_source(options.image, fit="crop")
    side = 256 if options.random_weights == "small" else 1024
    return CreateImageVariationRequest.model_validate(
        {"image": source.png, "n": n, "size": f"{side}x{side}", "response_format": "b64_json"}
    )


def _decode(request: "CreateImageVariationRequest") -> "Image.Image":
    from langchain_image_variation.images.pixels import decode_png, flatten

    return flatten(decode_png(request.image)).convert("RGB")


def _denoiser(model: "LoadedModel") -> Any:
    pipeline = model.loaded.pipeline
    return getattr(pipeline, "unet", None) or pipeline.transformer


def _synchronize(kind: str) -> None:
    """Wait until a GPU has done its work."""
    import torch

    if kind != "cpu":
        getattr(torch, kind).synchronize()


def _peak_megabytes(kind: str) -> float:
    """Return the peak memory of a GPU that has its own, or else of this process."""
    import torch

    if kind in ("cuda", "xpu"):
        return float(getattr(torch, kind).max_memory_allocated()) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on Linux, bytes on macOS.
    return peak / (1e3 if sys.platform != "darwin" else 1e6)


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
