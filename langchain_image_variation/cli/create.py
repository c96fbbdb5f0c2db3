"""`image-variation create`: makes variations of one image."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from tqdm import tqdm

from langchain_image_variation.cli.options import (
    OUTPUT_DIR,
    add_engine,
    add_fit,
    engine_options,
    make_output_folder,
)
from langchain_image_variation.contract import (
    MAX_N,
    SIZES,
    CreateImageVariationRequest,
    ImagesResponse,
    ResponseFormat,
)
from langchain_image_variation.engines.call import call_engine
from langchain_image_variation.engines.context import Progress
from langchain_image_variation.engines.loading import load_engine
from langchain_image_variation.engines.traits import close_engine
from langchain_image_variation.output import ContactSheet, cut_back, save_images
from langchain_image_variation.source import Source, load_source

if TYPE_CHECKING:
    from langchain_image_variation.http.url_policy import URLPolicy

__all__ = ["add_create"]


def add_create(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `create`."""
    add = parser.add_argument
    add(
        "--image",
        required=True,
        metavar="PHOTO",
        help="the image: a PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF or HEIC file",
    )
    add(
        "--allow-host",
        action="append",
        metavar="HOST",
        help="allow PHOTO to be an https URL on this host; repeatable",
    )
    add("--n", type=int, metavar="N", help=f"number of variations, 1 to {MAX_N} (default: 1)")
    add("--size", help=f"size in pixels: {', '.join(SIZES)} (default: {SIZES[-1]})")
    add(
        "--response-format",
        help=f"with --json: {' or '.join(get_args(ResponseFormat))} (default: url)",
    )
    add("--model", help="one of the engine's models (default: dall-e-2)")
    add("--user", help="an ID for the end user, for hosted engines")
    add_engine(parser)
    add_fit(parser)
    add(
        "--output-dir",
        metavar="DIR",
        help=f"folder for the results (default: {OUTPUT_DIR}; none with --json)",
    )
    add("--json", action="store_true", help="print the JSON response instead of file names")
    parser.set_defaults(run=_create)


def _create(arguments: argparse.Namespace) -> None:
    source = load_source(arguments.image, fit=arguments.fit, urls=_urls(arguments))
    request = CreateImageVariationRequest(
        image=source.png,
        model=arguments.model,
        n=arguments.n,
        response_format=arguments.response_format,
        size=arguments.size,
        user=arguments.user,
    )
    folder = _output_folder(arguments)
    engine = load_engine(arguments.engine, **engine_options(arguments))
    try:
        with _progress_bar(request.n) as show:
            response = cut_back(call_engine(engine, request, progress=show), source)
    finally:
        close_engine(engine)
    # Printed only now, so that an error is the only line of output.
    if source.note:
        print(source.note, file=sys.stderr)
    seed = response.data[0].seed if response.data else None
    if seed is not None and arguments.seed is None:
        print(f"Make these again with --seed {seed}.", file=sys.stderr)
    paths = [] if folder is None else _save(source, response, folder)
    if arguments.json:
        print(response.to_json(), end="")
    else:
        print(*paths, sep="\n")


def _urls(arguments: argparse.Namespace) -> "URLPolicy | None":
    if arguments.allow_host is None:
        return None
    # Imported here because few runs need it, and httpx is slow to import.
    from langchain_image_variation.http.url_policy import URLPolicy

    return URLPolicy(hosts=arguments.allow_host)


def _output_folder(arguments: argparse.Namespace) -> Path | None:
    directory: str | None = arguments.output_dir
    if directory is None and arguments.json:
        return None
    return make_output_folder(OUTPUT_DIR if directory is None else directory)


@contextmanager
def _progress_bar(n: int) -> Iterator[Callable[[Progress], None]]:
    """Show a bar on a terminal while the block runs. The callback updates it."""
    with tqdm(
        desc="1 variation" if n == 1 else f"{n} variations",
        total=1.0,
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
        leave=False,
        bar_format="{desc}: {percentage:3.0f}% |{bar}| {elapsed}",
    ) as bar:

        def show(progress: Progress) -> None:
            bar.update(progress.share - bar.n)

        yield show


def _save(source: Source, response: ImagesResponse, folder: Path) -> list[Path]:
    saved_images = save_images(response, folder, name=source.name)
    sheet = ContactSheet(source, response).save(folder, name=source.name)
    return [*(image.path for image in saved_images), sheet]
