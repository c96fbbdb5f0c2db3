from pathlib import Path

import pytest

from langchain_image_variation.engines.diffusers.main_memory import (
    check_main_memory,
    free_main_memory,
    least_bytes_to_load,
)
from langchain_image_variation.exceptions import EngineError
from tests.extras import skip_without


def write(folder: Path, **sizes: int) -> None:
    """Write a component whose files of weights have these sizes; "__" stands for a dot."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    for name, size in sizes.items():
        with (folder / name.replace("__", ".")).open("wb") as file:
            # The file is sparse: it takes no space on the disk.
            file.truncate(size)


@pytest.fixture
def model(tmp_path: Path) -> list[Path]:
    """Return the folders of a model whose largest component takes 4 GB."""
    pipeline, adapter = tmp_path / "pipeline", tmp_path / "adapter"
    shards = {"a-1-of-2__safetensors": 3 * 10**9, "a-2-of-2__safetensors": 10**9}
    write(pipeline / "unet", **shards, a__bin=5 * 10**9)
    write(pipeline / "vae", b__safetensors=10**9, b__fp16__safetensors=5 * 10**8)
    write(adapter / "models" / "image_encoder", c__bin=2 * 10**9)
    # These are many adapters, of which one is loaded.
    with (adapter / "models" / "plus.safetensors").open("wb") as file:
        file.truncate(9 * 10**9)
    return [pipeline, adapter]


def test_the_largest_component_counts(model: list[Path], tmp_path: Path) -> None:
    """The least memory is that of the largest component in its smallest format."""
    assert least_bytes_to_load(model, "float32") == 4 * 10**9
    assert least_bytes_to_load(model, "float16") == 2 * 10**9
    assert least_bytes_to_load(model[1:], "float32") == 2 * 10**9
    assert least_bytes_to_load([], "float32") == 0
    write(tmp_path / "empty")
    assert least_bytes_to_load([tmp_path / "empty"], "float32") == 0


def test_too_little_main_memory_is_an_error(model: list[Path]) -> None:
    """A model that certainly does not fit is refused before the system would kill the process."""
    check_main_memory("mine", model, "float32", 4 * 10**9)
    check_main_memory("mine", model, "bfloat16", 2 * 10**9)
    with pytest.raises(EngineError) as raised:
        check_main_memory("mine", model, "float32", 3_900_000_000)
    assert raised.value.problem == (
        "Loading the model 'mine' needs at least 4.0 GB of main memory, but only 3.9 GB is free."
    )
    assert raised.value.hint is not None
    assert "dtype='bfloat16'" in raised.value.hint
    with pytest.raises(EngineError, match=r"at least 2\.0 GB") as raised:
        check_main_memory("mine", model, "bfloat16", 10**9)
    assert raised.value.hint is not None
    assert "dtype" not in raised.value.hint


def test_a_container_has_less_memory(tmp_path: Path) -> None:
    """In a container with a limit, free memory is what remains of it; its file cache is free."""
    skip_without("psutil")
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("900000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 100000\nactive_file 5\n")
    unlimited = free_main_memory(tmp_path)
    assert unlimited > 10**6
    (tmp_path / "memory.max").write_text("1000000\n")
    assert free_main_memory(tmp_path) == 200_000
    (tmp_path / "memory.max").write_text("500000\n")
    assert free_main_memory(tmp_path) == 0
