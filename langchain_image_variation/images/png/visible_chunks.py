"""The chunks of a PNG file that affect its pixels."""

from langchain_image_variation.images.png.chunks import (
    APPEARANCE,
    PIXELS,
    check_order,
    filter_chunks,
    read_chunks,
)
from langchain_image_variation.images.png.repair import repair
from langchain_image_variation.images.png.scanlines import complete_pixels
from langchain_image_variation.images.work_limits import check_size

__all__ = ["VisibleChunks"]


class VisibleChunks:
    """The chunks of a PNG file that affect its pixels. Faults that viewers accept are repaired.

    Args:
        data: The bytes of a file that begins with the signature.

    Raises:
        InvalidImageError: If the structure of the file cannot be repaired, or if the image has too
            many pixels.
    """

    def __init__(self, data: bytes) -> None:
        self._repair = repair(data)
        self._data = filter_chunks(self._repair.data, keep=PIXELS | APPEARANCE)
        self.header, self.names = check_order(read_chunks(self._data))
        check_size(self.header.width, self.header.height)
        self.is_changed = self._repair.data is not data

    def read(self) -> bytes:
        """Return a file that has these chunks, and all pixels if it was cut off after them.

        Raises:
            InvalidImageError: If it was cut off before the last pixel.
        """
        return complete_pixels(self._data) if self._repair.is_cut_off else self._data

    def describe(self) -> list[str]:
        """Describe what was repaired and dropped, as parts of a sentence."""
        return [*self._repair.steps, *_dropped_parts(self._repair.data)]


def _dropped_parts(data: bytes) -> list[str]:
    """Describe the parts of a PNG file that a viewer may show but that are dropped."""
    steps, names = [], []
    for name, body in read_chunks(data):
        names.append(name)
        if name == b"cICP" and bytes(body) != _SRGB_CICP:
            steps.append("treated its colors as sRGB")
    if b"fdAT" in names:
        is_first = b"fcTL" in names[: names.index(b"IDAT")]
        still_image = "took the still image, which is not part of the animation"
        steps.append("took the first frame" if is_first else still_image)
    return steps


_SRGB_CICP = bytes([1, 13, 0, 1])
"""The primaries, transfer function, matrix and range of sRGB (ITU-T H.273)."""
