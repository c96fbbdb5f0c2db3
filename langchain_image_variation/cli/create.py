"""`image-variation create`: makes variations of one or more images."""

import argparse
import sys
from contextlib import closing
from typing import get_args

from langchain_image_variation.cli.create_run import CreateRun
from langchain_image_variation.cli.engine_options import add_engine
from langchain_image_variation.cli.exit_codes import SOME_FAILED, exit_after_signal, signal_code
from langchain_image_variation.cli.interrupts import Interrupts
from langchain_image_variation.cli.options import add_fit, add_n, add_quiet, add_size, whole_number
from langchain_image_variation.cli.output_dir import OUTPUT_DIR, add_output_dir
from langchain_image_variation.cli.photo import STREAM, photo_stem
from langchain_image_variation.cli.progress import show_progress_bar
from langchain_image_variation.cli.request_file import use_request_file
from langchain_image_variation.cli.viewer import open_files
from langchain_image_variation.contract import MAX_N, SIZES, ResponseFormat
from langchain_image_variation.exceptions import InvalidRequestError
from langchain_image_variation.numbers import check_whole_number
from langchain_image_variation.output.file_format import DEFAULT_QUALITY, FORMATS, FileFormat
from langchain_image_variation.output.names import DEFAULT_TEMPLATE, NameTemplate

__all__ = ["add_create"]

_RESPONSE_STYLES = ("json", "jsonl", "yaml", "raw")
"""How the response can be printed. The vendor's command has the same names."""

_EXAMPLES = """examples:
  image-variation create photo.jpg -n 4
  image-variation create *.jpg -o out --name "{stem}-{index}" --format jpeg
  curl -s https://example.com/cat.png | image-variation create - -o - > variation.png
"""


