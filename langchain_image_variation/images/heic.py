"""Opens HEIC files, as phones save them, with the package pillow-heif.

The plugin is called directly. Registering it with Pillow would change what other code in this
process can open.
"""

from typing import IO

from PIL import Image

from langchain_image_variation.exceptions import MissingExtraError

__all__ = ["open_heic"]


def open_heic(file: IO[bytes]) -> Image.Image:
    """Open a HEIC file without decoding its pixels.

    libheif applies the rotation and the mirroring of the file when it decodes it, as HEIF requires.
    It does not decode an image that is larger than its header says.

    Args:
        file: An open file.

    Raises:
        MissingExtraError: If pillow-heif is not installed. Its own exceptions propagate.
    """
    try:
        # Imported here because it is optional and loads 26 MB of libraries.
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise MissingExtraError.for_package(
            "A HEIC image", error.name, "langchain-image-variation[heif]"
        ) from None
    return HeifImageFile(file)  # type: ignore[no-untyped-call]  # it has no types
