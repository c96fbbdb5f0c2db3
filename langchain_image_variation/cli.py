"""The command line: `image-variation create`, `image-variation serve`, `image-variation engines`.

Results go to standard output; notes, progress and errors to standard error. Exit codes: 0 done,
2 bad input or usage, 1 an engine's or an output's failure. Interrupting the program gives 130.
"""

import argparse
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import getdoc, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from tqdm import tqdm

from langchain_image_variation import __version__
from langchain_image_variation.contract import (
    MAX_N,
    SIZES,
    CreateImageVariationRequest,
    ImagesResponse,
    ResponseFormat,
)
from langchain_image_variation.engines import (
    call_engine,
    engine_names,
    load_engine,
    load_engine_class,
)
from langchain_image_variation.exceptions import (
    ImageVariationError,
    InvalidRequestError,
    MissingExtraError,
    OutputError,
)
from langchain_image_variation.output import ContactSheet, make_output_dir, save_images
from langchain_image_variation.source import Fit, Source, load_source

if TYPE_CHECKING:
    from langchain_image_variation.http.fetch import URLPolicy

__all__ = ["main"]

_OUTPUT_DIR = "variations"
_ENGINE_OPTIONS = ("seed", "strength", "light", "server", "base_url", "prompt")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: The arguments after the program's name; by default those of the process.

    Raises:
        KeyboardInterrupt: If the user interrupts. No file is half-written then.
    """
    # Pillow's warning about a broken file would stand beside our own line about it.
    warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
    _mend_streams()
    try:
        arguments = _parser().parse_args(argv)
        run: Callable[[argparse.Namespace], None] = arguments.run
        run(arguments)
        sys.stdout.flush()
        return 0
    except SystemExit as stop:
        return int(stop.code or 0)
    except ImageVariationError as error:
        print(f"image-variation: {error}", file=sys.stderr)
        return 2 if isinstance(error, InvalidRequestError) else 1
    except OSError as error:
        # Only standard output is written without an error of our own. Without this, Python tries
        # to write the rest again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            # Whoever reads our output has enough.
            return 0
        print(f"image-variation: cannot write the output: {error.strerror}.", file=sys.stderr)
        return 1


def _mend_streams() -> None:
    """Make printing safe when a stream is closed or cannot show every character."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line; argparse would print the whole usage first."""
        line = " ".join(message.split())
        line = line if len(line) <= 200 else line[:200] + "..."
        self.exit(2, f"{self.prog}: {line}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="image-variation",
        description="Make variations of a picture, on this machine, without a key.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_create(commands.add_parser("create", help="make variations of a picture"))
    _add_serve(commands.add_parser("serve", help="serve POST /v1/images/variations"))
    engines = commands.add_parser("engines", help="list the engines and whether they are usable")
    engines.set_defaults(run=_engines)
    return parser


def _add_create(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--image",
        required=True,
        metavar="PHOTO",
        help="the picture: PNG, JPEG, WebP, GIF, BMP or TIFF",
    )
    add(
        "--allow-host",
        action="append",
        metavar="HOST",
        help="let PHOTO be an https URL of this host; may be given more than once",
    )
    add("--n", type=int, metavar="N", help=f"how many variations, 1 to {MAX_N} (default: 1)")
    add("--size", help=f"{', '.join(SIZES)} pixels (default: {SIZES[-1]})")
    add("--response-format", help=f"with --json: {' or '.join(get_args(ResponseFormat))}")
    add("--model", help="a model, by the engine's own names (default: dall-e-2)")
    add("--user", help="an identifier of the end user, for hosted engines")
    _add_engine(parser)
    add(
        "--fit",
        choices=get_args(Fit),
        default="crop",
        help="what to do with a picture that is no square PNG under 4 MB (default: crop)",
    )
    add(
        "--output-dir",
        metavar="DIR",
        help=f"where to write (default: {_OUTPUT_DIR}; with --json: nowhere)",
    )
    add("--json", action="store_true", help="print the contract's JSON instead of file names")
    parser.set_defaults(run=_create)


def _add_engine(parser: argparse.ArgumentParser) -> None:
    """Add which engine to use, and what it is told."""
    add = parser.add_argument
    add("--engine", default="local", help="see `image-variation engines` (default: local)")
    add("--seed", type=int, help="make the same variations again")
    add("--strength", type=float, help="0 (nearly a copy) to 1 (default: 0.5)")
    add(
        "--light",
        action=argparse.BooleanOptionalAction,
        help="vary tone and colour a little too (default: yes)",
    )
    add("--server", help="with --engine variations: deepinfra, lemonade, stdapi or xinference")
    add("--base-url", metavar="URL", help="with a hosted engine: where its server is")
    add("--prompt", help="with --engine gpt-image: what to tell the model")


def _add_serve(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _add_engine(parser)
    add("--host", default="127.0.0.1", help="the address to listen at (default: 127.0.0.1)")
    add("--port", type=int, default=8000, help="the port; 0 takes a free one (default: 8000)")
    add(
        "--api-key",
        metavar="KEY",
        default=os.environ.get("IMAGE_VARIATION_API_KEY") or None,
        help="the key clients must send; better set IMAGE_VARIATION_API_KEY, which is not listed",
    )
    add(
        "--url-ttl",
        type=float,
        default=3600.0,
        metavar="SECONDS",
        help="how long the address of a result works (default: 3600)",
    )
    add("--public-url", metavar="URL", help="what addresses of results begin with, behind a proxy")
    add(
        "--workers",
        type=int,
        metavar="N",
        help="engine calls at once, in threads of the one process (default: the cores)",
    )
    add("--queue", type=int, default=16, metavar="N", help="requests that wait (default: 16)")
    add("--store-dir", metavar="DIR", help="where pictures given as addresses are kept")
    add(
        "--upload-timeout",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how long a request may take to come in (default: 60)",
    )
    add("--json-log", action="store_true", help="log lines as JSON")
    parser.set_defaults(run=_serve)


def _serve(arguments: argparse.Namespace) -> None:
    # Only here: the server is an extra.
    with _extra("server"):
        from langchain_image_variation.server import create_app
        from langchain_image_variation.server.run import run_app
    engine = load_engine(arguments.engine, **_engine_options(arguments))
    app = create_app(
        engine,
        api_key=arguments.api_key,
        url_ttl=arguments.url_ttl,
        public_url=arguments.public_url,
        workers=arguments.workers,
        queue=arguments.queue,
        store_dir=arguments.store_dir,
        upload_timeout=arguments.upload_timeout,
        json_log=arguments.json_log,
    )
    _log_to_stderr("%(message)s" if arguments.json_log else "%(asctime)s %(message)s")
    run_app(app, host=arguments.host, port=arguments.port, ready=_say_where(arguments.api_key))


def _log_to_stderr(form: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(form))
    logger = logging.getLogger("langchain_image_variation.server")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _say_where(api_key: str | None) -> Callable[[str], None]:
    """Return what says, once the server listens, how to use it."""

    def say(address: str) -> None:
        print(f"Image variations at {address}/v1. Ctrl-C ends. In a client's environment, set:")
        print(f"  OPENAI_BASE_URL={address}/v1")
        print(f"  OPENAI_API_BASE={address}/v1 (SDK 0.28 for Python)")
        print(f"  OPENAI_API_KEY={'the key' if api_key else 'any-text'}")
        if api_key is None:
            print("There is no key: anyone who reaches this address may use it.")
        sys.stdout.flush()

    return say


@contextmanager
def _extra(name: str) -> Iterator[None]:
    try:
        yield
    except MissingExtraError:
        raise
    except ImportError as error:
        raise MissingExtraError(
            f"This needs the package {error.name!r}, which is not installed; run: pip install "
            f"'langchain-image-variation[{name}]'"
        ) from None


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
    directory = _output_dir(arguments)
    with _progress(request.n) as progress:
        options = _engine_options(arguments)
        if "progress" in signature(load_engine_class(arguments.engine)).parameters:
            options["progress"] = progress
        engine = load_engine(arguments.engine, **options)
        try:
            response = call_engine(engine, request)
        finally:
            getattr(engine, "close", lambda: None)()
    # Notes wait until nothing can be wrong with the input any more: an error is one line alone.
    if source.note:
        print(source.note, file=sys.stderr)
    seed = response.data[0].seed if response.data else None
    if seed is not None and arguments.seed is None:
        print(f"Make these again with --seed {seed}.", file=sys.stderr)
    paths = [] if directory is None else _save(source, response, directory)
    if arguments.json:
        print(response.to_json(), end="")
    else:
        print(*paths, sep="\n")


def _urls(arguments: argparse.Namespace) -> "URLPolicy | None":
    if arguments.allow_host is None:
        return None
    # Only here, since httpx takes long to import, and few runs need it.
    from langchain_image_variation.http.fetch import URLPolicy

    return URLPolicy(hosts=arguments.allow_host)


def _output_dir(arguments: argparse.Namespace) -> Path | None:
    """Make the output folder before any work is done, so that none is lost."""
    named: str | None = arguments.output_dir
    if named is None and arguments.json:
        return None
    if named == "":
        raise InvalidRequestError("--output-dir is empty; name a folder.", param="output_dir")
    try:
        return make_output_dir(named or _OUTPUT_DIR)
    except OutputError as error:
        raise InvalidRequestError(error.message, param="output_dir") from None


def _engine_options(arguments: argparse.Namespace) -> dict[str, Any]:
    named = {name: getattr(arguments, name) for name in _ENGINE_OPTIONS}
    return {name: value for name, value in named.items() if value is not None}


@contextmanager
def _progress(n: int) -> Iterator[Callable[[float], None]]:
    """Show a bar on a terminal while the block runs; the callback takes the fraction done."""
    pictures = "1 variation" if n == 1 else f"{n} variations"
    with tqdm(
        desc=pictures,
        total=1.0,
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
        leave=False,
        bar_format="{desc}: {percentage:3.0f}% |{bar}| {elapsed}",
    ) as bar:

        def show(fraction: float) -> None:
            bar.update(fraction - bar.n)

        yield show


def _save(source: Source, response: ImagesResponse, directory: Path) -> list[Path]:
    saved = save_images(response, directory, name=source.name)
    sheet = ContactSheet(source.png, response).save(directory, name=source.name)
    return [*(image.path for image in saved), sheet]


def _engines(arguments: argparse.Namespace) -> None:
    names = engine_names()
    width = max(map(len, names), default=0)
    for name in names:
        try:
            about = (getdoc(load_engine_class(name)) or "").partition("\n")[0]
            print(f"{name:{width}}  usable      {about}")
        except ImageVariationError as error:
            print(f"{name:{width}}  not usable  {error}")
