"""Draw the photos of this folder and four variations of each on one sheet: contact-sheet.jpg.

You can run it from anywhere: python examples/contact_sheet.py [--output sheet.jpg]
"""

import argparse
from pathlib import Path

from PIL import Image

from langchain_image_variation import (
    ContactSheet,
    CreateImageVariationRequest,
    load_engine,
    load_source,
)

FOLDER = Path(__file__).parent

STRENGTHS = {"astronaut.png": 0.5, "chelsea.png": 0.5, "lake.jpg": 0.5, "tea-garden.jpg": 0.8}
"""The photos, and how much to vary each. Above 0.6, textures like the tea garden are rearranged."""


def main() -> None:
    """Make variations with the seeds 0 to 3, and write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=FOLDER / "contact-sheet.jpg")
    arguments = parser.parse_args()
    rows = []
    for photo, strength in STRENGTHS.items():
        engine = load_engine("local", seed=0, strength=strength)
        source = load_source(FOLDER / photo)
        request = CreateImageVariationRequest(image=source.png, n=4, size="512x512")
        rows.append(ContactSheet(source.png, engine.create_variation(request), tile=192).image)
    height = sum(row.height for row in rows)
    sheet = Image.new("RGB", (rows[0].width, height), "white")
    for index, row in enumerate(rows):
        sheet.paste(row, (0, index * row.height))
    sheet.save(arguments.output, quality=88)


if __name__ == "__main__":
    main()
