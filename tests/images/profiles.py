"""ICC profiles for files that the tests write."""

from PIL import ImageCms


def srgb_profile(*, swap: bool = False) -> bytes:
    """Return an sRGB profile, optionally with red and blue swapped."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    names = {b"rXYZ": b"bXYZ", b"bXYZ": b"rXYZ"} if swap else {}
    for tag in range(int.from_bytes(data[128:132])):
        at = 132 + 12 * tag
        data[at : at + 4] = names.get(bytes(data[at : at + 4]), data[at : at + 4])
    return bytes(data)
