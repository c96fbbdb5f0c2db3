"""The pages of a bulk run: sources and their variations as thumbnails, for any browser.

They open from disk and ask nothing of any other place.
"""

import hashlib
import io
from collections.abc import Callable, Iterable
from html import escape
from itertools import groupby
from typing import TypeAlias
from urllib.parse import quote

from PIL import Image

from langchain_image_variation.batch.inputs import GALLERY
from langchain_image_variation.batch.rows import Row
from langchain_image_variation.exceptions import InvalidRequestError, SourceError
from langchain_image_variation.files.outputs import Outputs
from langchain_image_variation.images.pixels import (
    normalize,
    open_image,
    open_png,
    translate_decoder_errors,
)
from langchain_image_variation.images.png.chunks import SIGNATURE
from langchain_image_variation.source import FORMATS, MAX_SOURCE_PIXELS

__all__ = ["INDEX", "PICTURES_A_PAGE", "THUMBNAIL_SIDE", "Read", "write_pages"]

INDEX = f"{GALLERY}/index.html"
"""The first page."""

PICTURES_A_PAGE = 240
"""A page ends with the source that brings it to so many pictures."""

THUMBNAIL_SIDE = 160
"""A thumbnail has at most this many pixels a side."""


Read: TypeAlias = Callable[[str], tuple[bytes, str]]
"""Returns the bytes of a source, by its path, and its name."""


def write_pages(
    rows: Iterable[Row],
    outputs: Outputs,
    read: Read,
    *,
    stopped: Callable[[], bool] = lambda: False,
) -> int:
    """Write all pages and the thumbnails they show, and return how many pages there are.

    A thumbnail that is there is kept: its name is the hash of what it shows. So pages that ended
    early are finished soon by writing them again.

    Args:
        rows: As a manifest has them, in order.
        outputs: Where they go.
        read: Reads a source.
        stopped: Once it says True, no other source is shown.

    Raises:
        OutputError: If something cannot be written.
    """
    pages = 0
    page: list[str] = []
    shown = 0
    # One page late, since a page says whether there is a next one.
    for _, group in groupby(rows, key=lambda row: (row["source_path"], row["source_sha256"])):
        if stopped():
            break
        of_source = list(group)
        if shown + len(of_source) > PICTURES_A_PAGE and page:
            pages += 1
            _write(pages, page, more=True, outputs=outputs)
            page, shown = [], 0
        page.append(_section(of_source, outputs, read))
        shown += len(of_source)
    pages += 1
    _write(pages, page, more=False, outputs=outputs)
    beyond = pages + 1
    while outputs.has(f"{GALLERY}/{_file(beyond)}"):
        # Of an earlier run with more pictures.
        outputs.remove(f"{GALLERY}/{_file(beyond)}")
        beyond += 1
    return pages


def _write(number: int, sections: list[str], *, more: bool, outputs: Outputs) -> None:
    links = []
    if number > 1:
        links.append(f'<a href="{_file(number - 1)}" rel="prev">previous page</a>')
    if more:
        links.append(f'<a href="{_file(number + 1)}" rel="next">next page</a>')
    html = _PAGE.format(
        number=number, side=THUMBNAIL_SIDE, links=" ".join(links), sections="\n".join(sections)
    )
    outputs.put({f"{GALLERY}/{_file(number)}": html.encode()})


def _file(number: int) -> str:
    return "index.html" if number == 1 else f"page-{number}.html"


def _section(rows: list[Row], outputs: Outputs, read: Read) -> str:
    figures = "".join((_source(rows[0], outputs, read), *(_result(row, outputs) for row in rows)))
    return f"<section><h2>{escape(rows[0]['source_path'] or '')}</h2>{figures}</section>"


