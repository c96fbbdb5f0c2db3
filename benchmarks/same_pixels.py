"""Checks that this machine produces the pixels listed in the table of docs/same-pixels.md.

Each row of the table is one variation by the `local` engine: its source, its options and the hash
of its pixels. The script computes every row again. If some differ, it marks them and exits with 1.

    python benchmarks/same_pixels.py
"""

import argparse
import io
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import PIL
from PIL import Image

from langchain_image_variation.contract import CreateImageVariationRequest
from langchain_image_variation.engines.local import LocalEngine
from langchain_image_variation.images.pixels import decode_result, pixel_sha256
from langchain_image_variation.images.png import SquarePNG

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "docs" / "same-pixels.md"
HEAD = "| source | size | strength | light | seed | hash of the pixels |"

Case: TypeAlias = tuple[str, int, float, bool, int]
"""Source, side in pixels, strength, light, seed."""

CASES: list[Case] = [
    *(("photo", 256, strength, True, 7) for strength in (0.0, 0.3, 0.5, 0.65, 0.7, 0.85, 1.0)),
    *(("photo", 256, strength, False, 8) for strength in (0.5, 0.85)),
    ("photo", 256, 0.5, True, 11),
    *(("photo", 512, strength, True, 9) for strength in (0.5, 0.7)),
    *(("photo", 1024, strength, True, 10) for strength in (0.5, 0.85)),
    *(("grain", 256, strength, True, 3) for strength in (0.15, 0.6, 0.9)),
    *(("stones", 256, strength, True, 7) for strength in (0.7, 0.85, 1.0)),
    ("stones", 1024, 0.8, False, 8),
    *(("disc", 256, strength, True, 4) for strength in (0.5, 0.7, 1.0)),
    *(("ramp", 256, strength, True, 5) for strength in (0.5, 1.0)),
    *(("dot", 256, strength, True, 6) for strength in (0.5, 1.0)),
]

_SIZES: dict[int, Literal["256x256", "512x512", "1024x1024"]] = {
    256: "256x256",
    512: "512x512",
    1024: "1024x1024",
}


def main() -> int:
    """Print the table and mark rows that differ. Return 1 if a row differs from the docs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--write",
        action="store_true",
        help="write the table to the end of the docs page",
    )
    parser.add_argument("--threads", type=int, help="number of images to make at the same time")
    options = parser.parse_args()
    print(f"{platform.machine()}, Python {platform.python_version()}, ", end="")
    print(f"numpy {np.__version__}, Pillow {PIL.__version__}\n")
    text = TABLE.read_text("utf-8")
    documented_rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    computed_rows = []
    for row in rows(CASES, options.threads):
        computed_rows.append(row)
        print("equal  " if row in documented_rows else "DIFFERS", row, flush=True)
    if options.write:
        before = text[: text.index(HEAD)]
        TABLE.write_text(
            "\n".join([before + HEAD, "|---|---|---|---|---|---|", *computed_rows, ""]), "utf-8"
        )
        return 0
    equal = sum(row in documented_rows for row in computed_rows)
    print(f"\n{equal} of {len(computed_rows)} rows are those of {TABLE.relative_to(ROOT)}.")
    return 0 if equal == len(computed_rows) == len(documented_rows) else 1


def rows(cases: Sequence[Case], threads: int | None = None) -> Iterator[str]:
    """Create a variation for each case, and yield its row of the table."""
    for name, side, strength, light, seed in cases:
        engine = LocalEngine(seed=seed, strength=strength, light=light, threads=threads)
        request = CreateImageVariationRequest(
            image=_source(name), size=_SIZES[side], response_format="b64_json"
        )
        (result,) = engine.create_variation(request).data
        pixels = pixel_sha256(decode_result(result.read()))[:16]
        light_text = "yes" if light else "no"
        yield f"| {name} | {side} | {strength} | {light_text} | {seed} | {pixels} |"


def _source(name: str) -> SquarePNG:
    """Return a photo, or an image computed by integer arithmetic, which is exact everywhere."""
    y, x = np.mgrid[:256, :256]
    if name == "photo":
        return SquarePNG((ROOT / "examples" / "astronaut.png").read_bytes())
    if name == "grain":
        # Middle bits of a polynomial, which look like noise.
        image = ((x * 1103515245 + y * y * 12345 + 7 * x * y) >> 7) & 0xFF
    elif name == "disc":
        inside = (x - 128) ** 2 + (y - 100) ** 2 < 6400
        stripes = (x * 5 + y * 3) & 0xFF
        image = np.dstack([255 - stripes, stripes, stripes // 2, np.where(inside, 255, 0)])
    elif name == "stones":
        # Round stones in a lattice whose rows are shifted, each with a color and lit from the left.
        row = y // 16
        down, across = y % 16 - 8, (x + row * row * 5) % 16 - 8
        number = row * 37 + (x + row * row * 5) // 16 * 101
        light = np.maximum(120 - down * down - across * across - 5 * across, 20)
        image = np.dstack([light * (60 + number * k % 120) // 120 for k in (7, 11, 13)])
    elif name == "ramp":
        image = np.dstack([x, y, (x + y) // 2])
    else:
        image = np.where((x == 100) & (y == 90), 255, 0)
    buffer = io.BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(buffer, "PNG")
    return SquarePNG(buffer.getvalue())


if __name__ == "__main__":
    sys.exit(main())
