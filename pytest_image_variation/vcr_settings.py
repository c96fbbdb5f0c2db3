"""For suites that record their own cassettes with vcrpy: matchers, settings, and our cassettes.

`vcr_settings` puts them together for `vcr.VCR` and for pytest-recording's `vcr_config`. Nothing
here imports vcrpy: its requests and responses are taken as they come.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

from langchain_image_variation.images.pixels import open_image
from pytest_image_variation.forms import Form, Part, body_of, form_of
from pytest_image_variation.redaction import Redaction

__all__ = [
    "cassette_dir",
    "multipart",
    "multipart_pixels",
    "vcr_settings",
]

Pictures = Literal["bytes", "pixels"]


def cassette_dir() -> Path:
    """Return the folder of the recorded scenarios, one `<scenario>.yaml` each.

    Raises:
        FileNotFoundError: If the installation lacks them.
    """
    here = Path(__file__).parent
    # The wheel has them inside the package; an editable install finds them in its checkout.
    for folder in (here / "cassettes", here.parent / "cassettes"):
        if (folder / "endpoint_removed.yaml").is_file():
            return folder
    raise FileNotFoundError("The cassettes are missing from this installation; install it anew.")


def vcr_settings(pictures: Pictures = "bytes") -> dict[str, Any]:
    """Return what to pass to vcrpy, or to return from pytest-recording's fixture `vcr_config`.

    Requests are matched by method, path and form. Of headers and of the values in an address's
    query, those are written that are known to hold no secret; keys, organisation, cookies, request
    ids, signatures and `user` are taken out of bodies, and so is the key that a request was sent
    with, wherever a server repeats it.

    Args:
        pictures: Whether pictures are the same by their "bytes", or by their "pixels".

    Raises:
        ValueError: If `pictures` is neither.
    """
    if pictures not in get_args(Pictures):
        raise ValueError(f"pictures must be 'bytes' or 'pixels', got {str(pictures)[:60]!r}.")
    form = "multipart" if pictures == "bytes" else "multipart_pixels"
    redaction = Redaction()
    return {
        "match_on": ["method", "path", form],
        "before_record_request": redaction.request,
        "before_record_response": redaction.response,
        "decode_compressed_response": True,
    }


def multipart(first: Any, second: Any) -> None:
    """Compare the forms of two requests of vcrpy: a matcher, to be registered as "multipart".

    The boundary, which clients draw by chance, and the order of the parts are no difference; the
    names, file names and contents of the parts are. What is no form is compared byte by byte.

    Raises:
        AssertionError: If they differ; the message says in which fields, vcrpy shows it.
    """
    _compare(first, second, lambda content: content)


def multipart_pixels(first: Any, second: Any) -> None:
    """Compare as `multipart` does, but pictures by their size, mode and pixels.

    Raises:
        AssertionError: If they differ.
    """
    _compare(first, second, _pixels)


def _compare(first: Any, second: Any, content: Callable[[bytes], object]) -> None:
    here, there = form_of(first), form_of(second)
    if not here.parts and not there.parts:
        assert body_of(first) == body_of(second), "the bodies are no forms, and differ"
        return
    differing = _differing(_by_name(here), _by_name(there), content)
    assert not differing, "; ".join(differing)


def _by_name(form: Form) -> dict[str, list[Part]]:
    named: dict[str, list[Part]] = {}
    for part in form.parts:
        named.setdefault(part.name, []).append(part)
    return named


def _differing(
    here: dict[str, list[Part]], there: dict[str, list[Part]], content: Callable[[bytes], object]
) -> list[str]:
    found = []
    for name in sorted(here.keys() | there.keys()):
        mine, yours = here.get(name, []), there.get(name, [])
        if [p.file_name for p in mine] != [p.file_name for p in yours]:
            shown = _named
        elif [content(p.content) for p in mine] != [content(p.content) for p in yours]:
            shown = _held
        else:
            continue
        one, other = (", ".join(map(shown, parts)) or "none" for parts in (mine, yours))
        found.append(f"{name[:40]}: {one} against {other}")
    return found


def _named(part: Part) -> str:
    return _held(part) if part.file_name is None else repr(part.file_name)


def _held(part: Part) -> str:
    if part.file_name is None:
        return repr(part.content[:40].decode("utf-8", "replace"))
    return f"a file of {len(part.content):,} bytes"


def _pixels(content: bytes) -> object:
    try:
        with open_image(content) as image:
            return image.size, image.mode, image.convert("RGBA").tobytes()
    except Exception:  # Whatever Pillow makes of what is no picture.
        return content
