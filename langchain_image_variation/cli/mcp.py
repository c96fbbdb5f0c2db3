"""`image-variation mcp`: runs a server of the Model Context Protocol on this machine."""

import argparse
import contextlib
import logging
import os
import secrets
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from langchain_image_variation.cli.engine_options import (
    add_engine,
    collect_engine_options,
    resolve_auto,
    split_engines,
)
from langchain_image_variation.cli.extras import translate_import_errors
from langchain_image_variation.cli.messages import name_path
from langchain_image_variation.cli.options import add_fit, whole_number
from langchain_image_variation.contract import MAX_N
from langchain_image_variation.engines import VariationEngine
from langchain_image_variation.engines.loading import engine_name, load_engine
from langchain_image_variation.engines.traits import engine_models, plan_download
from langchain_image_variation.exceptions import (
    EngineConnectionError,
    InvalidRequestError,
    ModelNotDownloadedError,
    SourceError,
)
from langchain_image_variation.numbers import check_whole_number

if TYPE_CHECKING:
    from langchain_image_variation.mcp.server import ImageVariationMCPServer

__all__ = ["add_mcp"]

_EXPOSABLE = ("fit", "name", "prompt")
_THUMBNAILS = ("none", "sheet", "each")
_DEFAULT_PORT = 8001
_TOKEN_VARIABLE = "IMAGE_VARIATION_MCP_TOKEN"
_LAST_SECONDS = 10.0
"""How long the server may take to end calls that cost money, once its host has left."""


