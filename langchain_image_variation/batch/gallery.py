"""The gallery of a batch: HTML pages with thumbnails of the sources and their variations.

The pages open from disk in any browser and load nothing from elsewhere.
"""

import hashlib
import io
from collections.abc import Callable, Iterable
from html import escape
from itertools import groupby
from typing import TypeAlias
from urllib.parse import quote

from PIL import Image

from langchain_image_variation.batch.folders import GALLERY_DIR
from langchain_image_variation.batch.rows import OutputRow
from langchain_image_variation.exceptions import (
    ImageVariationError,
    InvalidRequestError,
    SourceError,
)
from langchain_image_variation.files.outputs import Outputs
from langchain_image_variation.images.decoder_errors import translate_decoder_errors
from langchain_image_variation.images.normalize import normalize
from langchain_image_variation.images.pixels import flatten
from langchain_image_variation.source import open_source

__all__ = ["IMAGES_PER_PAGE", "INDEX", "THUMBNAIL_SIDE", "ReadSource", "write_gallery"]

INDEX = f"{GALLERY_DIR}/index.html"
"""The first page."""

IMAGES_PER_PAGE = 240
"""The maximum number of variations on a page, unless a single source has more."""

THUMBNAIL_SIDE = 160
"""The maximum width and height of a thumbnail, in pixels."""


ReadSource: TypeAlias = Callable[[str], tuple[bytes, str]]
"""Returns the bytes and the name of a source, by its path."""


def write_gallery(
    rows: Iterable[OutputRow],
    outputs: Outputs,
    read_source: ReadSource,
    *,
    is_stopped: Callable[[], bool] = lambda: False,
) -> int:
    """Write all pages and thumbnails, and return the number of pages.

    Thumbnails that exist are kept, since their names are hashes of the images they show. So a
    gallery that was stopped early is completed quickly by writing it again.

    Args:
        rows: The rows of the manifest, in order.
        outputs: Where to write.
        read_source: Reads a source.
        is_stopped: Returns True once no more sources should be shown.

    Raises:
        OutputError: If a file cannot be written.
    """
    pages = 0
    sections: list[str] = []
    images = 0
    # A page is written once the next one begins, because it links to it.
    for _, group in groupby(rows, key=lambda row: (row["source_path"], row["source_sha256"])):
        if is_stopped():
            break
        source_rows = list(group)
        if images + len(source_rows) > IMAGES_PER_PAGE and sections:
            pages += 1
            _write_page(pages, sections, has_next=True, outputs=outputs)
            sections, images = [], 0
        sections.append(_section_html(source_rows, outputs, read_source))
        images += len(source_rows)
    pages += 1
    _write_page(pages, sections, has_next=False, outputs=outputs)
    # An earlier run may have written more pages.
    obsolete_page = pages + 1
    while outputs.has(f"{GALLERY_DIR}/{_page_name(obsolete_page)}"):
        outputs.remove(f"{GALLERY_DIR}/{_page_name(obsolete_page)}")
        obsolete_page += 1
    return pages


def _write_page(number: int, sections: list[str], *, has_next: bool, outputs: Outputs) -> None:
    links = []
    if number > 1:
        links.append(f'<a href="{_page_name(number - 1)}" rel="prev">previous page</a>')
    if has_next:
        links.append(f'<a href="{_page_name(number + 1)}" rel="next">next page</a>')
    html = _PAGE.format(
        number=number, side=THUMBNAIL_SIDE, links=" ".join(links), sections="\n".join(sections)
    )
    outputs.write_all({f"{GALLERY_DIR}/{_page_name(number)}": html.encode()})


def _page_name(number: int) -> str:
    return "index.html" if number == 1 else f"page-{number}.html"


def _section_html(rows: list[OutputRow], outputs: Outputs, read_source: ReadSource) -> str:
    source = _source_html(rows[0], outputs, read_source)
    results = "".join(_result_html(row, outputs) for row in rows)
    title = escape(rows[0]["source_path"] or "")
    return f"<section><h2>{title}</h2>{source}{results}</section>"


def _source_html(row: OutputRow, outputs: Outputs, read_source: ReadSource) -> str:
    digest = row["source_sha256"]
    if digest is None:
        return ""

    def read_unchanged() -> bytes:
        try:
            data, _ = read_source(row["source_path"])
        except ImageVariationError:
            # The package for its URL may no longer be installed.
            return b""
        # If the source changed since, the variations are not of its current content.
        return data if hashlib.sha256(data).hexdigest() == digest else b""

    return _figure_html(_make_thumbnail(digest, read_unchanged, outputs), None, "source")


def _result_html(row: OutputRow, outputs: Outputs) -> str:
    if row["error"] is not None:
        return f"<p>{escape(row['error'])}</p>"
    path = row["output_path"]
    thumbnail = _make_thumbnail(row["output_sha256"], lambda: outputs.read(path) or b"", outputs)
    seed = "" if row["seed"] is None else f", seed {row['seed']}"
    return _figure_html(thumbnail, f"../{path}", f"{row['index']}{seed}")


def _figure_html(thumbnail: str | None, target: str | None, caption: str) -> str:
    content = "<p>image not available</p>"
    if thumbnail is not None:
        content = f'<img src="{quote(thumbnail)}" alt="{escape(caption)}" loading="lazy">'
    if target is not None:
        content = f'<a href="{quote(target)}">{content}</a>'
    return f"<figure>{content}<figcaption>{escape(caption)}</figcaption></figure>"


def _make_thumbnail(digest: str, read: Callable[[], bytes], outputs: Outputs) -> str | None:
    """Return the relative URL of a thumbnail, or None if the image is not available.

    Args:
        digest: The SHA-256 of the image's bytes, in hex.
        read: Returns the image's bytes. It is called if there is no thumbnail yet.
        outputs: Where to write the thumbnail.

    Raises:
        OutputError: If the thumbnail cannot be written.
    """
    name = f"thumbnails/{digest[:2]}/{digest[:24]}.jpg"
    if outputs.has(f"{GALLERY_DIR}/{name}"):
        return name
    try:
        thumbnail = _shrink(read())
    except InvalidRequestError:
        return None
    outputs.write_all({f"{GALLERY_DIR}/{name}": thumbnail})
    return name


def _shrink(data: bytes) -> bytes:
    """Return a thumbnail of an image as a JPEG file.

    Raises:
        SourceError: If the file is not an image.
        InvalidImageError: If the image is corrupt, or too expensive to decode.
    """
    with translate_decoder_errors(lambda: SourceError("The file is not an image.")):
        with open_source(data) as image:
            # Decodes a JPEG at a reduced size. For HEIC, it would use a thumbnail that may differ.
            if image.format != "HEIF":
                image.draft("RGB", (2 * THUMBNAIL_SIDE, 2 * THUMBNAIL_SIDE))
            thumbnail = normalize(image, min_side=2 * THUMBNAIL_SIDE)
        thumbnail.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        flatten(thumbnail).convert("RGB").save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


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
