"""The rows that `diffusers_engine.py` measures, each in a new process.

Import this module first, since its import is the start of the cold start.
"""

import argparse
import gc
import platform
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bare_pipelines import bare_call

if TYPE_CHECKING:
    from PIL import Image

    from langchain_image_variation.contract import CreateImageVariationRequest
    from langchain_image_variation.engines.diffusers import DiffusersEngine
    from langchain_image_variation.engines.diffusers.model_loader import LoadedModel
    from langchain_image_variation.engines.diffusers.placement import Offload

__all__ = ["ROWS"]

START = time.perf_counter()


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
    """Time how long calls take to stop if they are cancelled when a pass begins, in seconds."""
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


ROWS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "cold": measure_cold_start,
    "overhead": measure_overhead,
    "batch": measure_batch,
    "cancel": measure_cancellation,
}
"""Measures each kind of row, by its name."""
