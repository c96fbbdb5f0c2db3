"""How the engines compute on other processors, as far as this one can do as they do."""

import platform
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

from environments import check_printed, readme_commands, run, tree, unchecked


def kernels() -> list[dict[str, str]]:
    """Return the settings under which numpy computes as on other processors."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return [{}]
    older = {"NPY_DISABLE_CPU_FEATURES": "AVX2 and later"}
    settings = [
        {"OPENBLAS_CORETYPE": "SkylakeX"},
        {"OPENBLAS_CORETYPE": "Haswell"},
        {"OPENBLAS_CORETYPE": "Nehalem", **older},
        {"OPENBLAS_CORETYPE": "Prescott", **older, "OPENBLAS_NUM_THREADS": "2"},
    ]
    cpu = Path("/proc/cpuinfo")
    if cpu.exists() and " avx512f " not in cpu.read_text():
        unchecked["OpenBLAS's kernel SkylakeX, since this processor has no AVX-512"] = None
        del settings[0]
    return settings


# Each numpy has names of its own for what it can leave out, and warns about all others.
FEATURES = """
import numpy
try:
    from numpy._core import _multiarray_umath as module
except ImportError:
    from numpy.core import _multiarray_umath as module
used = [name for name in module.__cpu_dispatch__ if module.__cpu_features__[name]]
print(*(name for name in used if name.startswith(("AVX2", "AVX512", "FMA3", "X86_V3", "X86_V4"))))
"""
PROBE = """
import numpy, PIL, threadpoolctl
print("numpy", numpy.__version__, "Pillow", PIL.__version__)
blas = [info for info in threadpoolctl.threadpool_info() if info["internal_api"] == "openblas"]
print(blas[0]["version"], blas[0]["architecture"]) if blas else print("no OpenBLAS")
"""


def check_engine(python: Path, kernel: dict[str, str]) -> None:
    """Run the engines' tests and the README's first picture under a setting, and compare pixels.

    Raises:
        AssertionError: OpenBLAS did not take the kernel, or the names are not the README's.
    """
    if "NPY_DISABLE_CPU_FEATURES" in kernel:
        features = subprocess.check_output([python, "-c", FEATURES], text=True).strip()
        kernel = {**kernel, "NPY_DISABLE_CPU_FEATURES": features}
    taken = run(python, "-c", PROBE, settings=kernel).split()[-1]
    # Newer releases of OpenBLAS call their kernel Prescott by the name Katmai.
    wanted = kernel.get("OPENBLAS_CORETYPE", taken)
    assert taken.replace("Katmai", "Prescott") == wanted, f"OpenBLAS took {taken}, not {wanted}."
    run(python, "-m", "pytest", "--quiet", "-n", "2", "--all", "tests/engines", settings=kernel)
    command, expected = readme_commands((tree() / "README.md").read_text())[0]
    arguments = shlex.split(command.partition(".venv/bin/image-variation ")[2])
    shutil.rmtree(tree() / "variations", ignore_errors=True)
    check_printed(
        run(python, "-m", "langchain_image_variation", *arguments, settings=kernel), expected
    )
    run(python, "benchmarks/same_pixels.py", settings=kernel)


def oldest() -> list[str]:
    """Return the oldest numpy and Pillow that pyproject.toml allows, as requirements."""
    project = tomllib.loads((tree() / "pyproject.toml").read_text())["project"]
    return [
        re.sub(">=([0-9.]+).*", r"==\1.*", requirement)
        for requirement in project["dependencies"]
        if requirement.startswith(("numpy", "pillow"))
    ]
