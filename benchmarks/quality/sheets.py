"""Sheets of numbered pairs, and forms to fill in, for those who judge variations."""

import csv
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from quality.judged import FAULTS, Judgement
from quality.photos import SIDE, Bytes

__all__ = ["read_form", "write_sheets"]

FORM = "form.csv"

_PAIRS, _COLUMNS = 8, 2
"""Pairs on a sheet, which then has 1.2 megapixels. Vision models shrink larger images."""

_GAP = 24

_LETTERS = "\n".join(f"    {letter}  {text}" for letter, text in FAULTS.items())

INSTRUCTIONS = f"""\
You judge variations of images. Work alone, and read only the files of this folder.

Each sheet shows numbered pairs: the source on the left and the variation on the right. Look at one
sheet after the other, closely, and fill in one row of {FORM} for each number:

- intact: 1 if nothing in the variation looks wrong to someone who has not seen the source. The
  edge of the picture may cut objects, as in any photo, but not what the picture is about. Else 0.
- another: 1 if it is another picture of the same thing, as if taken from elsewhere, at another
  time, or of another arrangement; 0 if it is the same picture, perhaps a little distorted, cropped
  or retouched.
- faults: nothing if it is intact. If not, one or more of these letters, without spaces:

{_LETTERS}

Give your own opinion of each pair by itself. No number of either answer is expected. Do not guess
how a variation was made, and measure nothing. Fill in the rows of a sheet right after you looked at
it.
"""


def write_sheets(folder: Path, pairs: Sequence[tuple[Bytes, Bytes]]) -> None:
    """Write the sheets, an empty form and instructions to a new or empty folder."""
    folder.mkdir(parents=True, exist_ok=True)
    font = ImageFont.load_default(20)
    width, height = _COLUMNS * (2 * SIDE + _GAP), _PAIRS // _COLUMNS * (SIDE + _GAP)
    for start in range(0, len(pairs), _PAIRS):
        sheet = Image.new("RGB", (width, height), "white")
        pen = ImageDraw.Draw(sheet)
        for place, (source, variation) in enumerate(pairs[start : start + _PAIRS]):
            left = place % _COLUMNS * (2 * SIDE + _GAP)
            top = place // _COLUMNS * (SIDE + _GAP)
            pen.text((left, top), f"{start + place + 1}", "black", font)
            sheet.paste(Image.fromarray(source), (left, top + _GAP))
            sheet.paste(Image.fromarray(variation), (left + SIDE + 2, top + _GAP))
        sheet.save(folder / f"sheet-{start // _PAIRS + 1:02}.png")
    with (folder / FORM).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("number", "intact", "another", "faults"))
        writer.writerows((number + 1, "", "", "") for number in range(len(pairs)))
    (folder / "instructions.txt").write_text(INSTRUCTIONS, "utf-8")


def read_form(folder: Path, count: int) -> list[Judgement]:
    """Return the judgements of a form, in the order of the sheets.

    Raises:
        ValueError: If a row is missing or not filled in properly.
    """
    result: dict[int, Judgement] = {}
    with (folder / FORM).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            intact, another, faults = row["intact"], row["another"], row["faults"] or ""
            is_filled_in = intact in ("0", "1") and another in ("0", "1")
            if not is_filled_in or set(faults) - set(FAULTS) or (intact == "1") == bool(faults):
                raise ValueError(f"Number {row['number']} is not filled in properly: {row}")
            opinion = Judgement(intact == "1", another == "1", frozenset(faults))
            result[int(row["number"])] = opinion
    if sorted(result) != list(range(1, count + 1)):
        raise ValueError(f"The form must have the numbers 1 to {count}, each once.")
    return [result[number] for number in range(1, count + 1)]
