"""Colours as they are meant: what a file says of its samples, applied once and for all.

A browser honours an embedded profile, and a PNG file's gAMA and cHRM; most programs that feed
models do not, so a file can be made that shows a person one picture and a model another. Here the
samples become sRGB and the file's say is dropped, and both see the same.
"""

import io
import struct
from collections.abc import Sequence

from PIL import Image

__all__ = ["profile", "to_srgb"]

_SRGB_GAMMA = 1 / 2.2
_SRGB = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
"""White, red, green and blue of sRGB (IEC 61966-2-1): x and y of each, in cHRM's order."""

_SAME_GAMMA, _SAME_PLACE = 0.05, 0.01
"""Up to these, a gamma (as a part of it) and an x or y count as those of sRGB, as in libpng."""

# ICC.1:2022: the white of the profile connection space (D50), and the Bradford matrix.
_D50 = (0.9642, 1.0, 0.8249)
_BRADFORD = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))


def profile(image: Image.Image) -> bytes | None:
    """Return the ICC profile by which a picture's samples are meant, or None if they are sRGB.

    A PNG file's profile has precedence over its sRGB chunk, and that over gAMA and cHRM, of which
    one may be missing (PNG specification, third edition, 4.3). They are made into a profile. Values
    that make no sense are as good as none.
    """
    if embedded := image.info.get("icc_profile"):
        return bytes(embedded)
    gamma = image.info.get("gamma")
    places = image.info.get("chromaticity")
    if "srgb" in image.info or (gamma is None and places is None):
        return None
    gamma, places = gamma or _SRGB_GAMMA, places or _SRGB
    near = all(abs(a - b) <= _SAME_PLACE for a, b in zip(places, _SRGB, strict=True))
    if abs(gamma / _SRGB_GAMMA - 1) <= _SAME_GAMMA and near:
        return None
    # What a fixed-point number of a profile holds.
    exponent = min(max(1 / gamma, 1 / 256), 256.0)
    if image.mode in ("1", "L", "LA", "I;16"):
        return _icc(b"GRAY", {b"wtpt": _xyz(_D50), b"kTRC": _curve(exponent)})
    primaries = _primaries(_SRGB if near else places)
    if primaries is None:
        return None
    tags = {b"wtpt": _xyz(_D50)}
    for letter, primary in zip((b"r", b"g", b"b"), primaries, strict=True):
        tags |= {letter + b"XYZ": _xyz(primary), letter + b"TRC": _curve(exponent)}
    return _icc(b"RGB ", tags)


def to_srgb(image: Image.Image, icc: bytes) -> Image.Image:
    """Convert a picture from the colours of a profile to sRGB; grey stays grey, alpha is kept.

    A profile that is broken, or of another kind than the picture, changes nothing.

    Args:
        image: A picture with 8 bits a sample.
        icc: An ICC profile.
    """
    # Here, since few pictures have a profile, and whoever imports the tool waits for every import.
    from PIL import ImageCms

    grey = image.mode in ("1", "L", "LA", "La")
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    pixels = image
    if image.mode not in ("L", "RGB", "CMYK", "LAB"):
        pixels = image.convert("L" if grey else "RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(pixels, source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return image
    assert converted is not None
    if grey:
        converted = converted.convert("L")
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


def _primaries(places: Sequence[float]) -> list[tuple[float, ...]] | None:
    """Return X, Y and Z of red, green and blue under D50, or None if they span no colours."""
    # Few pictures need this, and the import takes longer than converting most of them.
    import numpy as np

    points = np.reshape(places, (4, 2))
    white, *corners = np.column_stack([points, 1 - points.sum(axis=1)])
    try:
        with np.errstate(all="ignore"):
            white = white / white[1]
            scales = np.linalg.solve(np.transpose(corners), white)
            cones = np.array(_BRADFORD)
            gains = cones @ _D50 / (cones @ white)
            xyz = np.transpose(corners) * scales
            adapted = np.linalg.solve(cones, gains[:, None] * (cones @ xyz))
    except np.linalg.LinAlgError:
        return None
    if not np.isfinite(adapted).all() or np.abs(adapted).max() > 100:
        return None
    return [tuple(column) for column in adapted.T]


def _icc(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """Return a display profile of version 4.2 (ICC.1:2022, clause 7) with such tags."""
    at = 132 + 12 * len(tags)
    table, bodies = struct.pack(">I", len(tags)), b""
    for name, body in tags.items():
        table += name + struct.pack(">II", at + len(bodies), len(body))
        bodies += body
    fields = struct.pack(">I4sI4s4s4s", at + len(bodies), b"", 0x04200000, b"mntr", space, b"XYZ ")
    start = struct.pack(">6H4s", 2000, 1, 1, 0, 0, 0, b"acsp")
    return (fields + start).ljust(68, b"\0") + _xyz(_D50)[8:].ljust(60, b"\0") + table + bodies


def _xyz(values: Sequence[float]) -> bytes:
    return struct.pack(">4s4x3i", b"XYZ ", *(round(value * 65536) for value in values))


def _curve(exponent: float) -> bytes:
    return struct.pack(">4s4xHxxi", b"para", 0, round(exponent * 65536))
