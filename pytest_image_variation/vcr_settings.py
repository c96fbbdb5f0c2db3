"""Settings and matchers for test suites that record their own cassettes with vcrpy.

`vcr_settings` returns them for `vcr.VCR` and for pytest-recording's fixture `vcr_config`. This
module does not import vcrpy: it works on the requests and responses that vcrpy passes in.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

from langchain_image_variation.images.pixels import open_image
from pytest_image_variation.forms import Form, Part, body_of, form_of
from pytest_image_variation.redaction import Redaction

__all__ = ["cassette_dir", "multipart", "multipart_pixels", "vcr_settings"]

ComparedBy = Literal["bytes", "pixels"]


def cassette_dir() -> Path:
    """Return the folder with the cassettes that come with this package, `<scenario>.yaml` each.

    Raises:
        FileNotFoundError: If the installation lacks them.
    """
    package = Path(__file__).parent
    # A wheel has them inside the package, and an editable install has them next to it.
    for folder in (package / "cassettes", package.parent / "cassettes"):
        if (folder / "endpoint_removed.yaml").is_file():
            return folder
    raise FileNotFoundError(
        "This installation of langchain-image-variation lacks its cassettes. Reinstall it."
    )


def vcr_settings(images: ComparedBy = "bytes") -> dict[str, Any]:
    """Return settings for `vcr.VCR`, or for pytest-recording's fixture `vcr_config`.

    Requests match by method, path and form. Only headers and query values that are known to be
    harmless are written. Keys, organizations, cookies, request ids, signatures and `user` are
    removed from bodies, and the key of a request is removed wherever the server repeats it.

    Args:
        images: What two images must have in common to match: their "bytes", or only their "pixels".

    Raises:
        ValueError: If `images` is neither.
    """
    if images not in get_args(ComparedBy):
        raise ValueError(f"images must be 'bytes' or 'pixels', got {str(images)[:60]!r}.")
    matcher = "multipart" if images == "bytes" else "multipart_pixels"
    redaction = Redaction()
    return {
        "match_on": ["method", "path", matcher],
        "before_record_request": redaction.redact_request,
        "before_record_response": redaction.redact_response,
        "decode_compressed_response": True,
    }


def multipart(first: Any, second: Any) -> None:
    """Compare the forms of two vcrpy requests. Register this matcher as "multipart".

    Boundaries, which clients choose at random, and the order of parts do not matter. The names,
    file names and contents of parts do. Bodies that are not forms are compared byte by byte.

    Raises:
        AssertionError: If the forms differ. vcrpy shows the message, which names the fields.
    """
    _compare(first, second, lambda content: content)


def multipart_pixels(first: Any, second: Any) -> None:
    """Compare as `multipart` does, but compare images by size, mode and pixels.

    Raises:
        AssertionError: If the forms differ.
    """
    _compare(first, second, _pixels)


def _compare(first: Any, second: Any, value_of: Callable[[bytes], object]) -> None:
    form, other = form_of(first), form_of(second)
    if not form.parts and not other.parts:
        assert body_of(first) == body_of(second), "the bodies differ, and are not forms"
        return
    assert form.is_closed == other.is_closed, "one of the forms has no closing boundary"
    differences = _differences(_by_name(form), _by_name(other), value_of)
    assert not differences, "; ".join(differences)


def _by_name(form: Form) -> dict[str, list[Part]]:
    parts_by_name: dict[str, list[Part]] = {}
    for part in form.parts:
        parts_by_name.setdefault(part.name, []).append(part)
    return parts_by_name


def _differences(
    first: dict[str, list[Part]], second: dict[str, list[Part]], value_of: Callable[[bytes], object]
) -> list[str]:
    messages = []
    for name in sorted(first.keys() | second.keys()):
        parts, others = first.get(name, []), second.get(name, [])
        if [p.file_name for p in parts] != [p.file_name for p in others]:
            describe = _describe_name
        elif [value_of(p.content) for p in parts] != [value_of(p.content) for p in others]:
            describe = _describe_content
        else:
            continue
        left, right = (", ".join(map(describe, each)) or "none" for each in (parts, others))
        messages.append(f"{name[:40]}: {left} != {right}")
    return messages


def _describe_name(part: Part) -> str:
    return _describe_content(part) if part.file_name is None else repr(part.file_name)


def _describe_content(part: Part) -> str:
    if not part.is_file:
        return repr(part.content[:40].decode("utf-8", "replace"))
    return f"a file of {len(part.content):,} bytes"


def _pixels(content: bytes) -> object:
    try:
        with open_image(content) as image:
            return image.size, image.mode, image.convert("RGBA").tobytes()
    except Exception:  # Pillow's exceptions for files that are not images differ by format.
        return content
