"""Continues an image beyond its edges, until it is square.

The bars mirror the image, so its edges stay inconspicuous. They are made by copying whole pixels
and by 8-bit resampling, so they are the same on every machine.
"""

from PIL import Image

from langchain_image_variation.images.strips import strip_boxes

__all__ = ["add_blurred_bars", "add_mirrored_bars"]

_SHARPNESS = 4
"""In a blurred bar, details are about a fourth as large as their distance from the image. With a
larger number, faces and other objects reappear upside down. With a smaller one, the blur is visible
at the edge of the image."""

_COARSEST = 4
"""The side at which an image has no details left to blur, in pixels."""


def add_mirrored_bars(image: Image.Image, margin: int) -> Image.Image:
    """Return a square whose bars repeat the image, mirrored at each edge.

    The bars are as sharp as the image and have its colors and textures. That suits engines that
    compare or reuse parts of the image, such as `local`.

    If an edge next to a bar has a fully transparent pixel, the bars are transparent, because the
    visible image ends before its edge.

    Args:
        image: An image in a plain mode.
        margin: The width of the bar at the left, or the height of the bar at the top, in pixels.
    """
    side, length = max(image.size), min(image.size)
    square = Image.new(image.mode, (side, side))
    if _has_transparent_edge(image):
        square.paste(image, _corner(image, margin))
        return square
    is_wide = image.width == side
    flip = Image.Transpose.FLIP_TOP_BOTTOM if is_wide else Image.Transpose.FLIP_LEFT_RIGHT
    copies = image, image.transpose(flip)
    # Copies with even numbers are not mirrored. The image itself is one of them.
    for number, start in enumerate(range(margin % (2 * length) - 2 * length, side, length)):
        square.paste(copies[number % 2], (0, start) if is_wide else (start, 0))
    return square


def add_blurred_bars(image: Image.Image, margin: int) -> Image.Image:
    """Return a square whose bars mirror the image. They get more blurred with distance from it.

    That suits people, who see the bars, because no object appears twice.

    Args:
        image: See `add_mirrored_bars`.
        margin: See `add_mirrored_bars`.
    """
    square = add_mirrored_bars(image, margin)
    if _has_transparent_edge(image):
        return square
    # Colors under alpha must not spread.
    mode = {"LA": "La", "RGBA": "RGBa"}.get(image.mode, image.mode)
    levels = [square if mode == image.mode else square.convert(mode)]
    while levels[-1].width > _COARSEST:
        half = levels[-1].width // 2
        # `reduce` would give the last pixels of an odd side twice the weight of others.
        levels.append(levels[-1].resize((half, half), Image.Resampling.BOX))
    is_wide = image.width == square.width
    edges = margin, margin + min(image.size)
    for fine, coarse in zip(levels[-2::-1], levels[:0:-1], strict=True):
        _blend(fine, coarse, _blur_weights(edges, fine.width, square.width), is_wide)
    if mode != image.mode:
        square = levels[0].convert(image.mode)
        # Multiplying by alpha and dividing again may have changed the image slightly.
        square.paste(image, _corner(image, margin))
    return square


def _corner(image: Image.Image, margin: int) -> tuple[int, int]:
    return (0, margin) if image.width >= image.height else (margin, 0)


def _has_transparent_edge(image: Image.Image) -> bool:
    if image.mode not in ("LA", "RGBA"):
        return False
    alpha = image.getchannel("A")
    width, height = image.size
    if width >= height:
        edges = (0, 0, width, 1), (0, height - 1, width, height)
    else:
        edges = (0, 0, 1, height), (width - 1, 0, width, height)
    return any(alpha.crop(edge).getextrema()[0] == 0 for edge in edges)


def _blur_weights(edges: tuple[int, int], count: int, side: int) -> bytes:
    """Return how much each row (or column) of a level shows the next, coarser level, 0 to 255.

    Args:
        edges: Where the image begins and ends in the square, in pixels.
        count: The number of rows (or columns).
        side: The side of the square, in pixels.
    """
    # Distances are counted in 2 * count parts of a pixel, so that all are whole numbers.
    first, last = (2 * count * edge for edge in edges)
    reach = 2 * _SHARPNESS * side
    middles = [(2 * index + 1) * side for index in range(count)]
    distances = [max(first - middle, middle - last, 0) for middle in middles]
    return bytes(min(255, max(0, 255 * (distance - reach) // reach)) for distance in distances)


def _blend(fine: Image.Image, coarse: Image.Image, weights: bytes, is_wide: bool) -> None:
    """Blend the coarser level into the finer one, by the weights."""
    side = fine.width
    scale = coarse.height / side
    # Pillow rounds after resizing one axis. Which one comes first depends on its release.
    coarse = coarse.resize((side, coarse.height), Image.Resampling.BICUBIC)
    column = Image.frombytes("L", (1, side) if is_wide else (side, 1), weights)
    for _, top, _, bottom in strip_boxes((0, 0, side, side)):
        rows = (0, top, 1, bottom) if is_wide else (0, 0, side, 1)
        mask = column.crop(rows).resize((side, bottom - top), Image.Resampling.NEAREST)
        if mask.getbbox() is not None:
            part = coarse.resize(
                (side, bottom - top),
                Image.Resampling.BICUBIC,
                (0, top * scale, side, bottom * scale),
            )
            fine.paste(part, (0, top), mask)
