"""Runs the engine `local` as on other processors, as far as this processor can imitate them."""

import platform
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

from environments import check_printed, note_unchecked, readme_commands, run, tree


def kernels() -> list[dict[str, str]]:
    """Return the environment variables that make numpy compute as on other processors."""
    if platform.machine() not in ("x86_64", "AMD64"):
        note_unchecked("OpenBLAS's x86-64 kernels, since this processor is not x86-64")
        return [{}]
    older = {"NPY_DISABLE_CPU_FEATURES": "AVX2 and later"}
    settings = [
        {"OPENBLAS_CORETYPE": "SkylakeX"},
        {"OPENBLAS_CORETYPE": "Haswell"},
        {"OPENBLAS_CORETYPE": "Nehalem", **older},
        {"OPENBLAS_CORETYPE": "Prescott", **older, "OPENBLAS_NUM_THREADS": "2"},
    ]
    cpu = Path("/proc/cpuinfo")
    if not cpu.exists() or " avx512f " not in cpu.read_text():
        note_unchecked("OpenBLAS's kernel SkylakeX, since no AVX-512 was found here")
        del settings[0]
    return settings


# Each numpy version has its own names for the features to disable, and warns about others.
LIST_CPU_FEATURES = """
import numpy
try:
    from numpy._core import _multiarray_umath as module
except ImportError:
    from numpy.core import _multiarray_umath as module
used = [name for name in module.__cpu_dispatch__ if module.__cpu_features__[name]]
print(*(name for name in used if name.startswith(("AVX2", "AVX512", "FMA3", "X86_V3", "X86_V4"))))
"""
SHOW_VERSIONS = """
import numpy, PIL, threadpoolctl
print("numpy", numpy.__version__, "Pillow", PIL.__version__)
blas = [info for info in threadpoolctl.threadpool_info() if info["internal_api"] == "openblas"]
print("OpenBLAS", *([blas[0]["version"], blas[0]["architecture"]] if blas else ["none"]))
"""


def check_engine(python: Path) -> None:
    """Check the engine `local` with each kernel: its numerical steps, and the pixels of variations.

    The steps `tests` and `slow` run all tests of the engine with this machine's own kernel. If each
    kernel makes the same pixels, running every test with every kernel would show nothing new. They
    run again only with the last kernel, which has the fewest features.

    Raises:
        AssertionError: If OpenBLAS used another kernel, or the README's first command printed other
            file names than the README shows.
        CalledProcessError: If a test failed, or a pixel differs.
    """
    every = kernels()
    for kernel in every:
        settings = _settings(python, kernel)
        _check_kernel(python, settings)
        tests = "test_local*.py" if kernel is every[-1] else "test_local_steps.py"
        files = sorted((tree() / "tests/engines").glob(tests))
        run(python, "-m", "pytest", "--quiet", "-n", "2", "--all", *files, settings=settings)
        command, expected = readme_commands((tree() / "README.md").read_text())[0]
        arguments = shlex.split(command.partition(".venv/bin/image-variation ")[2])
        shutil.rmtree(tree() / "variations", ignore_errors=True)
        program = (python, "-m", "langchain_image_variation")
        check_printed(run(*program, *arguments, settings=settings), expected)
        run(python, "benchmarks/same_pixels.py", settings=settings)


def _settings(python: Path, kernel: dict[str, str]) -> dict[str, str]:
    """Name the features that this Python's numpy must not use."""
    if "NPY_DISABLE_CPU_FEATURES" not in kernel:
        return kernel
    features = subprocess.check_output([python, "-c", LIST_CPU_FEATURES], text=True)
    return {**kernel, "NPY_DISABLE_CPU_FEATURES": features.strip()}


def _check_kernel(python: Path, settings: dict[str, str]) -> None:
    """Check that OpenBLAS uses the kernel of these settings."""
    used_kernel = run(python, "-c", SHOW_VERSIONS, settings=settings).split()[-1]
    # Newer releases of OpenBLAS report the kernel Prescott as Katmai.
    used_kernel = used_kernel.replace("Katmai", "Prescott")
    expected_kernel = settings.get("OPENBLAS_CORETYPE", used_kernel)
    if used_kernel == "none":
        note_unchecked("OpenBLAS's kernels, since numpy does not use OpenBLAS here")
    elif used_kernel != expected_kernel:
        raise AssertionError(f"OpenBLAS used {used_kernel}, not {expected_kernel}.")


def oldest(pyproject: str) -> list[str]:
    """Return the oldest numpy and Pillow that this pyproject.toml allows, as requirements."""
    return [
        re.sub(r">=([0-9.]+)[^;]*", r"==\1.*", requirement)
        for requirement in tomllib.loads(pyproject)["project"]["dependencies"]
        if requirement.startswith(("numpy", "pillow"))
    ]
