"""`image-variation create`: makes variations of one or more images."""

import argparse
import json
import os
import secrets
import sys
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from langchain_image_variation.batch.variation_batch import FATAL_ERRORS
from langchain_image_variation.cli.download import download_model
from langchain_image_variation.cli.engine_options import (
    add_engine,
    collect_engine_options,
    requested_model,
    resolve_auto,
)
from langchain_image_variation.cli.exit_codes import SOME_FAILED
from langchain_image_variation.cli.messages import display_name, name_options, name_path
from langchain_image_variation.cli.options import add_fit, add_n, add_quiet, add_size
from langchain_image_variation.cli.output_dir import OUTPUT_DIR, add_output_dir, make_output_folder
from langchain_image_variation.cli.piped_request import use_piped_request
from langchain_image_variation.cli.progress import ProgressBar, show_progress_bar
from langchain_image_variation.cli.viewer import open_files
from langchain_image_variation.contract import (
    MAX_N,
    SIZES,
    CreateImageVariationRequest,
    ImagesResponse,
    ResponseFormat,
)
from langchain_image_variation.engines.auto import AUTO
from langchain_image_variation.engines.call import call_engine
from langchain_image_variation.engines.context import ProgressListener
from langchain_image_variation.engines.loading import load_engine_class, make_engine
from langchain_image_variation.engines.traits import (
    close_engine,
    engine_options,
    has_costly_seeds,
)
from langchain_image_variation.exceptions import (
    ImageVariationError,
    InvalidRequestError,
    SourceError,
)
from langchain_image_variation.numbers import check_whole_number
from langchain_image_variation.output import cut_back, save_images
from langchain_image_variation.output.contact_sheet import ContactSheet
from langchain_image_variation.output.file_format import DEFAULT_QUALITY, FORMATS, FileFormat
from langchain_image_variation.output.names import DEFAULT_TEMPLATE, NameTemplate
from langchain_image_variation.source import Source, load_source

if TYPE_CHECKING:
    from langchain_image_variation.engines import VariationEngine
    from langchain_image_variation.http.url_policy import URLPolicy

__all__ = ["add_create"]

_STREAM = "-"
"""Stands for standard input as an image, and for standard output as the output folder."""

_RESPONSE_STYLES = ("json", "jsonl", "yaml", "raw")
"""How the response can be printed. The vendor's command has the same names."""

_SEED_BITS = 31

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
    # A request on standard input may set them, unless they are passed.
    parser.set_defaults(run=_create, parser=parser, n=None, size=None)


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
        type=int,
        metavar="Q",
        help=f"the quality of JPEG and WebP files, 1 to 100 (default: {DEFAULT_QUALITY})",
    )
    add("--no-sheet", action="store_true", help="write no contact sheet")
    add(
        "--open",
        action="store_true",
        help="open the contact sheet, or with --no-sheet the images, in your image viewer",
    )


def _create(arguments: argparse.Namespace) -> int:
    _complete(arguments)
    _check(arguments)
    with (
        show_progress_bar(_descriptions(arguments), quiet=arguments.quiet) as bar,
        closing(_Run(arguments, bar)) as run,
    ):
        failures = run.vary_all()
    if arguments.open and not open_files(run.files_to_open):
        print(
            "The files were not opened: this machine has no display or image viewer.",
            file=sys.stderr,
        )
    return SOME_FAILED if failures else 0


def _complete(arguments: argparse.Namespace) -> None:
    """Set what the command line leaves to a request on standard input or to defaults.

    Raises:
        InvalidRequestError: If standard input is not a request.
    """
    use_piped_request(arguments)
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
        InvalidRequestError: If they cannot.
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
    NameTemplate(arguments.name).check([_stem(photo) for photo in photos], n)
    if photos.count(_STREAM) > 1:
        raise InvalidRequestError("Standard input is one image; pass - only once.")
    if arguments.response_format is not None and not arguments.json:
        raise InvalidRequestError(
            "response_format applies only to a printed response. Add --json, or --format json, "
            "jsonl, yaml or raw.",
            param="response_format",
        )
    if arguments.json and len(photos) > 1:
        raise InvalidRequestError(
            f"{response_option} prints the response for one image; pass one PHOTO."
        )
    if arguments.output_dir == _STREAM:
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
    return [f"{number}/{len(photos)} {_stem(photo)}" for number, photo in enumerate(photos, 1)]


