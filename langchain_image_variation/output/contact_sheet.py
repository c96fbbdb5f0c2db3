"""Draws a contact sheet: the source and its variations, numbered, in one image."""

import io
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from langchain_image_variation.contract import ImagesResponse
from langchain_image_variation.files.atomic import place_file
from langchain_image_variation.images.pixels import (
    decode_png,
    decode_result,
    encode_png,
    pixel_sha256,
)
from langchain_image_variation.images.png import SquarePNG
from langchain_image_variation.output import check_response, make_output_dir
from langchain_image_variation.output.file_format import FileFormat, FormatName
from langchain_image_variation.output.names import DEFAULT_TEMPLATE, SHEET, NameTemplate
from langchain_image_variation.output.placed_images import place_pixels
from langchain_image_variation.source import Source

__all__ = ["THUMBNAIL_SIDE", "ContactSheet"]

THUMBNAIL_SIDE = 512
"""The maximum width and height of a thumbnail, in pixels."""

_GAP, _CAPTION = 8, 20
_MIN_CELL_WIDTH = 30


class ContactSheet:
    """An image of the source and its numbered variations, side by side.

    In a notebook, a cell that ends with a `ContactSheet` shows it.

    Args:
        source: The source image. A `Source` is shown without the bars of `fit="keep"`.
        response: The response of an engine, or of `cut_back`.
        tile: The longer side of each image on the sheet, in pixels.
        columns: The number of images per row. By default 4, or 5 if there are exactly 5 images.

    Raises:
        InvalidRequestError: If `response` is not a response.
        OutputError: If an entry of the response is not a readable image.
    """

    def __init__(
        self,
        source: Source | SquarePNG,
        response: ImagesResponse,
        *,
        tile: int = 256,
        columns: int | None = None,
    ) -> None:
        check_response(response)
        images = _decode_scaled(source, response, tile)
        self._seed = response.data[0].seed if response.data else None
        self.image: Image.Image = _draw_sheet(images, columns or _default_columns(len(images)))

    @staticmethod
    def thumbnail(source: Source | SquarePNG, response: ImagesResponse) -> bytes:
        """Return a sheet as a JPEG file, at most `THUMBNAIL_SIDE` pixels wide and high.

        Raises:
            OutputError: If an entry of the response is not a readable image.
        """
        images = _decode_scaled(source, response, THUMBNAIL_SIDE)
        tiles = {columns: _thumbnail_tile(images, columns) for columns in range(1, len(images) + 1)}
        columns = max(tiles, key=lambda columns: tiles[columns])
        images = [_scale(image, tiles[columns]) for image in images]
        buffer = io.BytesIO()
        _draw_sheet(images, columns).save(buffer, "JPEG", quality=80)
        return buffer.getvalue()

    def save(
        self,
        directory: str | os.PathLike[str],
        *,
        name: str = "image",
        template: str = DEFAULT_TEMPLATE,
        format: FormatName = "png",
        quality: int | None = None,
    ) -> Path:
        """Write the sheet as `<name>-<hash>-sheet.png` and return its path.

        Args:
            directory: The folder to write to. It is created if it does not exist.
            name: See `save_images`.
            template: See `save_images`. The sheet's `{index}` is "sheet", which is added if the
                template has no `{index}`. Its `{seed}` is the first variation's.
            format: The format of the file: "png", "jpeg" or "webp".
            quality: The quality of JPEG and WebP, 1 to 100. By default 90.

        Raises:
            InvalidRequestError: If `template`, `format` or `quality` is not valid.
            OutputError: If the file cannot be written.
        """
        names, file_format = NameTemplate(template), FileFormat(format, quality)
        folder = make_output_dir(directory)
        data = file_format.encode(self.image)
        pixels = self.image if format == "png" else decode_result(data)
        digest = pixel_sha256(pixels)
        candidates = names.names(name, digest, SHEET, self._seed)
        file, _ = place_pixels(
            data, pixels, digest, candidates, partial(place_file, folder), file_format
        )
        return folder / file

    def _repr_png_(self) -> bytes:
        return encode_png(self.image)


def _decode_scaled(
    source: Source | SquarePNG, response: ImagesResponse, tile: int
) -> list[Image.Image]:
    """Return the source and its variations, in order, each with a longer side of `tile` pixels."""
    if isinstance(source, SquarePNG):
        original = decode_png(source)
    else:
        original = decode_png(source.png)
        if source.inset is not None:
            original = source.inset.cut_out(original)
    # Results may be much larger than a tile, so only one of them is in memory at a time.
    variations = (_scale(decode_result(image.read()), tile) for image in response.data)
    return [_scale(original, tile), *variations]


def _scale(image: Image.Image, tile: int) -> Image.Image:
    """Scale an image until its longer side has `tile` pixels, and the other at least one."""
    longer = max(image.size)
    size = (-(-tile * image.width // longer), -(-tile * image.height // longer))
    return image.convert("RGBA").resize(size, Image.Resampling.LANCZOS)


def _default_columns(count: int) -> int:
    return min(count, 5 if count == 5 else 4)


def _thumbnail_tile(images: Sequence[Image.Image], columns: int) -> int:
    """Return the longer side of each image on a thumbnail with this many columns, in pixels.

    Args:
        images: The images, each with a longer side of `THUMBNAIL_SIDE` pixels.
        columns: The number of images per row.
    """
    rows = -(-len(images) // columns)
    width = (THUMBNAIL_SIDE - _GAP) // columns - _GAP
    height = (THUMBNAIL_SIDE - _GAP) // rows - _GAP - _CAPTION
    cell_width, cell_height = _cell_size(images)
    return min(width * THUMBNAIL_SIDE // cell_width, height * THUMBNAIL_SIDE // cell_height)


def _cell_size(images: Sequence[Image.Image]) -> tuple[int, int]:
    """Return the width and height that each image has on a sheet, in pixels."""
    # Captions must not overlap.
    width = max(_MIN_CELL_WIDTH, *(image.width for image in images))
    return width, max(image.height for image in images)


def _draw_sheet(images: Sequence[Image.Image], columns: int) -> Image.Image:
    """Draw images, which already have their size on the sheet, and number them."""
    # Imported here because few programs draw a sheet, and every import delays the tool.
    from PIL import ImageDraw, ImageFont

    rows = -(-len(images) // columns)
    gap, caption = _GAP, _CAPTION
    cell_width, cell_height = _cell_size(images)
    width = columns * (cell_width + gap) + gap
    height = rows * (cell_height + gap + caption) + gap
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        x, y = gap + column * (cell_width + gap), gap + row * (cell_height + gap + caption)
        middle = (x + cell_width / 2, y + caption / 2)
        draw.text(middle, str(index or "source"), fill="black", font=font, anchor="mm")
        left = x + (cell_width - image.width) // 2
        top = y + caption + (cell_height - image.height) // 2
        sheet.paste(image, (left, top), image)
    return sheet
