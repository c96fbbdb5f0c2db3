"""`image-variation serve`: runs the server on this machine."""

import argparse
import logging
import os
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from langchain_image_variation.cli.download import download_model
from langchain_image_variation.cli.engine_options import (
    add_engine,
    collect_engine_options,
    resolve_auto,
)
from langchain_image_variation.cli.extras import translate_import_errors
from langchain_image_variation.cli.messages import name_path
from langchain_image_variation.cli.options import number, whole_number
from langchain_image_variation.engines.loading import load_engine
from langchain_image_variation.exceptions import OutputError

__all__ = ["add_serve"]

_EXAMPLES = """\
examples:
  image-variation serve
  image-variation serve --upstream https://api.openai.com/v1
  image-variation serve --cors-origin http://localhost:5173
"""


def add_serve(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `serve`."""
    parser.description = """\
Answer POST /v1/images/variations at http://127.0.0.1:8000/v1. Programs need this address as
OPENAI_BASE_URL."""
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--json-log", action="store_true", help="write log lines as JSON")
    _add_address(parser)
    _add_access(parser)
    _add_upstream(parser)
    _add_store(parser)
    _add_requests(parser)
    add_engine(parser)
    parser.set_defaults(run=_run_serve, parser=parser)


def _add_address(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("address").add_argument
    add("--host", default="127.0.0.1", help="the address to listen on (default: 127.0.0.1)")
    add(
        "--port",
        type=whole_number,
        default=8000,
        help="the port; 0 picks a free one (default: 8000)",
    )
    add(
        "--public-url",
        metavar="URL",
        help="the public address of the server, if it is behind a proxy",
    )


def _add_access(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("access").add_argument
    add(
        "--api-key",
        metavar="KEY",
        default=os.environ.get("IMAGE_VARIATION_API_KEY") or None,
        help="the key that clients must send; prefer the environment variable "
        "IMAGE_VARIATION_API_KEY, which process lists do not show",
    )
    add(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another name of the server that clients may use while it has no key, besides "
        "localhost, the address of --host and the host of --public-url; repeatable",
    )
    add(
        "--cors-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="an origin whose web pages may call the server from a browser, such as "
        "http://localhost:5173, or '*' in quotes for all, which needs a key; repeatable",
    )


def _add_upstream(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("upstream").add_argument
    add(
        "--upstream",
        metavar="URL",
        help="the URL of a server that gets every request below /v1 that this one does not answer "
        "itself: what its clients set as OPENAI_BASE_URL, which usually ends in /v1, such as "
        "https://api.openai.com/v1",
    )
    add(
        "--upstream-api-key",
        metavar="KEY",
        default=os.environ.get("IMAGE_VARIATION_UPSTREAM_API_KEY") or None,
        help="the key for the upstream, if --api-key is set. Prefer the environment variable "
        "IMAGE_VARIATION_UPSTREAM_API_KEY: other users can see options in the process list",
    )
    add(
        "--upstream-timeout",
        type=number,
        default=600.0,
        metavar="SECONDS",
        help="how many seconds the upstream may be silent (default: 600)",
    )


def _add_store(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("store").add_argument
    add(
        "--store-dir",
        metavar="DIR",
        help="the folder for images that are returned as URLs, and for remembered answers "
        "(default: in the user's cache)",
    )
    add(
        "--store-url",
        metavar="URL",
        help="a URL such as s3://bucket/prefix to keep them at instead, for servers on several "
        "machines; needs the same IMAGE_VARIATION_SIGNING_KEY in the environment of each",
    )
    add(
        "--store-max-bytes",
        type=whole_number,
        default=1024**3,
        metavar="BYTES",
        help="maximum total size of the store's files; the oldest are removed (default: 1 GiB)",
    )
    add(
        "--url-ttl",
        type=number,
        default=3600.0,
        metavar="SECONDS",
        help="how many seconds the URL of a result is valid (default: 3600)",
    )


def _add_requests(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("requests").add_argument
    add(
        "--accept-field",
        action="append",
        default=[],
        metavar="NAME",
        help="a field that requests may have besides those of the vendor's API and seed, such as "
        "strength; repeatable",
    )
    add(
        "--workers",
        type=whole_number,
        metavar="N",
        help="concurrent engine calls, in threads of one process (default: the number of cores, or "
        "1 for an engine that computes on a GPU)",
    )
    add(
        "--queue",
        type=whole_number,
        default=16,
        metavar="N",
        help="maximum number of waiting requests (default: 16)",
    )
    add(
        "--upload-timeout",
        type=number,
        default=60.0,
        metavar="SECONDS",
        help="how many seconds a client may take to send a request (default: 60)",
    )
    add(
        "--max-pixels",
        type=whole_number,
        default=67_108_864,
        metavar="N",
        help="maximum pixels of an uploaded image (default: 67108864, or 8192x8192)",
    )
    add(
        "--total-pixels",
        type=whole_number,
        metavar="N",
        help="maximum total pixels of the images that the engine works on at the same time "
        "(default: --max-pixels, or 4 million per worker if that is more)",
    )
    add(
        "--total-upload-bytes",
        type=whole_number,
        default=268_435_456,
        metavar="BYTES",
        help="maximum total size of the uploads in progress (default: 268435456, or 256 MiB)",
    )


def _run_serve(arguments: argparse.Namespace) -> None:
    # Imported here because the server is an extra.
    with translate_import_errors("server", [arguments.engine]):
        from langchain_image_variation.server import create_app
        from langchain_image_variation.server.log import JSONLines
        from langchain_image_variation.server.run import run_app
    if note := resolve_auto(arguments):
        print(note, file=sys.stderr)
    engine = load_engine(arguments.engine, **_server_options(arguments))
    # Before the server listens, because no request should wait for gigabytes.
    download_model(engine)
    try:
        app = create_app(
            engine,
            api_key=arguments.api_key,
            url_ttl=arguments.url_ttl,
            public_url=arguments.public_url,
            hosts=arguments.allowed_host,
            cors_origins=arguments.cors_origin,
            workers=arguments.workers,
            queue=arguments.queue,
            store_dir=arguments.store_dir,
            store_url=arguments.store_url,
            signing_key=_signing_key(arguments),
            store_max_bytes=arguments.store_max_bytes,
            upload_timeout=arguments.upload_timeout,
            max_pixels=arguments.max_pixels,
            total_pixels=arguments.total_pixels,
            total_upload_bytes=arguments.total_upload_bytes,
            accept_fields=arguments.accept_field,
            upstream=arguments.upstream,
            upstream_api_key=arguments.upstream_api_key,
            upstream_timeout=arguments.upstream_timeout,
        )
    except OutputError as error:
        # Only the store causes this error.
        error.message = name_path(error.message, arguments.store_dir or "")
        raise
    _log_to_stderr(
        JSONLines() if arguments.json_log else logging.Formatter("%(asctime)s %(message)s")
    )
    ready = _address_printer(arguments.api_key, arguments.upstream)
    run_app(app, host=arguments.host, port=arguments.port, ready=ready)


def _server_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the engine's options. The model is always one: requests may name another."""
    options = collect_engine_options(arguments)
    return options if arguments.model is None else {"model": arguments.model, **options}


def _signing_key(arguments: argparse.Namespace) -> str | None:
    """Return the key in the environment. A folder needs none, so it is ignored there."""
    if arguments.store_url is None:
        return None
    return os.environ.get("IMAGE_VARIATION_SIGNING_KEY") or None


def _log_to_stderr(formatter: logging.Formatter) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    for name, level in (
        ("langchain_image_variation.server", logging.INFO),
        ("uvicorn", logging.WARNING),
        ("asyncio", logging.WARNING),
    ):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False


def _address_printer(api_key: str | None, upstream: str | None) -> Callable[[str], None]:
    """Return a function that prints how to use the server at an address."""

    def print_address(address: str) -> None:
        # A server can listen on these addresses, but a client cannot call them.
        local_address = address.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
        is_public, address = local_address != address, local_address
        print(f"Serving image variations at {address}/v1. Press Ctrl-C to stop. Clients need:")
        print(f"  OPENAI_BASE_URL={address}/v1")
        print(f"  OPENAI_API_BASE={address}/v1 (SDK 0.28 for Python)")
        clients_key = "the key" if api_key else "the upstream's key" if upstream else "any-text"
        print(f"  OPENAI_API_KEY={clients_key}")
        if upstream is not None:
            print(f"Requests below {address}/v1 that it does not answer itself go to {upstream}.")
            if not urlsplit(upstream).path.strip("/"):
                usual_url = f"{upstream.rstrip('/')}/v1"
                print(
                    f"That URL has no path. If clients of the upstream use {usual_url}, pass "
                    f"--upstream {usual_url}."
                )
        if is_public and api_key is None:
            print(
                "On other machines, use this machine's address instead, or a name that you allow "
                "with --allowed-host."
            )
        elif is_public:
            print("On other machines, use this machine's name or address instead.")
        if api_key is None:
            print("No key is set: anyone who can reach this address can use it.")
        sys.stdout.flush()

    return print_address