def _stem(photo: str) -> str:
    return "stdin" if photo == _STREAM else Path(photo).stem


class _Run:
    """One run of the command. Its images share the engine, the folder and the progress bar.

    Args:
        arguments: The arguments of the command, checked.
        bar: Shows the progress of the run.
    """

    def __init__(self, arguments: argparse.Namespace, bar: ProgressBar) -> None:
        self.files_to_open: list[Path] = []
        self._arguments = arguments
        self._photos: list[str] = arguments.photos
        self._bar = bar
        self._seed: int | None = None
        self._is_auto = arguments.engine == AUTO
        self._model: str | None = None
        self._engine_note: str | None = None

    def vary_all(self) -> int:
        """Vary each image and print its results. Return how many images failed.

        Raises:
            ImageVariationError: If the only image fails, or an error would repeat for each image.
        """
        failures = 0
        urls = _urls(self._arguments)
        for photo in self._photos:
            listener = self._bar.start()
            try:
                source = _load(photo, self._arguments, urls)
            except ImageVariationError as error:
                error.message = _name_source(error.message, photo)
                self._report(error, display_name(photo))
                failures += 1
            else:
                # Created now, so that a wrong option causes one error instead of one per image.
                engine, folder = self._engine, self._folder
                try:
                    self._vary(source, engine, folder, listener)
                except FATAL_ERRORS:
                    raise
                except ImageVariationError as error:
                    if len(self._photos) == 1:
                        raise
                    self._report(error, display_name(photo))
                    failures += 1
            self._bar.finish()
        has_results = failures < len(self._photos)
        if self._model not in (None, self._arguments.engine):
            self._print_note(f"Made by {self._arguments.engine} with the model {self._model}.")
        if has_results and self._seed is not None and self._arguments.seed is None:
            # Tomorrow, another engine may be the best one.
            options = f"--engine {self._arguments.engine} " if self._is_auto else ""
            self._print_note(f"Make these again with {options}--seed {self._seed}.")
        return failures

    def _report(self, error: ImageVariationError, name: str) -> None:
        """Print the error of one of several images.

        Raises:
            ImageVariationError: The error itself, if there is only one image.
        """
        message = name_options(error.message, self._arguments)
        quoted_name = name if name.startswith(("'", '"')) else repr(name)
        is_named = quoted_name in message or message.startswith("Standard input ")
        error.message = message if is_named else f"{name}: {message}"
        if len(self._photos) == 1:
            raise error
        with self._bar.hidden():
            print(f"image-variation: {error.message}", file=sys.stderr)

    def close(self) -> None:
        """Close the engine, if it was needed."""
        if "_engine" in vars(self):
            close_engine(self._engine)

    @cached_property
    def _engine(self) -> "VariationEngine":
        arguments = self._arguments
        if note := resolve_auto(arguments):
            self._print_note(note)
        engine_class = load_engine_class(arguments.engine)
        has_seeds = "seed" in engine_options(engine_class)
        options = collect_engine_options(arguments)
        if arguments.api_key is not None:
            options["api_key"] = arguments.api_key
        names_seeds = "seed" in NameTemplate(arguments.name).fields
        if names_seeds and not has_seeds:
            raise InvalidRequestError(
                f"--name has {{seed}}, but the engine {arguments.engine!r} has no seeds."
            )
        is_drawn = len(self._photos) > 1 and not has_costly_seeds(engine_class)
        if has_seeds and "seed" not in options and (names_seeds or is_drawn):
            # With one seed for all images, one command makes all of them again.
            self._seed = options["seed"] = secrets.randbits(_SEED_BITS)
        engine = make_engine(arguments.engine, engine_class, options)
        download_model(engine, quiet=arguments.quiet)
        return engine

    @cached_property
    def _folder(self) -> Path | None:
        directory: str | None = self._arguments.output_dir
        if directory == _STREAM or (directory is None and self._arguments.json):
            return None
        return make_output_folder(OUTPUT_DIR if directory is None else directory)

    def _vary(
        self,
        source: Source,
        engine: "VariationEngine",
        folder: Path | None,
        listener: ProgressListener,
    ) -> None:
        arguments = self._arguments
        model: Any = requested_model(arguments)
        request = CreateImageVariationRequest(
            image=source.png,
            model=model,
            n=arguments.n,
            response_format=arguments.response_format,
            size=arguments.size,
            user=arguments.user,
        )
        response = cut_back(call_engine(engine, request, progress=listener), source)
        # Notes are printed only now, so that an error is the only line of output.
        if source.note:
            self._print_note(source.note)
        if response.note and response.note != self._engine_note:
            # It is usually the same for all images. If it is not, it is about this one.
            is_about_one = self._engine_note is not None
            self._print_note(f"{source.name}: {response.note}" if is_about_one else response.note)
            self._engine_note = response.note
        self._model = response.model
        self._seed = response.data[0].seed if self._seed is None else self._seed
        paths = [] if folder is None else self._save(source, response, folder)
        with self._bar.hidden():
            if arguments.json:
                print(self._text(response), flush=True)
            elif folder is None:
                data, _ = self._file_format.convert(response.data[0].read())
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
            else:
                print(*paths, sep="\n", flush=True)

    def _text(self, response: ImagesResponse) -> str:
        """Return the response as text, with what does not go on the wire unless it is raw."""
        style = self._arguments.response_style
        if style == "raw":
            return response.to_json().rstrip("\n")
        facts = {
            "engine": self._arguments.engine,
            "model": response.model,
            "note": response.note,
        }
        named_facts = {name: value for name, value in facts.items() if value is not None}
        content = json.loads(response.to_json()) | named_facts
        if style == "yaml":
            # Imported here because few runs need it.
            import yaml

            text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
            return text.rstrip("\n")
        return json.dumps(content, indent=None if style == "jsonl" else 2)

    def _save(self, source: Source, response: ImagesResponse, folder: Path) -> list[Path]:
        arguments = self._arguments
        style: dict[str, Any] = {
            "name": source.name,
            "template": arguments.name,
            "format": arguments.format,
            "quality": arguments.quality,
        }
        images = [image.path for image in save_images(response, folder, **style)]
        if arguments.no_sheet:
            self.files_to_open += images
            return images
        sheet = ContactSheet(source, response).save(folder, **style)
        self.files_to_open.append(sheet)
        return [*images, sheet]

    @property
    def _file_format(self) -> FileFormat:
        return FileFormat(self._arguments.format, self._arguments.quality)

    def _print_note(self, note: str) -> None:
        if not self._arguments.quiet:
            with self._bar.hidden():
                print(note, file=sys.stderr)


def _load(photo: str, arguments: argparse.Namespace, urls: "URLPolicy | None") -> Source:
    """Load an image.

    Raises:
        ImageVariationError: See `load_source`.
    """
    if photo == _STREAM:
        if sys.stdin is None or sys.stdin.isatty():
            raise SourceError(
                "- reads an image from standard input; pipe or redirect a file into it."
            )
        return load_source(sys.stdin.buffer, fit=arguments.fit, name="stdin")
    if os.path.isdir(photo):
        raise SourceError(
            f"{photo!r} is a folder. Pass images, or use `image-variation batch`, which varies "
            "whole folders."
        )
    return load_source(photo, fit=arguments.fit, urls=urls)


def _name_source(message: str, photo: str) -> str:
    if photo == _STREAM:
        return message.replace("The source", "Standard input", 1)
    return name_path(message, photo)


def _urls(arguments: argparse.Namespace) -> "URLPolicy | None":
    if arguments.allow_host is None:
        return None
    # Imported here because few runs need it, and httpx is slow to import.
    from langchain_image_variation.http.url_policy import URLPolicy

    return URLPolicy(hosts=arguments.allow_host)
