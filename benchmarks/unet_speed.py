"""Measures what torch's memory format and `torch.compile` change about the speed of a U-Net.

Claim: on a CPU, both together save at most a tenth of the time, and compiling takes longer than
that saves for a few images, so the engine `diffusers` has no option for them. The U-Net has random
weights, and half the width of that of Stable Diffusion 1.5. The table shows the CPU time of a pass,
with guidance, in seconds. Compiling needs a C++ compiler.

    OMP_NUM_THREADS=1 python benchmarks/unet_speed.py
"""

import time
from collections.abc import Callable
from typing import Any

import diffusers
import torch

from random_models import RandomWeights

RUNS = 3
"""Passes of each variant, without the first one."""


def main() -> None:
    """Print the table."""
    torch.manual_seed(0)
    unet = RandomWeights("cpu", torch.float32).fill(
        lambda: diffusers.UNet2DConditionModel(
            sample_size=32,
            block_out_channels=(160, 320, 640),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=768,
            attention_head_dim=8,
        )
    )
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| memory format | compiled | seconds per pass |\n|---|---|---|")
    for is_compiled in (False, True):
        for name in ("contiguous_format", "channels_last"):
            unet.to(memory_format=getattr(torch, name))
            torch.compiler.reset()
            seconds = _time(torch.compile(unet) if is_compiled else unet)
            figures = f"{min(seconds):.2f} to {max(seconds):.2f}"
            print(f"| {name} | {'yes' if is_compiled else 'no'} | {figures} |", flush=True)


def _time(unet: Callable[..., Any]) -> list[float]:
    """Return the CPU time of each pass."""
    # With guidance, each pass has two images.
    latents, embeddings = torch.randn(2, 4, 32, 32), torch.randn(2, 1, 768)
    seconds = []
    with torch.inference_mode():
        for _ in range(RUNS + 1):
            start = time.process_time()
            unet(latents, 500, embeddings)
            seconds.append(time.process_time() - start)
    return seconds[1:]


if __name__ == "__main__":
    main()
