"""The main memory: how much is free, and whether a model has room.

Linux kills a process that takes too much.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from langchain_image_variation.engines.diffusers.byte_sizes import describe_memory
from langchain_image_variation.engines.diffusers.weight_files import (
    FLOAT16,
    loaded_files,
    loaded_variant,
)
from langchain_image_variation.exceptions import EngineError

__all__ = ["check_main_memory", "free_main_memory", "least_bytes_to_load", "main_memory_hint"]


def free_main_memory(control_group: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how much main memory this process can get, in bytes.

    Args:
        control_group: The folder where a container finds its own limit.
    """
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        limit = int((control_group / "memory.max").read_text())
        used = int((control_group / "memory.current").read_text())
        statistics = (control_group / "memory.stat").read_text()
    except (OSError, ValueError):
        # There is no limit: the file is missing, or says "max".
        return free
    cached = re.search(r"^inactive_file (\d+)$", statistics, re.MULTILINE)
    return min(free, max(0, limit - used + int(cached[1] if cached else 0)))


def least_bytes_to_load(folders: Iterable[Path], dtype: str) -> int:
    """Return how much memory loading a model needs at the very least: its largest component.

    Args:
        folders: The folders of the model. Each component is a subfolder with a `config.json`.
        dtype: The type of the numbers in memory. Files may have numbers of half or twice the size.
    """
    configs = (config for folder in folders for config in folder.rglob("config.json"))
    return max((_component_bytes(config.parent, dtype) for config in configs), default=0)


def check_main_memory(model: str, folders: Iterable[Path], dtype: str, free_bytes: int) -> None:
    """Refuse to load a model for which there is certainly too little memory.

    Args:
        model: The name of the model.
        folders: Its folders.
        dtype: The type of its numbers in memory.
        free_bytes: How much memory the process can get, including swap space.

    Raises:
        EngineError: If its largest component has no room.
    """
    least_bytes = least_bytes_to_load(folders, dtype)
    if least_bytes > free_bytes:
        raise EngineError(
            f"Loading the model {model!r} needs at least {describe_memory(least_bytes)} of "
            f"main memory, but only {describe_memory(free_bytes)} is free.",
            hint=main_memory_hint(dtype),
        )


def main_memory_hint(dtype: str) -> str:
    """Return what to do if a model has no room in the main memory.

    Args:
        dtype: The type of its numbers in memory.
    """
    half = "pass dtype='bfloat16', which needs half, " if dtype == "float32" else ""
    return (
        f"Close other programs, {half}choose a smaller model (`image-variation engines` lists "
        "them), or use a machine with more memory."
    )


def _component_bytes(folder: Path, dtype: str) -> int:
    """Return how much memory a component's weights take at least."""
    float16 = dtype == "float16"
    size = sum(path.stat().st_size for path in loaded_files(folder, float16=float16))
    if loaded_variant(folder, float16=float16) == FLOAT16:
        return 2 * size if dtype == "float32" else size
    # The name of the file does not tell its precision. Some models come in half precision only.
    return size if dtype == "float32" else size // 2
