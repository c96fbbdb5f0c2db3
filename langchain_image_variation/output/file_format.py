"""The formats of result files: PNG, JPEG and WebP."""

import io
from dataclasses import dataclass
from typing import Literal, get_args

from PIL import Image

from langchain_image_variation.exceptions import InvalidRequestError, excerpt
from langchain_image_variation.images.formats import recognize_supported
from langchain_image_variation.images.pixels import as_png, decode_result, encode_png, flatten
from langchain_image_variation.numbers import check_whole_number

__all__ = ["DEFAULT_QUALITY", "FORMATS", "FileFormat", "FormatName"]

FormatName = Literal["png", "jpeg", "webp"]
"""The format of a result file."""

FORMATS: tuple[FormatName, ...] = get_args(FormatName)

DEFAULT_QUALITY = 90
"""The quality of JPEG and WebP files, 1 to 100. Pillow's defaults, 75 and 80, show artifacts in
smooth areas; above 90, files grow faster than quality."""

_SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}


@dataclass(frozen=True, slots=True)
class FileFormat:
    """How results are written.

    Raises:
        InvalidRequestError: If the format is unknown, or the quality is out of range or given for
            PNG, which loses nothing.
    """

    name: FormatName = "png"
    quality: int | None = None
    """The quality of JPEG and WebP, 1 to 100. None means `DEFAULT_QUALITY`."""

    def __post_init__(self) -> None:
        if self.name not in FORMATS:
            raise InvalidRequestError(
                f"format must be 'png', 'jpeg' or 'webp', got {excerpt(self.name)}.", param="format"
            )
        if self.quality is None:
            return
        check_whole_number("quality", self.quality, 1, 100)
        if self.name == "png":
            raise InvalidRequestError(
                "quality does not apply to PNG, which is lossless. Choose JPEG or WebP.",
                param="quality",
            )

    @property
    def suffix(self) -> str:
        """The suffix of a file, with its dot."""
        return _SUFFIXES[self.name]

    def convert(self, data: bytes) -> tuple[bytes, Image.Image]:
        """Return an engine's result as a file of this format, and its pixels in a plain mode.

        A file that already has the format is returned byte for byte, unless a quality is set.

        Args:
            data: The bytes of a PNG, JPEG or WebP file.

        Raises:
            OutputError: If it is not a readable image in one of these formats, or takes too much
                work to decode.
        """
        if self.name == "png":
            return as_png(data)
        image = decode_result(data)
        if self.quality is None and recognize_supported(data) == self.name.upper():
            return data, image
        data = self.encode(image)
        # Its pixels differ from those that were encoded.
        return data, decode_result(data)

    def encode(self, image: Image.Image) -> bytes:
        """Return an image in a plain mode as a file without metadata.

        JPEG has no transparency, so the image is put on white.
        """
        if self.name == "png":
            return encode_png(image)
        buffer = io.BytesIO()
        image = flatten(image) if self.name == "jpeg" else image
        image.save(buffer, self.name.upper(), quality=self.quality or DEFAULT_QUALITY)
        return buffer.getvalue()
