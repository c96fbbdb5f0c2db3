"""Draws the images of local-engine.md: python docs/engine_images.py [FOLDER]."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from langchain_image_variation import CreateImageVariationRequest, load_engine, load_source
from langchain_image_variation.images.pixels import decode_png, decode_result

DOCS = Path(__file__).parent
EXAMPLES = DOCS.parent / "examples"

TILE, GAP, CAPTION = 192, 8, 22
SIZE = "512x512"

FRAMING, MIRROR, LIGHT = (
    {name: name == part for name in ("framing", "mirror", "light")}
    for part in ("framing", "mirror", "light")
)
"""Options that leave only one part on."""

Tile = tuple[str, dict[str, Any] | None]
"""A caption, and the options of the engine. None shows the source."""

SOURCE: Tile = ("source", None)

ROWS: dict[str, list[tuple[str, list[Tile]]]] = {
    "engine-parts": [
        (
            "lake.jpg",
            [
                SOURCE,
                ("framing", {"seed": 5, **FRAMING}),
                ("mirror", {"seed": 5, **MIRROR}),
                ("light", {"seed": 5, **LIGHT}),
                ("all of them", {"seed": 5}),
            ],
        ),
    ],
    "engine-lights": [
        (
            "lake.jpg",
            [
                (mood, {"seed": seed, **LIGHT})
                for seed, mood in enumerate(("golden", "dusk", "vivid", "overcast", "morning"))
            ],
        ),
    ],
    "engine-series": [
        (
            "astronaut.png",
            [SOURCE, *((f"seed {seed}", {"seed": seed}) for seed in range(4))],
        ),
    ],
    "engine-strengths": [
        (
            photo,
            [
                (f"{strength}", {"seed": 5, "strength": strength})
                for strength in (0, 0.3, 0.5, 0.8, 1)
            ],
        )
        for photo in ("chelsea.png", "tea-garden.jpg")
    ],
    "engine-arrange": [
        (
            "tea-garden.jpg",
            [
                SOURCE,
                *(("arranged", {"seed": seed, "strength": 0.8, **MIRROR}) for seed in (0, 2)),
                *(
                    ("arrange off", {"seed": seed, "strength": 0.8, "arrange": False})
                    for seed in (0, 1)
                ),
            ],
        ),
    ],
}
"""The images by name: the rows of each, with the photo of each row."""


def main() -> None:
    """Write all images to the folder that the command line names, or to images/."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "images"
    for name, image in draw():
        image.save(folder / f"{name}.jpg", quality=84)


def draw() -> Iterator[tuple[str, Image.Image]]:
    """Yield the name of each image, and the image."""
    font = ImageFont.load_default(15)
    for name, rows in ROWS.items():
        columns = max(len(tiles) for _, tiles in rows)
        width = columns * (TILE + GAP) - GAP
        sheet = Image.new("RGB", (width, len(rows) * (TILE + CAPTION + GAP) - GAP), "white")
        pen = ImageDraw.Draw(sheet)
        for row, (photo, tiles) in enumerate(rows):
            top = row * (TILE + CAPTION + GAP)
            for column, (caption, options) in enumerate(tiles):
                left = column * (TILE + GAP)
                pen.text((left + TILE // 2, top + 2), caption, "black", font, anchor="ma")
                sheet.paste(make_tile(photo, options), (left, top + CAPTION))
        yield name, sheet


def make_tile(photo: str, options: dict[str, Any] | None) -> Image.Image:
    """Return the source or a variation of it as a tile."""
    source = load_source(EXAMPLES / photo)
    if options is None:
        image = decode_png(source.png)
    else:
        request = CreateImageVariationRequest(image=source.png, size=SIZE)
        response = load_engine("local", **options).create_variation(request)
        image = decode_result(response.data[0].read())
    return image.convert("RGB").resize((TILE, TILE), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