def _source(row: Row, outputs: Outputs, read: Read) -> str:
    digest = row["source_sha256"]
    if digest is None:
        return ""

    def read_again() -> bytes:
        data, _ = read(row["source_path"])
        # One that was changed since is not what the variations are of.
        return data if hashlib.sha256(data).hexdigest() == digest else b""

    return _figure(_thumbnail(digest, read_again, outputs), None, "source")


def _result(row: Row, outputs: Outputs) -> str:
    if row["error"] is not None:
        return f"<p>{escape(row['error'])}</p>"
    path = row["output_path"]
    thumbnail = _thumbnail(row["output_sha256"], lambda: outputs.read(path) or b"", outputs)
    seed = "" if row["seed"] is None else f", seed {row['seed']}"
    return _figure(thumbnail, f"../{path}", f"{row['index']}{seed}")


def _figure(thumbnail: str | None, target: str | None, caption: str) -> str:
    shown = "<p>no picture to show</p>"
    if thumbnail is not None:
        shown = f'<img src="{quote(thumbnail)}" alt="{escape(caption)}" loading="lazy">'
    linked = shown if target is None else f'<a href="{quote(target)}">{shown}</a>'
    return f"<figure>{linked}<figcaption>{escape(caption)}</figcaption></figure>"


def _thumbnail(digest: str, read: Callable[[], bytes], outputs: Outputs) -> str | None:
    """Return the address of a thumbnail, made if it is missing, or None if there is no picture.

    Args:
        digest: The SHA-256 of the picture's bytes, in hex.
        read: Returns these bytes.
        outputs: Where they go.

    Raises:
        OutputError: If it cannot be written.
    """
    name = f"thumbnails/{digest[:2]}/{digest[:24]}.jpg"
    if outputs.has(f"{GALLERY}/{name}"):
        return name
    try:
        data = _small(read())
    except InvalidRequestError:
        return None
    outputs.put({f"{GALLERY}/{name}": data})
    return name


def _small(data: bytes) -> bytes:
    """Return a thumbnail of a picture as a JPEG file.

    Raises:
        SourceError: If it is none.
        InvalidImageError: If it is corrupt, or would take too much work to decode.
    """
    with translate_decoder_errors(SourceError("The file holds no picture to show.")):
        with _opened(data) as image:
            if image.width * image.height > MAX_SOURCE_PIXELS:
                raise SourceError("The picture is too large to show.")
            # Of a JPEG only so much is decoded as is shown.
            image.draft("RGB", (2 * THUMBNAIL_SIDE, 2 * THUMBNAIL_SIDE))
            small = normalize(image, min_side=2 * THUMBNAIL_SIDE)
        small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
        if small.mode in ("LA", "RGBA"):
            ground = Image.new("RGBA", small.size, "white")
            small = Image.alpha_composite(ground, small.convert("RGBA"))
        buffer = io.BytesIO()
        small.convert("RGB").save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _opened(data: bytes) -> Image.Image:
    return open_png(data) if data.startswith(SIGNATURE) else open_image(data, FORMATS)


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Variations, page {number}</title>
<style>
body {{ margin: 1.5rem; font: 0.9rem/1.4 system-ui, sans-serif; color: #222; }}
h1 {{ font-size: 1.2rem; }}
h2 {{ width: 100%; margin: 0; font-size: 0.9rem; overflow-wrap: anywhere; }}
section {{ display: flex; flex-wrap: wrap; gap: 0.5rem; padding: 0.75rem 0;
  border-top: 1px solid #ddd; content-visibility: auto; contain-intrinsic-height: auto 230px; }}
figure {{ width: {side}px; margin: 0; }}
img {{ display: block; width: {side}px; height: {side}px; object-fit: contain;
  background: #f4f4f4; }}
figcaption {{ color: #666; font-size: 0.75rem; }}
section > p {{ align-self: center; max-width: 40rem; margin: 0; color: #a00; }}
</style>
</head>
<body>
<h1>Variations, page {number}</h1>
<nav>{links}</nav>
{sections}
<nav>{links}</nav>
</body>
</html>
"""
