"""`image-variation serve`: the endpoint, on this machine."""

import argparse
import logging
import os
import sys
from collections.abc import Callable

from langchain_image_variation.cli.options import add_engine, engine_options, extra
from langchain_image_variation.engines.loading import load_engine

__all__ = ["add_serve"]


def add_serve(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `serve`."""
    add = parser.add_argument
    add_engine(parser)
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
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another name by which clients may call the server while it has no key, besides"
        " localhost, the address of --host and the host of --public-url; repeatable",
    )
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
    with extra("server"):
        from langchain_image_variation.server import create_app
        from langchain_image_variation.server.log import JSONLines
        from langchain_image_variation.server.run import run_app
    engine = load_engine(arguments.engine, **engine_options(arguments))
    app = create_app(
        engine,
        api_key=arguments.api_key,
        url_ttl=arguments.url_ttl,
        public_url=arguments.public_url,
        hosts=arguments.allowed_host,
        workers=arguments.workers,
        queue=arguments.queue,
        store_dir=arguments.store_dir,
        upload_timeout=arguments.upload_timeout,
    )
    _log_to_stderr(
        JSONLines() if arguments.json_log else logging.Formatter("%(asctime)s %(message)s")
    )
    run_app(app, host=arguments.host, port=arguments.port, ready=_say_where(arguments.api_key))


def _log_to_stderr(form: logging.Formatter) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(form)
    for name, level in (
        ("langchain_image_variation.server", logging.INFO),
        ("uvicorn", logging.WARNING),
        ("asyncio", logging.WARNING),
    ):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False


def _say_where(api_key: str | None) -> Callable[[str], None]:
    """Return what says, once the server listens, how to use it."""

    def say(address: str) -> None:
        # One listens at all addresses of the machine, and calls none of them so.
        here = address.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
        everywhere, address = here != address, here
        print(f"Image variations at {address}/v1. Ctrl-C ends. In a client's environment, set:")
        print(f"  OPENAI_BASE_URL={address}/v1")
        print(f"  OPENAI_API_BASE={address}/v1 (SDK 0.28 for Python)")
        print(f"  OPENAI_API_KEY={'the key' if api_key else 'any-text'}")
        if everywhere and api_key is None:
            print(
                "On other machines, put this machine's address in its place, or its name, if you "
                "allowed it with --allowed-host."
            )
        elif everywhere:
            print("On other machines, put this machine's name or address in its place.")
        if api_key is None:
            print("There is no key: anyone who reaches this address may use it.")
        sys.stdout.flush()

    return say