def add_create(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `create`."""
    parser.description = "Make variations of one or more images."
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add(
        "photos",
        nargs="*",
        metavar="PHOTO",
        help="an image: a PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF or HEIC file, or - for standard "
        "input; without it, a request as YAML or JSON is read from there",
    )
    add_n(parser)
    add_size(parser)
    add_fit(parser)
    add(
        "--allow-host",
        action="append",
        metavar="HOST",
        help="allow PHOTO to be an https URL on this host; repeatable",
    )
    add_quiet(parser, "print only file names and errors, without progress, notes or seed")
    _add_files(parser)
    add_engine(parser)
    add = parser.add_argument_group("request").add_argument
    add(
        "--request",
        metavar="FILE",
        help="a file with fields of the endpoint, such as n and size, as YAML or JSON, or - for "
        "standard input; options and PHOTO take precedence",
    )
    add("--user", help="an ID for the end user, for hosted engines")
    add(
        "--api-key",
        metavar="KEY",
        help="the key of a hosted engine. Prefer its environment variable: other users can see "
        "options in the process list",
    )
    add(
        "--json",
        action="store_true",
        help="print the JSON response, with the engine and its model, instead of file names",
    )
    add(
        "--response-format",
        choices=(*get_args(ResponseFormat), "null"),
        help="with --json or --format json, jsonl, yaml or raw: the form of the images (default: "
        "url)",
    )
    # A request in a file may set them, unless they are passed.
    parser.set_defaults(run=_run_create, parser=parser, n=None, size=None)


def _add_files(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("files")
    add = group.add_argument
    add_output_dir(
        group,
        "the folder for the results, or - to write one image to standard output (default: "
        f"{OUTPUT_DIR}; none with --json)",
    )
    add(
        "--name",
        default=DEFAULT_TEMPLATE,
        metavar="TEMPLATE",
        help="the names of the files, with the fields {stem}, {index}, {seed} and {hash} "
        f"(default: {DEFAULT_TEMPLATE})",
    )
    add(
        "--format",
        choices=(*FORMATS, *_RESPONSE_STYLES),
        default="png",
        help="the format of the files (default: png). To print the response instead: json (as "
        "--json), jsonl (JSON in one line), yaml, or raw (JSON without engine, model and note)",
    )
    add(
        "--quality",
        type=whole_number,
        metavar="Q",
        help=f"the quality of JPEG and WebP files, 1 to 100 (default: {DEFAULT_QUALITY})",
    )
    add("--no-sheet", action="store_true", help="write no contact sheet")
    add(
        "--open",
        action="store_true",
        help="open the contact sheet, or with --no-sheet the images, in your image viewer",
    )


def _run_create(arguments: argparse.Namespace) -> int:
    _complete(arguments)
    _check(arguments)
    interrupts = Interrupts("Keeping the images that are finished or paid for.")
    with (
        exit_after_signal(interrupts),
        show_progress_bar(_descriptions(arguments), quiet=arguments.quiet) as bar,
        closing(CreateRun(arguments, bar, interrupts)) as run,
    ):
        failures = run.vary_all()
    if interrupts.signal is not None:
        return signal_code(interrupts.signal)
    if arguments.open and not open_files(run.files_to_open):
        print(
            "The files were not opened: this machine has no display or image viewer.",
            file=sys.stderr,
        )
    return SOME_FAILED if failures else 0


def _complete(arguments: argparse.Namespace) -> None:
    """Fill in what the command line leaves to a request in a file or to defaults.

    Raises:
        InvalidRequestError: See `use_request_file`.
    """
    use_request_file(arguments)
    if arguments.response_format == "null":
        arguments.response_format = None
    arguments.n = 1 if arguments.n is None else arguments.n
    arguments.size = SIZES[-1] if arguments.size is None else arguments.size
    arguments.response_style = "json" if arguments.json else None
    # The option that messages name.
    arguments.response_option = "--json"
    if arguments.format in _RESPONSE_STYLES:
        arguments.response_option = f"--format {arguments.format}"
        arguments.response_style, arguments.format = arguments.format, "png"
        arguments.json = True


def _check(arguments: argparse.Namespace) -> None:
    """Refuse options that cannot be combined, before anything is read or made.

    Raises:
        InvalidRequestError: If two of them cannot be combined.
    """
    photos: list[str] = arguments.photos
    n = check_whole_number("--n", arguments.n, 1, MAX_N)
    response_option: str = arguments.response_option
    if arguments.json and arguments.output_dir is None:
        for option, is_set in (
            (f"--format {arguments.format}", arguments.format != "png"),
            ("--quality", arguments.quality is not None),
            ("--name", arguments.name != DEFAULT_TEMPLATE),
            ("--open", arguments.open),
        ):
            if is_set:
                raise InvalidRequestError(
                    f"{option} is for files, and {response_option} writes none without -o DIR."
                )
    FileFormat(arguments.format, arguments.quality)
    NameTemplate(arguments.name).check([photo_stem(photo) for photo in photos], n)
    if photos.count(STREAM) > 1:
        raise InvalidRequestError("Standard input is one image; pass - only once.")
    if arguments.response_format is not None and not arguments.json:
        is_field = "response_format" in arguments.request_fields
        name = '"response_format" of the request' if is_field else "response_format"
        raise InvalidRequestError(
            f"{name} applies only to a printed response. Add --json, or --format json, "
            "jsonl, yaml or raw.",
            param="response_format",
        )
    if arguments.json and len(photos) > 1:
        raise InvalidRequestError(
            f"{response_option} prints the response for one image; pass one PHOTO."
        )
    if arguments.output_dir == STREAM:
        _check_stream(arguments)


def _check_stream(arguments: argparse.Namespace) -> None:
    """Refuse options that cannot be combined with `-o -`.

    Raises:
        InvalidRequestError: If one is set, or standard output cannot take the image.
    """
    if arguments.json:
        raise InvalidRequestError(
            f"-o - writes the image to standard output, where {arguments.response_option} prints "
            "the response. Choose one."
        )
    for option, is_set in (
        ("--open", arguments.open),
        ("--name", arguments.name != DEFAULT_TEMPLATE),
    ):
        if is_set:
            raise InvalidRequestError(f"-o - writes no files, so {option} cannot be used with it.")
    image_count = arguments.n * len(arguments.photos)
    if image_count > 1:
        raise InvalidRequestError(
            f"-o - writes one image to standard output, but this makes {image_count}. "
            "Pass -o DIR for files."
        )
    if sys.stdout.isatty():
        raise InvalidRequestError(
            "Standard output is a terminal, which cannot show an image. Redirect it, as in "
            f"-o - > image{FileFormat(arguments.format).suffix}."
        )


def _descriptions(arguments: argparse.Namespace) -> list[str]:
    """Return the text of the progress bar for each image."""
    photos, n = arguments.photos, arguments.n
    if len(photos) == 1:
        return ["1 variation" if n == 1 else f"{n} variations"]
    return [f"{number}/{len(photos)} {photo_stem(photo)}" for number, photo in enumerate(photos, 1)]
