"""Measures settings that are often recommended for a U-Net: memory formats, compiling, attention.

Claims, on a CPU: the memory format `channels_last` and `torch.compile` save at most a tenth of the
time together, and compiling takes longer than that saves for a few images. Attention in slices
(`enable_attention_slicing`) takes longer than torch's own attention, which needs no more memory. So
the engine `diffusers` has no option for any of them. The U-Net has random weights, and half the
width of that of Stable Diffusion 1.5. The tables show the CPU time of a pass, with guidance, in
seconds, and how much memory the passes take besides the weights. Each row of the second table is
measured in a new process. Compiling needs a C++ compiler.

    OMP_NUM_THREADS=1 python benchmarks/unet_speed.py
"""

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import diffusers
import torch

from random_models import RandomWeights

RUNS = 3
"""Passes of each variant, without the first one."""

ATTENTION: dict[str, Callable[[Any], object]] = {
    "torch's own": lambda unet: None,
    "in slices of half of the heads": lambda unet: unet.set_attention_slice("auto"),
}
"""What is called with the U-Net, by the name of the kind of attention."""


def main() -> None:
    """Print the tables."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| memory format | compiled | seconds per pass |\n|---|---|---|")
    unet = _make_unet()
    for is_compiled in (False, True):
        for name in ("contiguous_format", "channels_last"):
            unet.to(memory_format=getattr(torch, name))
            torch.compiler.reset()
            seconds = _time(torch.compile(unet) if is_compiled else unet, 32)
            print(f"| {name} | {'yes' if is_compiled else 'no'} | {_range(seconds)} |", flush=True)
    print("\n| attention | seconds per pass | memory |\n|---|---|---|")
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
        for name in ATTENTION:
            seconds, megabytes = pool.submit(measure_attention, name).result()
            print(f"| {name} | {_range(seconds)} | {megabytes:,.0f} MB |", flush=True)


def measure_attention(name: str) -> tuple[list[float], float]:
    """Return the CPU time of each pass for 512 pixels, and the memory that the passes take in MB.

    Args:
        name: A key of `ATTENTION`.
    """
    unet = _make_unet()
    ATTENTION[name](unet)
    before = _peak_megabytes()
    seconds = _time(unet, 64)
    return seconds, _peak_megabytes() - before


def _make_unet() -> Any:
    torch.manual_seed(0)
    return RandomWeights("cpu", torch.float32).fill(
        lambda: diffusers.UNet2DConditionModel(
            sample_size=32,
            block_out_channels=(160, 320, 640),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=768,
            attention_head_dim=8,
        )
    )


def _time(unet: Callable[..., Any], side: int) -> list[float]:
    """Return the CPU time of each pass over latents of a side."""
    # With guidance, each pass has two images.
    latents, embeddings = torch.randn(2, 4, side, side), torch.randn(2, 1, 768)
    seconds = []
    with torch.inference_mode():
        for _ in range(RUNS + 1):
            start = time.process_time()
            unet(latents, 500, embeddings)
            seconds.append(time.process_time() - start)
    return seconds[1:]


def _range(seconds: list[float]) -> str:
    return f"{min(seconds):.2f} to {max(seconds):.2f}"


def _peak_megabytes() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on Linux, bytes on macOS.
    return peak / (1e3 if sys.platform != "darwin" else 1e6)


if __name__ == "__main__":
    main()
