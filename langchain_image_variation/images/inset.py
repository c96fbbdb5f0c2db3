"""`Inset`: where an image is in the square that it was padded to."""

from dataclasses import dataclass

from PIL import Image

__all__ = ["Inset", "choose_margin", "scaled_size"]

_GRID = 256
"""The smallest `size` of a variation. Its pixel grid is also a grid of the larger sizes."""


@dataclass(frozen=True, slots=True)
class Inset:
    """The part of a padded square that shows the image.

    A variation of the square has the same inset, at any size.
    """

    width: int
    """The width of the image in pixels, before any scaling."""
    height: int
    """The height of the image in pixels, before any scaling."""
    margin: int
    """The width of the bar above or to the left of the image, in pixels of a square of `side`."""
    side: int
    """The width and height of the square, in pixels."""

    def size(self, side: int) -> tuple[int, int]:
        """Return the width and height of the inset in a variation, in pixels.

        The longer one is `side`. The other keeps the proportions of the image. It is rounded, and
        is at least 1.

        Args:
            side: The width and height of the variation, in pixels.
        """
        return scaled_size((self.width, self.height), side)

    def cut_out(self, image: Image.Image) -> Image.Image:
        """Return the inset of a variation. The variation is made square first if it is not.

        Args:
            image: The pixels of the variation, in a plain mode.
        """
        side = max(image.size)
        if image.size != (side, side):
            image = image.resize((side, side), Image.Resampling.LANCZOS)
        width, height = self.size(side)
        start = min(_round(self.margin * side, self.side), side - min(width, height))
        left, top = (0, start) if width == side else (start, 0)
        return image.crop((left, top, left + width, top + height))


def scaled_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return the width and height of an image that is scaled until its longer side is `side`.

    The other side is rounded, and is at least 1.

    Args:
        size: The width and height of the image before scaling, in pixels.
        side: The length of its longer side after scaling, in pixels.
    """
    longer = max(size)
    width, height = (max(1, _round(side * length, longer)) for length in size)
    return width, height


def choose_margin(length: int, side: int) -> int:
    """Return where an image should begin in a square so that variations can be cut exactly.

    In an exactly centered position, the image would usually begin inside a pixel of the variation,
    and the inset would be off by up to half a pixel. So the image is moved by at most 1/32 of the
    side, to where a pixel of each `size` begins, or as close to that as possible.

    Args:
        length: The shorter side of the image, in pixels.
        side: The side of the square, in pixels.
    """
    middle = (side - length) // 2
    reach = min(middle, side // 32)

    def distances(margin: int) -> tuple[int, int]:
        beyond = margin * _GRID % side
        return min(beyond, side - beyond), abs(margin - middle)

    return min(range(middle - reach, middle + reach + 1), key=distances)


def _round(numerator: int, denominator: int) -> int:
    """Divide and round to the nearest whole number. Halves are rounded up."""
    return (2 * numerator + denominator) // (2 * denominator)
