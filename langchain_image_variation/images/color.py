"""Applies a file's color information, so that people and models see the same image.

A browser applies an embedded profile, and the gAMA and cHRM chunks of a PNG file. Most programs
that feed models do not, so a file can show a person one image and a model another. We convert the
samples to sRGB and drop the color information.
"""

import io
import struct
from collections.abc import Sequence

from PIL import Image

__all__ = ["convert_to_srgb", "gamma_table", "read_gamma", "read_profile"]

_SRGB_GAMMA = 1 / 2.2
_SRGB = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
"""The x and y of the white, red, green and blue of sRGB (IEC 61966-2-1), in cHRM's order."""

_GAMMA_TOLERANCE, _POINT_TOLERANCE = 0.05, 0.01
"""A relative gamma and an x or y this close to the values of sRGB count as sRGB, as in libpng."""

# ICC.1:2022: the white point of the profile connection space (D50), and the Bradford matrix.
_D50 = (0.9642, 1.0, 0.8249)
_BRADFORD = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))


def read_gamma(image: Image.Image) -> float | None:
    """Return the gamma of a PNG file's samples, or None if it is sRGB's or is missing.

    A profile and the sRGB chunk have precedence over gAMA (PNG specification, third edition, 4.3).
    """
    gamma = image.info.get("gamma")
    if not gamma or "srgb" in image.info or image.info.get("icc_profile"):
        return None
    return None if abs(gamma / _SRGB_GAMMA - 1) <= _GAMMA_TOLERANCE else float(gamma)


def gamma_table(gamma: float | None, max_value: int) -> list[int]:
    """Return the 8-bit sRGB sample of each sample from 0 to `max_value`, correctly rounded.

    Args:
        gamma: The gamma of the samples, or None if they are sRGB already.
        max_value: The largest sample, 255 or 65535.
    """
    if gamma is None:
        return [(value * 255 + max_value // 2) // max_value for value in range(max_value + 1)]
    light = ((value / max_value) ** (1 / gamma) for value in range(max_value + 1))
    return [int(_encode_srgb(value) * 255 + 0.5) for value in light]


def _encode_srgb(light: float) -> float:
    """Apply the transfer function of sRGB (IEC 61966-2-1) to an amount of light from 0 to 1."""
    return 12.92 * light if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055


def read_profile(image: Image.Image) -> bytes | None:
    """Return the ICC profile of an image's samples, or None if it has none that matters.

    The profile of a PNG file has precedence over its sRGB chunk, and the sRGB chunk over cHRM (PNG
    specification, third edition, 4.3). If there is only cHRM, this makes a profile of
    it, for samples that went through `gamma_table`. Values that make no sense are ignored.
    """
    if embedded_profile := image.info.get("icc_profile"):
        return bytes(embedded_profile)
    points = image.info.get("chromaticity")
    if points is None or "srgb" in image.info or image.mode in ("1", "L", "LA", "I;16"):
        return None
    if all(abs(a - b) <= _POINT_TOLERANCE for a, b in zip(points, _SRGB, strict=True)):
        return None
    primaries = _primaries(points)
    if primaries is None:
        return None
    tags = {b"wtpt": _xyz(_D50)}
    for letter, primary in zip((b"r", b"g", b"b"), primaries, strict=True):
        tags |= {letter + b"XYZ": _xyz(primary), letter + b"TRC": _SRGB_CURVE}
    return _icc(b"RGB ", tags)


def convert_to_srgb(image: Image.Image, icc: bytes) -> Image.Image:
    """Convert an image from the colors of a profile to sRGB; gray stays gray, and alpha is kept.

    If the profile is corrupt or does not fit the image's mode, nothing changes. Its float
    tables are not used: few programs apply them, and they can make a tiny file take hours.

    Args:
        image: An image with 8 bits per sample.
        icc: An ICC profile.
    """
    # Imported here because few images have a profile, and every import delays the tool.
    from PIL import ImageCms

    gray = image.mode in ("1", "L", "LA", "La")
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    pixels = image
    if image.mode not in ("L", "RGB", "CMYK", "LAB"):
        pixels = image.convert("L" if gray else "RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(_hide_float_tables(icc)))
        target = ImageCms.createProfile("sRGB")
        srgb_image = ImageCms.profileToProfile(pixels, source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return image
    assert srgb_image is not None
    if gray:
        srgb_image = srgb_image.convert("L")
    if alpha is not None:
        srgb_image.putalpha(alpha)
    return srgb_image


_FLOAT_TABLES = frozenset(
    direction + number for direction in (b"D2B", b"B2D") for number in (b"0", b"1", b"2", b"3")
)
"""The tags of the float tables (ICC.1:2022, clause 9.2). Such a table is a list of steps, and any
number of them may share bytes. LittleCMS applies each step to every point of its lookup table, so a
PNG of a kilobyte took 9 seconds. Chrome and Firefox use the other tables."""


def _hide_float_tables(icc: bytes) -> bytes:
    """Return a profile whose float tables are renamed so that no reader finds them."""
    profile = bytearray(icc)
    # A tag has 12 bytes, and its name is the first 4 (ICC.1:2022, clause 7.3). LittleCMS refuses a
    # profile with more than 100 tags.
    for start in range(132, 132 + 12 * min(int.from_bytes(icc[128:132]), 100), 12):
        name = icc[start : start + 4]
        if name in _FLOAT_TABLES:
            profile[start : start + 4] = name.lower()
    return bytes(profile)


def _primaries(points: Sequence[float]) -> list[tuple[float, ...]] | None:
    """Return the X, Y and Z of red, green and blue under D50, or None if they span no colors."""
    # Few images need this, and the import takes longer than converting most images.
    import numpy as np

    xy = np.reshape(points, (4, 2))
    white, *corners = np.column_stack([xy, 1 - xy.sum(axis=1)])
    try:
        with np.errstate(all="ignore"):
            white = white / white[1]
            scales = np.linalg.solve(np.transpose(corners), white)
            cones = np.array(_BRADFORD)
            gains = cones @ _D50 / (cones @ white)
            xyz = np.transpose(corners) * scales
            adapted_primaries = np.linalg.solve(cones, gains[:, None] * (cones @ xyz))
    except np.linalg.LinAlgError:
        return None
    if not np.isfinite(adapted_primaries).all() or np.abs(adapted_primaries).max() > 100:
        return None
    return [tuple(column) for column in adapted_primaries.T]


def _icc(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """Return a display profile of version 4.2 (ICC.1:2022, clause 7) with these tags."""
    offset = 132 + 12 * len(tags)
    table, bodies = struct.pack(">I", len(tags)), b""
    for name, body in tags.items():
        table += name + struct.pack(">II", offset + len(bodies), len(body))
        bodies += body
    fields = struct.pack(
        ">I4sI4s4s4s", offset + len(bodies), b"", 0x04200000, b"mntr", space, b"XYZ "
    )
    start = struct.pack(">6H4s", 2000, 1, 1, 0, 0, 0, b"acsp")
    return (fields + start).ljust(68, b"\0") + _xyz(_D50)[8:].ljust(60, b"\0") + table + bodies


def _xyz(values: Sequence[float]) -> bytes:
    return struct.pack(">4s4x3i", b"XYZ ", *(round(value * 65536) for value in values))


# The transfer function of sRGB as a parametric curve (ICC.1:2022, 10.18).
_SRGB_CURVE = struct.pack(
    ">4s4xHxx5i",
    b"para",
    3,
    *(round(value * 65536) for value in (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)),
)