def add_mcp(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mcp`."""
    parser.description = (
        "Run a server of the Model Context Protocol (MCP), for hosts such as Claude Desktop and VS "
        "Code. The host starts this command, and talks to it by standard input and output."
    )
    add = parser.add_argument
    add_engine(parser, several=True)
    add(
        "--root-dir",
        metavar="DIR",
        default=".",
        help="the folder with the images that a model may use (default: the working directory)",
    )
    add(
        "-o",
        "--output-dir",
        metavar="DIR",
        default="variations",
        help="where results are saved: a folder inside --root-dir, relative to it, or a URL such "
        "as s3://bucket/prefix (default: variations)",
    )
    add_fit(parser)
    add(
        "--max-n",
        type=whole_number,
        default=MAX_N,
        metavar="N",
        help=f"maximum number of variations per call, 1 to {MAX_N} (default: {MAX_N})",
    )
    add(
        "--expose",
        action="append",
        choices=_EXPOSABLE,
        default=[],
        metavar="ARGUMENT",
        help="a further argument for the model: name, fit or, if the engine takes one, prompt; "
        "repeatable",
    )
    add(
        "--max-results",
        type=whole_number,
        metavar="N",
        help="maximum number of results to keep; the oldest are deleted (default: all are kept)",
    )
    add(
        "--thumbnail",
        choices=_THUMBNAILS,
        default="sheet",
        help="the images of an answer: none, one contact sheet, or one small image for each "
        "variation (default: sheet)",
    )
    add(
        "--max-thumbnail-base64",
        type=whole_number,
        metavar="N",
        help="maximum length of the images of an answer, in characters of base64; they shrink "
        "until they fit; at least 25000 (default: 80000)",
    )
    add(
        "--http",
        action="store_true",
        help=f"serve over HTTP on this machine instead, to clients that send the token in the "
        f"environment variable {_TOKEN_VARIABLE}; without it, a random one is printed",
    )
    add(
        "--port",
        type=whole_number,
        help=f"with --http: the port; 0 picks a free one (default: {_DEFAULT_PORT})",
    )
    parser.set_defaults(run=_run_mcp, parser=parser)


def _run_mcp(arguments: argparse.Namespace) -> None:
    if arguments.port is not None and not arguments.http:
        raise InvalidRequestError("--port needs --http.", param="port")
    # Nothing but the protocol may go to standard output.
    with contextlib.redirect_stdout(sys.stderr):
        server = _make_server(arguments)
    if arguments.http:
        _serve_http(server, _DEFAULT_PORT if arguments.port is None else arguments.port)
    else:
        _serve_host(server)


def _make_server(arguments: argparse.Namespace) -> "ImageVariationMCPServer":
    # Before the library sets up the log, in a format for terminals.
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s"
    )
    # Imported here because the server is an extra.
    with translate_import_errors("mcp", arguments.engine or ()):
        from langchain_image_variation.mcp.server import ImageVariationMCPServer
    from langchain_image_variation.agents.settings import ToolSettings

    max_results = arguments.max_results
    if max_results is not None:
        max_results = check_whole_number("max_results", max_results, 1)
    default, *others = [_load_engine(each) for each in split_engines(arguments)]
    settings = ToolSettings(
        engine=default,
        root_dir=arguments.root_dir,
        output_dir=arguments.output_dir,
        fit=arguments.fit,
        max_n=check_whole_number("max_n", arguments.max_n, 1, MAX_N),
        max_results=max_results,
        expose=frozenset(arguments.expose),
    )
    limit = arguments.max_thumbnail_base64
    try:
        return ImageVariationMCPServer(
            settings,
            engines=others,
            thumbnail=arguments.thumbnail,
            **({} if limit is None else {"max_thumbnail_base64": limit}),
        )
    except SourceError as error:
        error.message = name_path(error.message, arguments.root_dir)
        raise


def _load_engine(arguments: argparse.Namespace) -> VariationEngine:
    """Return an engine that is ready to use.

    Raises:
        ModelNotDownloadedError: If its model must be downloaded. A host waits for an answer within
            seconds, and shows no progress.
    """
    if note := resolve_auto(arguments):
        print(note, file=sys.stderr)
    options = collect_engine_options(arguments)
    if arguments.model is not None:
        options["model"] = arguments.model
    engine = load_engine(arguments.engine, **options)
    model = _missing_model(engine)
    if model is not None:
        # Imported here because few engines load a model.
        from langchain_image_variation.engines.diffusers.hub_errors import pull_command

        raise ModelNotDownloadedError(
            f"The model {model!r} is not on this machine.",
            hint=f"Run: {pull_command(model, arguments.revision)}",
        )
    return engine


def _missing_model(engine: VariationEngine) -> str | None:
    """Return the name of the model that an engine must download. None if it needs none."""
    try:
        download = plan_download(engine)
    except EngineConnectionError:
        # The engine asks the Hub only if files are missing. The last of its models is its own.
        models = engine_models(engine)
        return models[-1] if models else engine_name(engine)
    return download.model if download is not None and download.missing_bytes else None


def _serve_host(server: "ImageVariationMCPServer") -> NoReturn:
    """Serve the host that started this process, until it closes a stream or a user interrupts.

    The process exits without waiting for threads. Only calls that cost money get a few seconds to
    cancel their jobs and to save the finished images. The library's thread blocks until the next
    line of input, and an engine's thread cannot be stopped. Files are written atomically, so none
    is incomplete.

    Raises:
        InvalidRequestError: If the process was started without one of the two streams.
    """
    if sys.__stdin__ is None or sys.__stdout__ is None:
        raise InvalidRequestError(
            "Standard input or output is closed, but a host talks to this command by both. Start "
            "it from a host, or pass --http to serve over HTTP."
        )
    # Imported here because other commands need no event loop.
    import asyncio

    import anyio

    async def serve() -> NoReturn:
        # Event loops on Windows have no signal handlers. Elsewhere, without one, a signal that
        # arrives just before the loop waits is handled only at the next message.
        with contextlib.suppress(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, _interrupt)
        try:
            await server.run_stdio_async()
        except* OSError:
            # The host no longer reads.
            pass
        _finish_paid_calls(server)
        os._exit(0)

    signal.signal(signal.SIGINT, _interrupt)
    anyio.run(serve)
    raise AssertionError("unreachable")


def _finish_paid_calls(server: "ImageVariationMCPServer") -> None:
    """Wait for calls that cost money, although hosts and supervisors may already send SIGTERM.

    If this takes too long for them, SIGKILL follows. Ctrl-C ends the process at once.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, _interrupt)
    server.wait_for_hosted_engines(_LAST_SECONDS)


def _interrupt(*_: object) -> NoReturn:
    os.write(2, b"image-variation: interrupted; no file is half-written.\n")
    os._exit(130)


def _serve_http(server: "ImageVariationMCPServer", port: int) -> None:
    # Imported here because other servers need no HTTP.
    from langchain_image_variation.mcp.http import MIN_TOKEN_LENGTH, run_http

    token = os.environ.get(_TOKEN_VARIABLE)

    def print_address(url: str) -> None:
        print(f"Serving image variations by MCP at {url}. Press Ctrl-C to stop.", file=sys.stderr)
        if token is None:
            print(f"Clients must send: Authorization: Bearer {new_token}", file=sys.stderr)

    new_token = secrets.token_urlsafe(32)
    is_interrupted = False
    try:
        run_http(
            server, port=port, token=new_token if token is None else token, ready=print_address
        )
    except InvalidRequestError as error:
        if error.param == "token":
            error.message = (
                f"{_TOKEN_VARIABLE} must have at least {MIN_TOKEN_LENGTH} visible ASCII "
                "characters. Unset it to get a random token."
            )
        raise
    except KeyboardInterrupt:
        is_interrupted = True
    _finish_paid_calls(server)
    if is_interrupted:
        _interrupt()
    # As with a host, an engine that does not stop must not keep the process.
    sys.stderr.flush()
    os._exit(0)
