"""Reads PNG files with the system's libpng, if it has one: an independent decoder."""

import ctypes
import ctypes.util
from collections.abc import Callable

import pytest

from tests.images.encoder import Pixel

_RGBA = 3


class _PNGImage(ctypes.Structure):
    """The control structure of libpng's simplified interface (`png_image`)."""

    _fields_ = (
        ("opaque", ctypes.c_void_p),
        *((name, ctypes.c_uint32) for name in ("version", "width", "height", "format")),
        *((name, ctypes.c_uint32) for name in ("flags", "colormap_entries", "warning_or_error")),
        ("message", ctypes.c_char * 64),
    )


def libpng_reader() -> Callable[[bytes], list[Pixel] | None]:
    """Return a function that reads a file as sRGB pixels with alpha, or returns None on an error.

    The test is skipped if there is no libpng 1.6.
    """
    name = ctypes.util.find_library("png16")
    if name is None:
        pytest.skip("libpng 1.6 is not installed")
    library = ctypes.CDLL(name)

    def read(data: bytes) -> list[Pixel] | None:
        image = _PNGImage(version=1)
        size = ctypes.c_size_t(len(data))
        if not library.png_image_begin_read_from_memory(ctypes.byref(image), data, size):
            return None
        image.format = _RGBA
        buffer = ctypes.create_string_buffer(image.width * image.height * 4)
        if not library.png_image_finish_read(ctypes.byref(image), None, buffer, 0, None):
            return None
        rgba = buffer.raw
        return list(zip(rgba[::4], rgba[1::4], rgba[2::4], rgba[3::4], strict=True))

    return read
